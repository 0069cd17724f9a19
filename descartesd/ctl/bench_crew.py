"""The clients of `bench`, each a process, as the one that gives them work sees them."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import msgspec
from msgspec import Struct

from descartesd.ctl.bench_client import Job, Report, Setup
from descartesd.errors import ERRORS, AbortedError, DescartesError, InternalError

_PROGRAM = [sys.executable, "-m", "descartesd.ctl.bench_client"]
_END_S = 5.0
_READ_BYTES = 65_536


class Tally(Struct):
    """What a job came to: latencies of the requests that went well, and the first error."""

    latencies_us: list[int] = []
    failed: int = 0
    error: DescartesError | None = None


@contextmanager
def crew(size: int, setup: Setup) -> Iterator[Crew]:
    """Run so many clients for the time of a block.

    Raises the error of one that cannot reach the server, AbortedError when one ends on its own.
    """
    members: list[_Member] = []
    try:
        for _ in range(size):
            members.append(_Member(setup))  # noqa: PERF401  # those started so far must be ended
        found = Crew(members)
        found.meet()
        yield found
    finally:
        for member in members:
            member.begin_end()
        until = time.monotonic() + _END_S
        for member in members:
            member.end(until)


class Crew:
    """Clients that share a job."""

    def __init__(self, members: list[_Member]) -> None:
        self._members = members

    def meet(self) -> None:
        """Wait until all are connected; raises the error of one that cannot be."""
        tally = self._gather(lambda _: None)
        if tally.error is not None:
            raise tally.error

    def run(self, job: Job, on_done: Callable[[int], None]) -> Tally:
        """Share a job out and wait; `on_done` is told now and then how much of it is done.

        Raises AbortedError when a client ends on its own.
        """
        each, more = divmod(job.count, len(self._members))
        for number, member in enumerate(self._members):
            member.send(msgspec.structs.replace(job, count=each + (number < more)))
        return self._gather(on_done)

    def _gather(self, on_done: Callable[[int], None]) -> Tally:
        tally = Tally()
        with selectors.DefaultSelector() as selector:
            for member in self._members:
                selector.register(member.output, selectors.EVENT_READ, member)
            while selector.get_map():
                for key, _ in selector.select():
                    for report in key.data.reports():
                        _add(tally, report)
                        if report.is_last:
                            selector.unregister(key.fileobj)
                on_done(len(tally.latencies_us))
        return tally


class _Member:
    def __init__(self, setup: Setup) -> None:
        # In a session of its own: Ctrl-C is for the one that gives the work.
        self._process = subprocess.Popen(
            _PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._rest = b""
        self.output = _pipe(self._process.stdout)
        self._input = _pipe(self._process.stdin)
        self.send(setup)

    def send(self, message: Struct) -> None:
        try:
            self._input.write(msgspec.json.encode(message) + b"\n")
            self._input.flush()
        except BrokenPipeError:
            raise _ended() from None

    def reports(self) -> list[Report]:
        """What it has said since, once there is something to read."""
        data = os.read(self.output.fileno(), _READ_BYTES)
        if not data:
            raise _ended()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [msgspec.json.decode(line, type=Report) for line in lines]

    def begin_end(self) -> None:
        """Let it finish the request under way, so that what that starts can be found."""
        self._process.terminate()
        self._input.close()

    def end(self, until: float) -> None:
        """Wait for its end, and kill it when it takes too long."""
        try:
            self._process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.output.close()


def _add(tally: Tally, report: Report) -> None:
    tally.latencies_us += report.latencies_us
    if report.error is not None:
        told = report.error
        tally.failed += 1
        kind = ERRORS.get(told.code, InternalError)
        tally.error = tally.error or kind(told.message, hint=told.hint, retryable=told.retryable)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise InternalError("a client of the benchmark has no pipe")
    return stream


def _ended() -> AbortedError:
    return AbortedError("a client of the benchmark has ended on its own")
