"""Where to begin for somebody who has just come: with the last screenful of an agent's output."""

from __future__ import annotations

import re
from typing import NamedTuple

from descartesd.agents.output import OutputFiles
from descartesd.wire.agent import StreamName
from descartesd.wire.terminal import Modes

TAIL_BYTES = 64 * 1024
_LINES = 24
# How far back the modes of a terminal are looked for.
_SEARCHED_BYTES = 8 * 1024 * 1024
_BLOCK = 64 * 1024
# The screen is cleared, the terminal is reset, or the other screen is shown.
_FRESH_SCREEN = re.compile(
    rb"(?:\x1b\[(?:1;1)?H)?\x1b\[2J"
    rb"|\x1b\[(?:1;1)?H\x1b\[0?J"
    rb"|\x1bc"
    rb"|\x1b\[\?(?:47|1047|1049)[hl]"
)
_PLAUSIBLE_START = re.compile(rb"[\n\x1b]")


class Start(NamedTuple):
    """An offset in a stream, and the sequences that put a terminal in the modes it has there."""

    offset: int
    modes: bytes = b""


def last_screen(tail: bytes) -> int:
    """Where in the last bytes written to a terminal its present screen begins.

    0 when nothing in them tells; then a screen of theirs may lack what came before.
    """
    start = 0
    for found in _FRESH_SCREEN.finditer(tail):
        start = found.start()
    return start


def screen_start(files: OutputFiles, agent_id: str, kept: int) -> Start:
    """Where the last screenful of a terminal begins, at most 64 KiB before its end.

    `kept` bytes are kept of the stream. Raises OSError on a failing disk.
    """
    total = files.totals(agent_id, "stdout", kept=kept).total
    piece = files.read(agent_id, "stdout", max(total - TAIL_BYTES, 0), TAIL_BYTES)
    start = last_screen(piece.data)
    if start == 0 and piece.offset > 0:
        # Not in the middle of a character or of a sequence.
        found = _PLAUSIBLE_START.search(piece.data)
        start = found.start() if found else 0
    offset = piece.offset + start
    return Start(offset, _modes_at(files, agent_id, offset))


def _modes_at(files: OutputFiles, agent_id: str, offset: int) -> bytes:
    modes = Modes()
    at = max(offset - _SEARCHED_BYTES, 0)
    while at < offset:
        piece = files.read(agent_id, "stdout", at, min(_BLOCK, offset - at))
        if not piece.data:
            break
        modes.feed(piece.data[: offset - piece.offset])
        at = piece.offset + len(piece.data)
    return modes.enter()


def lines_start(files: OutputFiles, agent_id: str, stream: StreamName, kept: int) -> Start:
    """Where the last lines of a stream begin, at most 64 KiB before its end.

    `kept` bytes are kept of it. Raises OSError on a failing disk.
    """
    total = files.totals(agent_id, stream, kept=kept).total
    return Start(max(files.tail_offset(agent_id, stream, _LINES), total - TAIL_BYTES, 0))
