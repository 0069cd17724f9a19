"""What an agent finds on its stdin without anybody writing to it, and lines taken whole."""

from __future__ import annotations

import os

import pytest

from descartesd.errors import WouldBlockError
from descartesd.keeper.loop import Loop
from descartesd.keeper.stdin import BUFFER_BYTES, Stdin, Writers, deliver
from descartesd.keeper.stdio import open_pipes


def test_data_is_a_file_that_ends_and_can_be_opened_anew() -> None:
    data = os.urandom(300_000)
    stdio = open_pipes(-1, has_stdin=False, stdin_data=data)
    try:
        assert stdio.ours.stdin == -1
        with open(f"/proc/self/fd/{stdio.theirs[0]}", "rb") as again:
            assert again.read() == data
        assert os.read(stdio.theirs[0], 1 << 20) == data
        assert os.read(stdio.theirs[0], 1) == b""
    finally:
        stdio.ours.close()
        stdio.close_theirs()


def test_a_whole_line_is_taken_whole_or_not_at_all() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    loop = Loop()
    stdin = Stdin(loop, writer)
    try:
        # The pipe takes a part of it.
        line = b"x" * (BUFFER_BYTES // 2)
        for _ in range(2):
            deliver(stdin, Writers(), line, writer=None, offset=0, is_whole=True)
        room = stdin.room()
        assert 0 < room < len(line)
        with pytest.raises(WouldBlockError):
            deliver(stdin, Writers(), line, writer=None, offset=0, is_whole=True)
        assert stdin.room() == room

        accepted, _ = deliver(stdin, Writers(), line, writer=None, offset=0)

        assert accepted == room
    finally:
        stdin.close()
        os.close(reader)
        loop.close()
