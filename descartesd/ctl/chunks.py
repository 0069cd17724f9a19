"""Chunks of output on their way to the printer: split, with whole characters, or with times."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from msgspec.structs import replace

from descartesd.wire.agent import OutputChunk, StreamName


def pieces(chunks: Iterable[OutputChunk]) -> Iterator[OutputChunk]:
    """The same data, a chunk for each mark."""
    for chunk in chunks:
        if not chunk.marks:
            yield chunk
        ends = [*(mark.at for mark in chunk.marks[1:]), len(chunk.data)]
        for mark, end in zip(chunk.marks, ends, strict=False):
            data = chunk.data[mark.at : end]
            yield replace(
                chunk,
                data=data,
                offset=mark.offset,
                next_offset=mark.offset + len(data),
                eof=chunk.eof and end == len(chunk.data),
                time=mark.time,
                marks=[],
            )


def whole_characters(chunks: Iterable[OutputChunk]) -> Iterator[OutputChunk]:
    """The same data; a UTF-8 character cut by the end of a chunk is moved into the next one."""
    held: dict[StreamName, OutputChunk] = {}
    for chunk in chunks:
        data, offset = chunk.data, chunk.offset
        before = held.pop(chunk.stream, None)
        if before is not None and before.next_offset == offset:
            data, offset = before.data + data, before.offset
        elif before is not None:
            yield before
        whole = len(data) if chunk.eof else codecs.utf_8_decode(data, "replace", False)[1]
        cut = offset + whole
        if whole < len(data):
            held[chunk.stream] = replace(chunk, data=data[whole:], offset=cut)
        if whole:
            yield replace(chunk, data=data[:whole], offset=offset, next_offset=cut)
    yield from held.values()


def with_times(chunks: Iterable[OutputChunk]) -> Iterator[OutputChunk]:
    """Pieces as people read them: each line begins with its time, as RFC 3339 writes it."""
    unfinished: set[StreamName] = set()
    for chunk in chunks:
        if not chunk.data:
            continue
        prefix = f"{_time(chunk.time)} ".encode()
        data = chunk.data[:-1].replace(b"\n", b"\n" + prefix) + chunk.data[-1:]
        yield replace(chunk, data=data if chunk.stream in unfinished else prefix + data)
        if data.endswith(b"\n"):
            unfinished.discard(chunk.stream)
        else:
            unfinished.add(chunk.stream)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
