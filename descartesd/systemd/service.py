"""This process as systemd's service, from its environment; outside of systemd all of it is idle."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, MutableMapping

from descartesd.config.schema import Server
from descartesd.errors import DescartesError
from descartesd.systemd.credentials import KeyFiles, key_files, make_missing
from descartesd.systemd.inherited import Inherited
from descartesd.systemd.notify import NOTIFY_SOCKET, Notifier
from descartesd.systemd.watchdog import watchdog_s

log = logging.getLogger(__name__)

_LAST_FAILURE = "last-failure"
_STARTING_S = 60.0


class Service:
    """What systemd has given this process, and the way to tell it how things are."""

    def __init__(
        self,
        notifier: Notifier | None = None,
        *,
        inherited: Inherited | None = None,
        watchdog_s: float | None = None,
        runtime_dir: str | None = None,
    ) -> None:
        self.notifier = notifier or Notifier()
        self.inherited = inherited or Inherited()
        self.watchdog_s = watchdog_s
        # systemd forgets why the last start failed when it tries the next: this file does not.
        self._because = ""
        self._last_failure = runtime_dir and os.path.join(runtime_dir, _LAST_FAILURE)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Service:
        """Take over what systemd has put into the environment, and take it out of there.

        Raises StartupRefusedError when the socket it names cannot be used.
        """
        notifier = Notifier.from_environment()
        environ.pop(NOTIFY_SOCKET, None)
        return cls(
            notifier,
            inherited=Inherited.from_environment(environ),
            watchdog_s=watchdog_s(environ),
            runtime_dir=environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None,
        )

    @property
    def is_managed(self) -> bool:
        """Whether systemd runs this process and waits to be told of it."""
        return self.notifier.is_there

    def key_files(self, server: Server) -> KeyFiles:
        """Where the server's keys are; a service, or who is told so, makes those that are missing.

        Raises the error of the family that fits the kernel's.
        """
        files = key_files(server)
        if self.is_managed or server.make_missing_keys:
            os.makedirs(server.trust_dir, mode=0o700, exist_ok=True)
            make_missing(files)
        return files

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tell that this starts, and if it ends by an error, why."""
        last = self._read_failure()
        self._because = f"; the last start failed: {last}" if last else ""
        self.begins()
        try:
            yield
        except DescartesError as exc:
            self._fail(exc.message, exc)
            raise
        except Exception as exc:
            self._fail(f"{type(exc).__name__}: {exc}", exc)
            raise
        finally:
            for passed in self.inherited.rest():
                passed.socket.close()
            self.notifier.close()

    def begins(self, step: str | None = None) -> None:
        """The start has got to this step, which may take a while."""
        told = "starting" if step is None else f"starting: {step}"
        self.notifier.starting(f"{told}{self._because}", _STARTING_S)

    def ready(self, sentence: str) -> None:
        """It serves; what has failed before is forgotten."""
        if self._last_failure is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._last_failure)
        self.notifier.ready(sentence)

    def _fail(self, sentence: str, exc: BaseException) -> None:
        self.notifier.failed(sentence, _errno(exc))
        if self._last_failure is None or not self.is_managed:
            return
        try:
            with open(self._last_failure, "w", encoding="utf-8", errors="replace") as file:
                file.write(sentence)
        except OSError as unwritten:
            log.warning("systemd.failure_not_kept", extra={"cause": str(unwritten)})

    def _read_failure(self) -> str | None:
        if self._last_failure is None:
            return None
        try:
            with open(self._last_failure, encoding="utf-8", errors="replace") as file:
                return file.read(1000)
        except OSError:
            return None


def _errno(exc: BaseException | None) -> int | None:
    """The number of the error of the kernel that is behind an error, if one is."""
    while exc is not None:
        if isinstance(exc, OSError):
            return exc.errno
        exc = exc.__cause__
    return None
