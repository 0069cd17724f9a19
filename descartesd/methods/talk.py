"""The methods that speak to agents started as a chat."""

from __future__ import annotations

from collections.abc import Mapping

from descartesd.agents.book import Book
from descartesd.agents.talk import Talk
from descartesd.methods.call import Call, Handler
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

    async def say(self, _call: Call, params: AgentSay) -> Done:
        await self._talk.say(self._book.roster.resolve(params.id), params.text)
        return Done()

    async def answer(self, _call: Call, params: AgentAnswer) -> Done:
        agent = self._book.roster.resolve(params.id)
        await self._talk.answer(agent, params)
        return Done()
