"""One client of `bench`, in a process of its own: so it is the server that is measured.

It reads lines of JSON, a Setup and then a Job at a time, and answers with lines that are Reports.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from threading import Event
from typing import Literal

import msgspec
from msgspec import UNSET, Struct

from descartesd.client import Client
from descartesd.errors import DescartesError
from descartesd.wire.agent import AgentSpec
from descartesd.wire.envelope import WireError

LABEL = "bench"
_REPORT_EVERY_S = 0.1
# A wait has no time-out of its own, and `true` should take none.
_PATIENCE_S = 30.0


class Setup(Struct):
    """Which server, how long to wait for it (seconds), and the label's value of every agent."""

    profile: str | None
    timeout_s: float | None
    mark: str


class Job(Struct):
    """So many requests, one after the other: `get` an agent, or `spawn` one and see it end."""

    verb: Literal["get", "spawn"]
    count: int
    agent_id: str = ""


class Report(Struct):
    """What became of the requests since the last report; `is_last` ends a job, or the setup.

    Latencies are microseconds. A client stops at its first error.
    """

    latencies_us: list[int] = []
    error: WireError | None = None
    is_last: bool = False


def main() -> None:
    """Do jobs until stdin ends; SIGTERM ends a job after the request under way."""
    stopping = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    lines = sys.stdin.buffer
    setup = msgspec.json.decode(lines.readline(), type=Setup)
    timeout_s = UNSET if setup.timeout_s is None else setup.timeout_s
    with Client(setup.profile, timeout_s=timeout_s) as client:
        try:
            client.server.hello()
        except DescartesError as error:
            _tell(Report(error=_as_wire(error), is_last=True))
            return
        _tell(Report(is_last=True))
        for line in lines:
            for report in _work(client, setup, msgspec.json.decode(line, type=Job), stopping):
                _tell(report)


def _work(client: Client, setup: Setup, job: Job, stopping: Event) -> Iterator[Report]:
    report, told_at = Report(), time.monotonic()
    for _ in range(job.count):
        if stopping.is_set():
            break
        try:
            seconds = _get(client, job) if job.verb == "get" else _spawn(client, setup)
        except DescartesError as error:
            report.error = _as_wire(error)
            break
        report.latencies_us.append(round(seconds * 1e6))
        if time.monotonic() - told_at > _REPORT_EVERY_S:
            yield report
            report, told_at = Report(), time.monotonic()
    report.is_last = True
    yield report


def _get(client: Client, job: Job) -> float:
    began = time.perf_counter()
    client.agent.get(id=job.agent_id)
    return time.perf_counter() - began


def _spawn(client: Client, setup: Setup) -> float:
    """Seconds until it runs; that it has ended is waited for as well."""
    began = time.perf_counter()
    agent = client.agent.spawn(spec=AgentSpec(command=["true"], labels={LABEL: setup.mark}))
    seconds = time.perf_counter() - began
    client.agent.wait(id=agent.id, deadline_s=setup.timeout_s or _PATIENCE_S)
    return seconds


def _as_wire(error: DescartesError) -> WireError:
    return WireError(
        code=error.code, message=error.message, retryable=error.retryable, hint=error.hint
    )


def _tell(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
