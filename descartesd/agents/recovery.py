"""Makes registry and keeper agree again after a crash of either."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from descartesd.agents.book import Book
from descartesd.agents.facts import Facts
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ALIVE
from descartesd.agents.record import Agent
from descartesd.keeper.protocol import Status, read_last_words
from descartesd.wire.agent import AgentSpec, Reason

log = logging.getLogger(__name__)

# Over every pid there can be (proc(5), pid_max): such an agent is found by its id alone.
_NO_PID = 1 << 31
# Whose it was nobody knows any more, nor what its program was.
_ADMINISTRATOR = "uid:0"
_FORGOTTEN = "/forgotten-with-the-registry"


async def reconcile(
    book: Book, facts: Facts, keeper: KeeperLink, lost_because: Reason
) -> list[str]:
    """Adopt what the keeper has, take over what ended meanwhile, and call the rest lost.

    What is left of lost agents is ended first, and after a keeper what it had let stay. Returns
    the ids of agents the keeper has and the registry does not know.
    """
    # Looked at before the keeper is asked: what is started from here on is none of this.
    seen = [(agent, agent.state, agent.attempt) for agent in book.roster]
    statuses = {status["agent_id"]: status for status in await keeper.statuses()}
    words = {} if _is_known(book, keeper) else _last_words(keeper)
    found: list[tuple[Agent, Status]] = []
    missing = []
    for agent, state, attempt in seen:
        status = statuses.pop(agent.id, None) or words.get(agent.id)
        # What has changed meanwhile is newer than the list, but for an end on either side.
        is_same = (agent.state, agent.attempt) == (state, attempt)
        if status is not None and status["attempt"] == agent.attempt:
            if is_same or agent.is_over or status["state"] == "exited":
                found.append((agent, status))
        elif is_same:
            missing.append(agent)
    facts.adopt(found)
    for agent in missing:
        if agent.is_over and not agent.eof:
            facts.close_output(agent)
    _resolve_doubts(book, keeper, missing)
    lost = [agent for agent in missing if _was_started(book, agent)]
    if lost_because == "keeper_lost":
        await _end_leftovers(keeper, lost, _kept(book, keeper, missing))
    _meet(book, keeper)
    for agent in lost:
        if _was_started(book, agent):
            facts.lose(agent, lost_because)
    _take_in(book, facts, statuses)
    return await _unknown(book, keeper, statuses.values())


def _take_in(book: Book, facts: Facts, statuses: dict[str, Status]) -> None:
    """Have records again of what the keeper has, after those were lost with the registry.

    Of what they were started with nobody knows more than the name.
    """
    if book.registry.begun_anew is None:
        return
    taken: list[tuple[Agent, Status]] = []
    for agent_id, status in statuses.items():
        if book.roster.get(agent_id) is None:
            agent = _recovered(book, status)
            book.add(agent)
            taken.append((agent, status))
            log.error("agent.taken_in", extra={"agent": agent_id, "pid": status["pid"]})
    facts.adopt(taken)


def _recovered(book: Book, status: Status) -> Agent:
    name, agent_id = status["name"], status["agent_id"]
    return Agent(
        id=agent_id,
        name=name if name not in book.roster.names else f"{name[:42]}-{agent_id}",
        owner=_ADMINISTRATOR,
        spec=AgentSpec(command=[_FORGOTTEN], labels={"recovered": "keeper"}),
        created_at=status["started_at"],
        state="running",
        attempt=status["attempt"],
        pid=status["pid"],
        start_time=status["start_time"],
        started_at=status["started_at"],
    )


def _last_words(keeper: KeeperLink) -> dict[str, Status]:
    """How the agents have ended that the keeper before this one ended in order."""
    try:
        return {status["agent_id"]: status for status in read_last_words(keeper.output_dir)}
    except (OSError, LookupError, TypeError, ValueError) as exc:
        log.error("keeper.last_words_unreadable", extra={"cause": str(exc)})  # noqa: TRY400  # once
        return {}


def _resolve_doubts(book: Book, keeper: KeeperLink, missing: Iterable[Agent]) -> None:
    """Have what a former daemon may have had started wait on, or count as asked for.

    The keeper that was to be asked knows what it has started; of a dead one nobody does.
    """
    for agent in missing:
        if agent.id not in book.doubtful or not agent.is_in_doubt:
            continue
        if _is_known(book, keeper):
            agent.asked_attempt = 0
            book.put(agent)
        else:
            book.queue.asked.add(agent.id)
    book.doubtful.clear()


def _was_started(book: Book, agent: Agent) -> bool:
    """Whether the keeper had it, or was asked for it."""
    return agent.state in ALIVE or agent.id in book.queue.asked


def _kept(book: Book, keeper: KeeperLink, missing: Iterable[Agent]) -> list[str]:
    """Ids of agents, removed ones too, that a dead keeper may have let leave something."""
    if _is_known(book, keeper):
        return []
    return [*book.kept, *(agent.id for agent in missing if agent.spec.on_exit == "keep")]


def _is_known(book: Book, keeper: KeeperLink) -> bool:
    return book.registry.meta("keeper") == keeper.identity


def _meet(book: Book, keeper: KeeperLink) -> None:
    if not _is_known(book, keeper):
        book.set_kept([])
        book.registry.set_meta("keeper", keeper.identity or "")


async def _end_leftovers(keeper: KeeperLink, lost: Iterable[Agent], kept: Iterable[str]) -> None:
    # An id alone for what ended long ago: another session may have had its pid since.
    left = [{"agent_id": agent_id, "pid": _NO_PID, "start_time": 0} for agent_id in kept]
    left += [
        {"agent_id": agent.id, "pid": agent.pid or _NO_PID, "start_time": agent.start_time or 0}
        for agent in lost
    ]
    if not left:
        return
    reply = await keeper.request("recover", agents=left)
    log.warning("keeper.leftovers_ended", extra={"count": reply["ended"]})


async def _unknown(book: Book, keeper: KeeperLink, statuses: Iterable[Status]) -> list[str]:
    unknown = []
    for status in statuses:
        agent_id = status["agent_id"]
        if book.roster.get(agent_id) is not None:
            continue
        if status["state"] == "exited":
            await keeper.request("forget", agent_id=agent_id)
        else:
            log.error("keeper.unknown_agent", extra={"agent": agent_id, "pid": status["pid"]})
            unknown.append(agent_id)
    return unknown
