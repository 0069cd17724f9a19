"""Reading and following while much is written and old output is dropped."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from descartesd.agents.follow import Watches
from descartesd.agents.output import OutputFiles
from descartesd.keeper import protocol

ID, STREAM = "agent", "stdout"
BLOCK, KEPT = 65_536, 131_072


def write(directory: str, begun: Event, ended: Event) -> None:
    """Append as fast as can be, as the keeper does: the head moves first, by whole blocks."""
    index = os.open(protocol.index_path(directory, ID, STREAM), os.O_RDWR | os.O_CREAT, 0o600)
    data = os.open(protocol.data_path(directory, ID, STREAM), os.O_RDWR | os.O_CREAT, 0o600)
    total = head = 0
    while not ended.is_set():
        head = max(head, total - KEPT)
        os.pwrite(index, protocol.INDEX_HEADER.pack(protocol.INDEX_MAGIC, 0, head), 0)
        # What was written does not matter here: it stays a hole, and the disk empty.
        total += BLOCK
        os.ftruncate(data, total)
        if total > 2 * KEPT:
            begun.set()


def test_there_is_always_something_to_read_of_what_is_kept(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begun, ended = context.Event(), context.Event()
    writer = context.Process(target=write, args=(str(tmp_path), begun, ended))
    writer.start()
    files = OutputFiles(str(tmp_path))
    try:
        assert begun.wait(10)
        pieces = [files.read(ID, STREAM, 0, 4096) for _ in range(3000)]
    finally:
        ended.set()
        writer.join(10)

    assert all(piece.data for piece in pieces)
    assert all(piece.offset >= piece.truncated_before for piece in pieces)


def test_followers_are_woken_when_the_kernel_has_dropped_events(tmp_path: Path) -> None:
    names = ["a", "b", "quiet"]
    for name in names:
        (tmp_path / name).touch()
    with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as file:
        most = int(file.read())
    if most > 100_000:
        pytest.skip("the kernel drops events too late here")

    async def scenario() -> None:
        watches = Watches(asyncio.get_running_loop(), str(tmp_path))
        quiet, busy = asyncio.Event(), asyncio.Event()
        try:
            with (
                watches.watching("a", busy),
                watches.watching("b", busy),
                watches.watching("quiet", quiet),
            ):
                # Turn about: the kernel merges what is the same twice in a row.
                fds = [os.open(tmp_path / name, os.O_WRONLY) for name in names]
                for number in range(most + 1):
                    os.pwrite(fds[number % 2], b"x", 0)
                os.pwrite(fds[2], b"x", 0)
                for fd in fds:
                    os.close(fd)
                async with asyncio.timeout(5):
                    await quiet.wait()
        finally:
            watches.close()

    asyncio.run(scenario())
