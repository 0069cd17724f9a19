"""Sees to it that a keeper runs: finds the one there is, or starts one where it is the server's."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import BinaryIO

from descartesd.agents.keeper_link import KeeperLink
from descartesd.errors import AbortedError, StartupRefusedError, UnavailableError

log = logging.getLogger(__name__)

_START_S = 10.0
_ANSWER_S = 2.0
_POLL_S = 0.005
# Without a daemon and without an agent a keeper has nothing to keep.
_IDLE_EXIT_S = 60


@dataclass(frozen=True, slots=True)
class KeeperPaths:
    """Where the keeper's socket, the agents' output and the keeper's own messages are.

    `open_files` is the soft limit agents are started with, which need not be this process's own.
    One that `is_own` is started and ended by the server; any other is a service of its own.
    """

    socket: str
    output_dir: str
    log: str
    open_files: int
    is_own: bool = True


class KeeperGuard:
    """Starts the keeper and connects the link to it."""

    def __init__(self, link: KeeperLink, paths: KeeperPaths) -> None:
        self._link = link
        self._paths = paths
        self._process: subprocess.Popen[bytes] | None = None
        self._cause: str | None = None

    async def ensure(self) -> None:
        """Connect to the keeper, started for this if there is none.

        Raises StartupRefusedError when none can be started, UnavailableError when there is none to
        connect to or the one there is does not answer, UnimplementedError when it is of another
        generation.
        """
        if await self._try_connect():
            return
        if not self._paths.is_own:
            raise UnavailableError(
                f"no keeper answers at '{self._paths.socket}': {self._cause}",
                hint="see what it says: systemctl status descartes-keeper",
            )
        process = self._start()
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if await self._try_connect():
                return
            if process.poll() is not None:
                break
            await asyncio.sleep(_POLL_S)
        raise StartupRefusedError(
            f"the keeper did not start: {self._last_words() or 'it said nothing'}",
            hint=f"see its messages in {self._paths.log}",
        )

    async def _try_connect(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._link.connect(self._paths.socket)
        except (TimeoutError, BlockingIOError) as exc:
            # It may only be slow, and its agents live: nobody shoots it.
            raise UnavailableError(
                "the keeper does not answer",
                hint=self._where_it_speaks(),
            ) from exc
        except (OSError, AbortedError) as exc:
            self._cause = exc.strerror if isinstance(exc, OSError) else str(exc)
            log.debug("keeper.not_there", extra={"cause": self._cause})
            return False
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            self._process.poll()
        arguments = ["--socket", self._paths.socket, "--output-dir", self._paths.output_dir]
        with self._messages() as messages:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "descartesd.keeper", *arguments,
                    "--idle-exit", str(_IDLE_EXIT_S), "--open-files", str(self._paths.open_files),
                ],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                cwd="/",
                env=_clean_environment(),
                start_new_session=True,
            )  # fmt: skip
        log.info("keeper.started", extra={"keeper_pid": self._process.pid})
        return self._process

    def _messages(self) -> BinaryIO:
        try:
            return open(self._paths.log, "ab", opener=_private)
        except OSError as exc:
            raise UnavailableError(
                f"the keeper cannot be started: '{self._paths.log}': {exc.strerror}",
                hint="see that the disk of server.state_dir has room and can be written",
            ) from exc

    def _where_it_speaks(self) -> str:
        if self._paths.is_own:
            return f"see its messages in {self._paths.log}"
        return "see its messages with: journalctl -u descartes-keeper"

    def _last_words(self) -> str:
        with open(self._paths.log, "rb") as messages:
            messages.seek(max(0, os.fstat(messages.fileno()).st_size - 500))
            return messages.read().decode("utf-8", "replace").strip().rpartition("\n")[2]

    async def gone(self, timeout_s: float) -> None:
        """Wait until the keeper this guard started has exited, and reap it."""
        deadline = time.monotonic() + timeout_s
        while self._process is not None and self._process.poll() is None:
            if time.monotonic() > deadline:
                log.error("keeper.still_there", extra={"keeper_pid": self._process.pid})
                return
            await asyncio.sleep(_POLL_S)


def _clean_environment() -> dict[str, str]:
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return {"LANG": "C.UTF-8", **environment}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
