"""From the bytes an agent writes to what they say: whole lines, each taken into its report."""

from __future__ import annotations

from collections.abc import Iterator

from descartesd.agents.dialects import DIALECTS, seed
from descartesd.agents.dialects.line import decode
from descartesd.agents.dialects.report import Report

LINE_MAX = 8 * 1024 * 1024


class Splitter:
    """Cuts a stream into lines, without their newline; one over `limit` bytes is passed over.

    All that lies before `offset` has become lines, and the next bytes to feed are at `position`.
    With `is_skipping` the line at `offset` has begun before, and nothing of it is wanted.
    """

    def __init__(
        self, offset: int = 0, *, is_skipping: bool = False, limit: int = LINE_MAX
    ) -> None:
        self.offset = self.position = offset
        self.is_skipping = is_skipping
        self._limit = limit
        self._begun = bytearray()
        # Lines found longer than the limit.
        self.too_long = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; every line that ends in them, as the iterator gets there.

        It must have come to its end before more is fed.
        """
        begin = self.position
        self.position += len(data)
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            line = self._end(data[at:end])
            at = end + 1
            self.offset = begin + at
            if line is not None:
                yield line
        self._add(data[at:])
        if self.is_skipping:
            self.offset = self.position

    def rest(self) -> bytes | None:
        """The line the stream ends in without a newline."""
        self.offset = self.position
        return self._end(b"")

    def jump(self, offset: int) -> None:
        """What lies before `offset` is gone: go on there, behind the next newline."""
        self._begun.clear()
        self.is_skipping = True
        self.offset = self.position = offset

    def _add(self, data: bytes) -> None:
        if self.is_skipping:
            return
        if len(self._begun) + len(data) > self._limit:
            self.too_long += 1
            self.is_skipping = True
            self._begun.clear()
        else:
            self._begun += data

    def _end(self, data: bytes) -> bytes | None:
        self._add(data)
        if self.is_skipping:
            self.is_skipping = False
            return None
        line = bytes(self._begun)
        self._begun.clear()
        return line


def take(line: bytes, report: Report, dialect: str, own: tuple[str, ...]) -> None:
    """Take a line into the report; one that is no event is counted.

    `own` are the words the agent goes by: an event that names another agent is not its own.
    """
    text = line.strip()
    if not text:
        return
    # Asked first: most of what is no event is plain text.
    event = decode(text) if text.startswith(b"{") else None
    if event is None:
        report.ignored += 1
    elif seed.has(event) and event.agent_id is not None and event.agent_id not in own:
        report.foreign += 1
    elif DIALECTS[dialect](event, report):
        report.read += 1
    else:
        report.ignored += 1
