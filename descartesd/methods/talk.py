"""The methods that speak to agents started as a chat."""

from __future__ import annotations

from collections.abc import Mapping

from descartesd.agents.book import Book
from descartesd.agents.talk import Talk
from descartesd.methods.call import Call, Handler
from descartesd.methods.sight import find
from descartesd.wire.server import Done
from descartesd.wire.talk import AgentAnswer, AgentSay


class TalkMethods:
    """One function per method."""

    def __init__(self, book: Book, talk: Talk) -> None:
        self._book = book
        self._talk = talk

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"agent.say": self.say, "agent.answer": self.answer}

    async def say(self, call: Call, params: AgentSay) -> Done:
        agent = find(self._book.roster, call.caller, params.id, "agent.say")
        await self._talk.say(agent, params.text)
        return Done()

    async def answer(self, call: Call, params: AgentAnswer) -> Done:
        agent = find(self._book.roster, call.caller, params.id, "agent.answer")
        await self._talk.answer(agent, params)
        return Done()
