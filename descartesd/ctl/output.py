"""The only printer of descartesctl: stdout is data, stderr everything else.

One command prints one thing: for people, as ids (`--quiet`), or as the wire's own type (`--json`).
A stream is one flushed line per item. An error is a line and a hint, or one JSON line, on stderr.
What comes from an agent or a server is escaped in tables and sentences and verbatim in logs.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from descartesd.ctl import said
from descartesd.ctl.text import (
    AGENT_HEADERS,
    agent_details,
    agent_row,
    coloured,
    pairs,
    safe,
    table,
)
from descartesd.errors import DescartesError, InvalidArgumentError, ResourceExhaustedError

if TYPE_CHECKING:
    from descartesd.wire.agent import AgentInfo, OutputChunk, StreamName

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output:
    """Where a command prints to, and in which of the three manners."""

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self._stdout = _Stream("standard output", stdout or sys.stdout)
        # Without it nothing can be told, and everything else can be done.
        self._stderr = _Stream("standard error", stderr or sys.stderr or _nowhere())
        self._read_to: dict[StreamName, int] = {}

    def agent(self, agent: AgentInfo) -> None:
        """Print one agent after a verb."""
        self.document(agent, ids=[agent.id], lines=self._agent_lines([agent]))

    def agent_in_full(self, agent: AgentInfo) -> None:
        """Print everything about one agent."""
        self.document(agent, ids=[agent.id], lines=pairs(agent_details(agent, time.time())))

    def agents(self, agents: Sequence[AgentInfo]) -> None:
        """Print a listing."""
        self.document(
            {"agents": agents, "total": len(agents)},
            ids=[agent.id for agent in agents],
            lines=self._agent_lines(agents),
        )

    def results(
        self, ids: Sequence[str], results: Sequence[AgentInfo | DescartesError | None]
    ) -> None:
        """Print what a verb did to each of several agents; refusals go to stderr as well.

        None stands for a success without the agent.
        """
        items = list(zip(ids, results, strict=True))
        refused = [(name, each) for name, each in items if isinstance(each, DescartesError)]
        done = [(name, each) for name, each in items if not isinstance(each, DescartesError)]
        agents = [agent for _, agent in done if agent is not None]
        self.document(
            {
                "results": [result_item(*pair) for pair in items],
                "succeeded": len(done),
                "failed": len(refused),
            },
            ids=[name if agent is None else agent.id for name, agent in done],
            lines=self._agent_lines(agents) if agents or not refused else [],
        )
        if len(agents) < len(done):
            self.note(f"{len(done) - len(agents)} more succeeded, not shown")
        if not self.json:
            for name, error in refused:
                self._complain(error, f"{name}: ")

    def document(self, value: Any, *, ids: Iterable[str], lines: Iterable[str]) -> None:
        """Print one value: its JSON, or its ids, or its lines for people."""
        if self.json:
            self.json_line(value)
            return
        for line in ids if self.quiet else lines:
            self._stdout.line(line)

    def item(self, value: Any, *, id: str, line: str) -> None:  # noqa: A002  # as in `ids`
        """Print one item of a stream and flush it: its JSON, or its id, or its line for people."""
        self.document(value, ids=[id], lines=[line])
        self._stdout.flush()

    def note(self, text: str) -> None:
        """Tell people something on stderr that is neither data nor an error."""
        if not self.json:
            self._stderr.line(safe(text))
            self._stderr.flush()

    def json_line(self, value: Any) -> None:
        """Print a value as one line of JSON and flush it."""
        import msgspec  # noqa: PLC0415  # start-up time

        from descartesd.wire.printable import printable  # noqa: PLC0415

        self.raw(printable(msgspec.json.encode(complete(value))) + b"\n")

    def chunk(self, chunk: OutputChunk) -> None:
        """Print what an agent wrote: verbatim to the stream of the same name, or as JSON."""
        self._tell_what_is_gone(chunk)
        if not chunk.data:
            return
        if self.json:
            self.json_line(chunk_item(chunk))
        else:
            self.raw(chunk.data, to_stderr=chunk.stream == "stderr")

    def raw(self, data: bytes, *, to_stderr: bool = False) -> None:
        """Print bytes as they are and flush them."""
        target = self._stderr if to_stderr else self._stdout
        target.write(data)
        target.flush()

    def text(self, text: str) -> None:
        """Print text of our own."""
        self._stdout.line(text)

    def progress(self, text: str) -> None:
        """Print how far a long command is: for people only, at once."""
        if not self.json and not self.quiet:
            self._stdout.line(text)
            self._stdout.flush()

    def error(self, error: DescartesError) -> None:
        """Print an error and its hint on stderr."""
        if self.json:
            import json  # noqa: PLC0415  # errors happen before msgspec is there

            told = json.dumps({"error": error_item(error)}, default=str)
            # The one character json leaves as it is though no one can see it.
            self._stderr.line(told.replace("\x7f", "\\u007f"))
        else:
            self._complain(error)
        self._stderr.flush()

    def flush(self) -> None:
        """Hand everything to the kernel; raises BrokenPipeError when nobody reads any more."""
        self._stdout.flush()
        self._stderr.flush()

    def _tell_what_is_gone(self, chunk: OutputChunk) -> None:
        read_to = self._read_to.get(chunk.stream, 0)
        if chunk.offset == chunk.truncated_before > read_to and not self.quiet:
            gone = chunk.offset - read_to
            which = f"{gone} further bytes" if read_to else f"the first {gone} bytes"
            self.note(f"{which} of {chunk.stream} were dropped: more was written than is kept")
        self._read_to[chunk.stream] = chunk.next_offset

    def _complain(self, error: DescartesError, prefix: str = "") -> None:
        # One of a configuration has a line for each fault; none of them can pass for a hint.
        first, *more = map(safe, (prefix + error.message).split("\n"))
        self._stderr.line("\n       ".join([f"error: {first}", *more]))
        if error.hint:
            # A hint may hold lines to copy, as those of a configuration.
            lines = (safe(line) for line in error.hint.split("\n"))
            self._stderr.line("hint: " + "\n".join(lines))

    def _agent_lines(self, agents: Sequence[AgentInfo]) -> list[str]:
        now = time.time()
        extra = said.columns(agents)
        header, *lines = table(
            (*AGENT_HEADERS[:-1], *extra, AGENT_HEADERS[-1]),
            [
                _with(agent_row(agent, now), [tell(agent) for tell in extra.values()])
                for agent in agents
            ],
        )
        if self._has_colour():
            lines = [coloured(line, agent.state) for line, agent in zip(lines, agents, strict=True)]
        return [header, *lines]

    def _has_colour(self) -> bool:
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return self._stdout.isatty()


def _with(row: tuple[str, ...], cells: Sequence[str]) -> tuple[str, ...]:
    return (*row[:-1], *cells, row[-1])


class _Stream:
    """A standard stream; where it cannot be written the error names it.

    BrokenPipeError alone is raised as it is. A stream is None when its descriptor was closed by
    whoever started us.
    """

    def __init__(self, name: str, stream: TextIO | None) -> None:
        self._name = name
        self._is_closed = stream is None
        # Otherwise what is opened next would have its descriptor.
        self._stream = stream or _nowhere()

    def line(self, text: str) -> None:
        self.write(f"{text}\n".encode(self._stream.encoding, "backslashreplace"))

    def write(self, data: bytes) -> None:
        if self._is_closed:
            raise InvalidArgumentError(f"{self._name} is closed", hint="redirect it to a file")
        try:
            self._stream.buffer.write(data)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise self._named(exc) from exc

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise self._named(exc) from exc

    def isatty(self) -> bool:
        return self._stream.isatty()

    def _named(self, exc: OSError) -> DescartesError:
        kind = ResourceExhaustedError if exc.errno in _FULL else InvalidArgumentError
        return kind(f"{self._name} cannot be written: {exc.strerror}")


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # lives as long as the process


def complete(value: Any) -> Any:
    """A value of the wire with every field, as people's scripts expect it: none is left out."""
    if isinstance(value, dict):
        return {key: complete(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [complete(each) for each in value]
    if fields := getattr(value, "__struct_fields__", None):
        return {name: complete(getattr(value, name)) for name in fields}
    return value


def result_item(name: str, result: AgentInfo | DescartesError | None) -> dict[str, Any]:
    """One entry of `results`; `id` is the word the agent was asked for by."""
    if isinstance(result, DescartesError):
        return {"id": name, "ok": False, "error": error_item(result)}
    return {"id": name, "ok": True, "agent": result}


def error_item(error: DescartesError) -> dict[str, Any]:
    """An error as it travels, without the keys it does not use."""
    item: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
    }
    if error.hint is not None:
        item["hint"] = error.hint
    if error.details is not None:
        item["details"] = error.details
    return item


def chunk_item(chunk: OutputChunk) -> dict[str, Any]:
    """A piece of output as JSON holds it: text, or base64 where the bytes are not UTF-8."""
    item: dict[str, Any] = {"stream": chunk.stream, "offset": chunk.offset}
    try:
        item["data"] = chunk.data.decode()
    except UnicodeDecodeError:
        # JSON has no bytes; msgspec encodes them as base64.
        item["data_base64"] = chunk.data
    return {**item, "time": chunk.time}
