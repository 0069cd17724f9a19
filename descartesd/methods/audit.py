"""The methods about the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from descartesd.agents.roster import Roster
from descartesd.errors import DescartesError, UnavailableError
from descartesd.methods.call import Call, Handler
from descartesd.observe.audit import AuditLog
from descartesd.wire import audit as wire
from descartesd.wire.server import Empty


class AuditMethods:
    """One function per method; files are read beside the loop, 1 MiB a turn."""

    def __init__(self, log: AuditLog, roster: Roster) -> None:
        self._log = log
        self._roster = roster
        # One at a time: each reads all there is.
        self._verifying = asyncio.Lock()

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"audit.show": self.show, "audit.verify": self.verify}

    async def show(self, _call: Call, params: wire.AuditShow) -> wire.AuditPage:
        try:
            search = self._log.search(params, self._targets(params.target))
            try:
                while await asyncio.to_thread(search.step):
                    continue
            finally:
                search.close()
        except OSError as exc:
            raise _unreadable(exc) from exc
        return search.page()

    def _targets(self, word: str | None) -> frozenset[str]:
        """The word itself, and the id of the agent that has this name."""
        if word is None:
            return frozenset()
        try:
            return frozenset({word, self._roster.resolve(word).id})
        except DescartesError:
            return frozenset({word})

    async def verify(self, _call: Call, _params: Empty) -> wire.AuditReport:
        async with self._verifying:
            try:
                check = self._log.check()
                try:
                    while await asyncio.to_thread(check.step):
                        continue
                finally:
                    check.close()
            except OSError as exc:
                raise _unreadable(exc) from exc
        return check.report()


def _unreadable(exc: OSError) -> UnavailableError:
    return UnavailableError(
        f"the audit log cannot be read: '{exc.filename}': {exc.strerror}",
        hint="see that nobody has moved the files in server.state_dir",
    )
