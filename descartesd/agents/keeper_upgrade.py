"""Brings the keeper that runs to the version that is installed, where it may and can be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from descartesd.agents.keeper_link import KeeperLink
from descartesd.errors import AbortedError, DescartesError, UnavailableError
from descartesd.keeper import protocol

log = logging.getLogger(__name__)

# What a keeper takes at most: a minute for the look before, seconds to come to rest, and the start.
_PATIENCE_S: Final = 90.0
_RETRY_MIN_S: Final = 5.0
_RETRY_MAX_S: Final = 300.0

Record = Callable[[dict[str, Any]], None]


class KeeperUpgrade:
    """Asks a keeper of another build than the installed one to re-execute itself.

    Agents and clients do not notice. A keeper that refuses, or that cannot, goes on as it is.
    """

    def __init__(self, link: KeeperLink, *, is_allowed: bool) -> None:
        self._link = link
        self._is_allowed = is_allowed
        self._ready = asyncio.Event()
        self.installed_version = protocol.VERSION
        self.installed_build = protocol.build()
        # Told what was done, once it is.
        self.record: Record = _unheard
        # Why the keeper that runs is another than the installed one and stays so.
        self.stays_because: str | None = None

    @property
    def is_another(self) -> bool:
        """Whether a keeper answers that is not the installed one."""
        return self._link.connected and self._link.build != self.installed_build

    def keeper_is_ready(self) -> None:
        """There is a keeper, and the records agree with it."""
        self.stays_because = None
        self._ready.set()

    async def run(self) -> None:
        """See to every keeper that is brought up."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            await self._see_to_it()

    async def _see_to_it(self) -> None:
        delay_s = _RETRY_MIN_S
        while self.is_another and not self._ready.is_set():
            why = self._hindrance()
            if why is not None:
                self._stay(why)
                return
            try:
                await self._reexecute()
            except UnavailableError as exc:
                self._stay(f"{exc.message}; it is asked again")
            except AbortedError:
                # It is gone: whoever minds it brings up another, and tells.
                return
            except DescartesError as exc:
                self._stay(exc.message)
                return
            else:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_MAX_S)

    def _hindrance(self) -> str | None:
        if not self._is_allowed:
            return "server.keeper_upgrade is 'stay'"
        if not self._link.has("reexec"):
            return f"a keeper of version {self._link.version} cannot re-execute itself"
        return None

    async def _reexecute(self) -> None:
        before = {"version": self._link.version, "build": self._link.build}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._link.reexecute()
        except TimeoutError:
            raise UnavailableError("the keeper has not re-executed itself yet") from None
        after = {"version": self._link.version, "build": self._link.build}
        self.stays_because = None
        log.info("keeper.upgraded", extra={"before": before, "after": after})
        self.record({"from": before, "to": after})
        if self.is_another:
            self._stay("the program it was started from is not the one installed with this server")

    def _stay(self, why: str) -> None:
        if why != self.stays_because:
            log.warning(
                "keeper.stays",
                extra={
                    "version": self._link.version,
                    "installed": self.installed_version,
                    "cause": why,
                },
            )
        self.stays_because = why


def _unheard(_what: dict[str, Any]) -> None:
    return None
