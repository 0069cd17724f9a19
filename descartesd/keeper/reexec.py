"""The operation `reexec`: this process turns into the program that is installed now.

It stays the same process, so agents stay its children, and systemd's main process is what it was.
First that program looks, as a child, whether it can take over; then everything that is half done is
brought to its end; then the state is written and execve(2) called. Whatever fails before leaves
this program as it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from descartesd.errors import (
    ConflictError,
    DescartesError,
    InternalError,
    UnavailableError,
    UnimplementedError,
)
from descartesd.keeper import handover, kernel, signals
from descartesd.keeper.handover import Parts
from descartesd.keeper.loop import Steps, boottime
from descartesd.keeper.server import Request
from descartesd.keeper.signals import Signals

CHECK_LIMIT_S: Final = 60.0
# A pause that does not succeed takes five.
QUIET_LIMIT_S: Final = 6.0
CHECK_OPTION: Final = "--check-state"
_POLL_MIN_S: Final = 0.001
_POLL_MAX_S: Final = 0.05
_SAID_MAX: Final = 500


class Program(NamedTuple):
    """How this process was started, and is to be started anew."""

    executable: str
    argv: list[str]
    environ: dict[str, str]

    def __repr__(self) -> str:
        return f"Program({self.executable!r}, {self.argv!r})"

    @classmethod
    def of_this_process(cls) -> Program:
        """To be called before anything is taken out of the environment."""
        environ = {key: os.environ[key] for key in os.environ if key != handover.VARIABLE}
        return cls(sys.executable, list(sys.orig_argv), environ)


class Reexecution:
    """Carries it out, one at a time."""

    def __init__(
        self, parts: Parts, program: Program, signals: Signals, tell: Callable[[str], None]
    ) -> None:
        self._parts = parts
        self._program = program
        self._signals = signals
        self._tell = tell
        self._is_under_way = False
        # What the next program is told beside the state of the parts.
        self.about: dict[str, Any] = {}

    def reexec(self, request: Request) -> None:
        """`{}` -> what `hello` answers, by the new program; requests wait meanwhile.

        Refused, nothing being changed, with `unimplemented` where the installed program cannot take
        over, `unavailable` where something takes too long to wait for, or the keeper ends.
        """
        if self._is_under_way:
            raise ConflictError("the keeper is re-executing itself already")
        self._is_under_way = True
        self._parts.loop.start(self._reexecuting(request), is_resumable=True)

    def _reexecuting(self, request: Request) -> Steps:
        try:
            yield from self._checking()
            yield from self._coming_to_rest()
            self._execute(request)
        except DescartesError as error:
            self._parts.server.release()
            request.fail(error)
        finally:
            self._is_under_way = False

    def _checking(self) -> Steps:
        """Have the installed program try the state, with descriptors that do nothing."""
        said = os.memfd_create("said", os.MFD_CLOEXEC)
        try:
            process = self._begin_check(said)
            self._parts.agents.helpers.add(process.pid)
            deadline = boottime() + CHECK_LIMIT_S
            delay_s = _POLL_MIN_S
            while process.poll() is None:
                if boottime() > deadline:
                    process.kill()
                yield delay_s
                delay_s = min(2 * delay_s, _POLL_MAX_S)
            self._parts.agents.helpers.discard(process.pid)
            if process.returncode != 0:
                words = os.pread(said, _SAID_MAX, max(0, os.fstat(said).st_size - _SAID_MAX))
                line = words.decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise _cannot(line or f"it ended with status {process.returncode}")
        finally:
            os.close(said)

    def _begin_check(self, said: int) -> subprocess.Popen[bytes]:
        state = -1
        try:
            state = handover.write(self._state(None))
            return subprocess.Popen(
                [*self._program.argv, CHECK_OPTION, str(state)],
                executable=self._program.executable,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # What systemd was told of this process must not come from another.
                env=dict(os.environ),
                pass_fds=[state],
            )
        except OSError as exc:
            raise _cannot(str(exc)) from exc
        finally:
            if state >= 0:
                os.close(state)

    def _coming_to_rest(self) -> Steps:
        """Begin nothing more, and wait for what is half done."""
        self._refuse_end()
        self._parts.server.hold()
        deadline = boottime() + QUIET_LIMIT_S
        delay_s = _POLL_MIN_S
        while self._parts.loop.unfinished:
            if boottime() > deadline:
                raise UnavailableError(
                    f"what is being done to agents has not ended within {QUIET_LIMIT_S:g} s:"
                    " the keeper goes on as it is",
                    hint="it is tried again by itself",
                )
            yield delay_s
            delay_s = min(2 * delay_s, _POLL_MAX_S)
        self._parts.spawning.tell_started()

    def _refuse_end(self) -> None:
        if self._parts.spawning.is_refusing or self._signals.is_end_asked_for:
            raise UnavailableError("the keeper is shutting down")

    def _execute(self, request: Request) -> None:
        """Turn into the new program; returns by an exception only."""
        kept: list[int] = []
        try:
            # They wait for the new program, which finds out itself whom a SIGCHLD was about.
            signals.block_all()
            self._refuse_end()
            state = self._state(request)
            kept = [handover.write(state), *handover.descriptors(state)]
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            kernel.raise_ambient_capabilities()
            _set_inheritable(kept, inheritable=True)
            os.execve(  # noqa: S606 - its own command line
                self._program.executable,
                self._program.argv,
                {**self._program.environ, handover.VARIABLE: str(kept[0])},
            )
        except OSError as exc:
            self._go_back(kept)
            raise InternalError(f"the keeper cannot re-execute itself: {exc}") from exc
        finally:
            signals.unblock_all()

    def _go_back(self, kept: list[int]) -> None:
        kernel.clear_ambient_capabilities()
        _set_inheritable(kept, inheritable=False)
        if kept:
            os.close(kept[0])
            self._tell("READY=1")

    def _state(self, request: Request | None) -> dict[str, Any]:
        asked = None if request is None or not request.is_wanted else request.request_id
        return {**handover.collect(self._parts), **self.about, "request": asked}


def _set_inheritable(descriptors: Iterable[int], *, inheritable: bool) -> None:
    for each in descriptors:
        os.set_inheritable(each, inheritable)


def _cannot(why: str) -> UnimplementedError:
    return UnimplementedError(
        f"the installed keeper cannot take over from the one that runs: {why}",
        hint="the one that runs goes on; a restart of it ends its agents",
    )
