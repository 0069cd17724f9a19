"""Speaks to agents whose backend has a chat: says something, answers, asks for a pause."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

import msgspec

from descartesd.agents.backend import LINE_BYTES, Backends, Resume, said, start
from descartesd.agents.book import Book
from descartesd.agents.dialects.report import Question
from descartesd.agents.fleet import Fleet
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.monitor import Monitor
from descartesd.agents.record import Agent
from descartesd.agents.spec import refuse_nul
from descartesd.api import Backend
from descartesd.errors import ConflictError, InvalidArgumentError, UnimplementedError
from descartesd.template import fill_json, fits_json
from descartesd.wire.talk import AgentAnswer, AgentRespawn

_NO = "The operator does not allow this."


class Talk:
    """Writes whole lines to the stdin of chats, and hears what becomes of them."""

    def __init__(self, book: Book, fleet: Fleet, keeper: KeeperLink, monitor: Monitor) -> None:
        self._book = book
        self._fleet = fleet
        self._keeper = keeper
        self._monitor = monitor
        self._starts = fleet.starts
        # Agents and their questions, while an answer is on its way.
        self._answering: set[tuple[str, str]] = set()

    async def say(self, agent: Agent, text: str) -> None:
        """Say something; one that was asked to pause goes on with it.

        Raises ConflictError for an agent that is no chat or has ended, InvalidArgumentError for a
        text that is too long, WouldBlockError while the agent does not read.
        """
        line = said(self._chat(agent), text)
        self._fleet.check(agent, "say")
        await self._write(agent, line)
        if agent.state == "paused" and agent.pause_mode == "cooperative":
            await self._fleet.resume(agent)

    async def answer(self, agent: Agent, params: AgentAnswer) -> None:
        """Answer the question that is meant, without a name the oldest the agent waits with.

        Raises ConflictError where it has ended, does not wait with it or the answer is too long,
        InvalidArgumentError for a message beside `allow`, UnimplementedError where its backend
        takes no such answer, WouldBlockError.
        """
        if params.message is not None and params.decision == "allow":
            raise InvalidArgumentError("message: it says why not, and the answer is 'allow'")
        backend = self._chat(agent)
        self._fleet.check(agent, "answer")
        question = self._question(agent, params.question)
        line = _answer(agent, backend, question, params)
        answering = agent.id, question.id
        if answering in self._answering:
            raise ConflictError(f"agent '{agent.name}' is being answered by another")
        self._answering.add(answering)
        try:
            await self._write(agent, line)
            self._monitor.answered(*answering)
        finally:
            self._answering.discard(answering)

    async def pause(self, agent: Agent) -> None:
        """Ask the agent to end its turn; returns when it has said that it did.

        Raises ConflictError, UnimplementedError where its backend has no such request, and
        WouldBlockError.
        """
        self._fleet.check(agent, "pause")
        backend = self._starts.backends.get(agent.spec.backend)
        if backend is None or not agent.spec.chat or not backend.interrupt:
            raise UnimplementedError(
                f"agent '{agent.name}' cannot be asked to pause: {_why_not(agent, backend)}",
                hint="pause it without --cooperative (mode 'freeze')",
            )
        if agent.state == "paused":
            return
        self._book.registry.check()
        values = {"id": secrets.token_hex(8)}
        fits = partial(fits_json, backend.interrupted or "", values)
        acknowledged = self._monitor.line(agent, fits)
        attempt = agent.attempt
        try:
            await self._write(agent, fill_json(backend.interrupt, values))
            await asyncio.wait([acknowledged])
        finally:
            acknowledged.cancel()
        await self._note_pause(agent, attempt)

    async def _note_pause(self, agent: Agent, attempt: int) -> None:
        if agent.attempt == attempt and agent.state == "paused":
            # By another who asked as well.
            return
        if agent.attempt != attempt or agent.state != "running":
            raise ConflictError(f"agent '{agent.name}' has ended before it paused")
        agent.paused_at, agent.pause_mode = self._book.clock(), "cooperative"
        self._book.set_state(agent, "paused")
        self._book.put(agent)
        await self._book.settled()

    def _question(self, agent: Agent, wanted: str | None) -> Question:
        waiting = self._monitor.questions(agent.id)
        if not waiting:
            raise ConflictError(
                f"agent '{agent.name}' waits for no answer",
                hint=f"see what it does with: descartesctl agent show {agent.name}",
            )
        if wanted is None:
            return waiting[0]
        for question in waiting:
            if question.id == wanted:
                return question
        raise ConflictError(
            f"agent '{agent.name}' does not wait with question '{wanted}', but with"
            f" '{waiting[0].id}'",
            hint=f"see what it asks with: descartesctl agent show {agent.name}",
        )

    def _chat(self, agent: Agent) -> Backend:
        if agent.spec.backend is None or not agent.spec.chat:
            raise ConflictError(
                f"agent '{agent.name}' is no chat: nothing can be said to it",
                hint="spawn it with a backend and --chat; 'agent write' writes to any open stdin",
            )
        return self._starts.backends.find(agent.spec.backend)

    async def _write(self, agent: Agent, line: bytes) -> None:
        await self._keeper.request("write", agent_id=agent.id, data=line, whole=True)


def conversation(agent: Agent, params: AgentRespawn, backends: Backends) -> Resume | None:
    """The conversation a respawn goes on with, None for one from the beginning.

    Raises ConflictError where none is known, InvalidArgumentError, UnimplementedError where the
    backend cannot.
    """
    if not params.resume:
        if params.task is not None:
            raise InvalidArgumentError("task: it can be given anew with resume only")
        return None
    backend = backends.get(agent.spec.backend)
    if backend is None:
        raise ConflictError(
            f"agent '{agent.name}' runs no backend: there is no conversation to go on with",
            hint="respawn it without --resume",
        )
    session = None if agent.report is None else agent.report.session_id
    if session is None:
        raise ConflictError(
            f"agent '{agent.name}' has told of no conversation to go on with",
            hint="respawn it without --resume",
        )
    resume = Resume(session=session, task=params.task)
    if params.task is not None:
        refuse_nul("task", params.task)
    start(agent.spec, backend, resume)
    return resume


def _answer(agent: Agent, backend: Backend, question: Question, params: AgentAnswer) -> bytes:
    template = backend.allow if params.decision == "allow" else backend.deny
    if template is None:
        raise UnimplementedError(f"backend '{backend.name}' takes no answer '{params.decision}'")
    values = {
        "id": question.id,
        "input": msgspec.Raw(question.input),
        "message": params.message or _NO,
    }
    line = fill_json(template, values)
    if len(line) > LINE_BYTES:
        raise ConflictError(
            f"the answer has {len(line)} bytes with what the tool is to be used for, more than"
            f" {LINE_BYTES}",
            hint=f"answer it with: descartesctl agent answer {agent.name} deny",
        )
    return line


def _why_not(agent: Agent, backend: Backend | None) -> str:
    if backend is None:
        return "it runs a command"
    return "it is no chat" if not agent.spec.chat else f"backend '{backend.name}' has no such line"
