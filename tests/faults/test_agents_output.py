"""Output without end or form, and no room for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import UnavailableError
from descartesd.wire.agent import AgentInfo, Limits
from tests.support.agents import left_empty, output, python, sh, spec, until_output
from tests.support.disk import fill, small_disk
from tests.support.eventually import eventually
from tests.support.server import Server

KEPT = 1 << 20
PART = bytes(each for each in range(256) if each != ord("\n"))
ROUNDS = 3000
LINE = len(PART) * 256 * ROUNDS
# One line that is no text, and too long for everything that holds lines.
FLOOD = f"""
import os
part = {PART!r} * 256
for _ in range({ROUNDS}):
    left = part
    while left:
        left = left[os.write(1, left):]
input()
"""


def test_fault_52_binary_flood_without_a_newline_is_bounded_and_slows_nobody(
    shared_server: Server,
) -> None:
    with shared_server.client() as client, left_empty(client):
        limits = Limits(output_bytes=KEPT)
        agent = client.agent.spawn(spec=python(FLOOD, events=True, limits=limits, stdin="pipe"))
        file = shared_server.directory / "state" / "output" / f"{agent.id}.stdout"
        delays, sizes, total = [], [0], 0
        while total < LINE:
            began = time.monotonic()
            total = client.agent.get(id=agent.id).output.stdout.total
            delays.append(time.monotonic() - began)
            if file.exists():
                sizes.append(file.stat().st_blocks * 512)

        eventually(lambda: client.agent.output(id=agent.id).total == LINE)
        kept = output(client, agent.id)
        first = client.agent.output(id=agent.id, offset=0)

        # Half of them wait for nothing; the kernel may give others its only processor.
        assert sorted(delays)[len(delays) // 2] < 0.02
        assert max(sizes) <= KEPT + 256 * 1024
        assert first.truncated_before == first.offset == LINE - len(kept)
        assert KEPT // 4 <= len(kept) <= KEPT
        assert kept == flooded(len(kept))


def flooded(count: int) -> bytes:
    """The last bytes of the flood."""
    return (PART * (count // len(PART) + 1))[-count:]


def test_fault_63_full_disk_holds_up_the_writer_alone_is_told_and_recovers(
    server_on_a_small_disk: tuple[Server, Path],
) -> None:
    server, disk = server_on_a_small_disk
    with server.client() as client:
        writer = client.agent.spawn(spec=sh("read go; seq 100000", stdin="pipe"))
        other = client.agent.spawn(spec=spec("cat", stdin="pipe"))
        client.agent.write(id=other.id, data=b"before")
        until_output(client, other.id, b"before")
        filler = fill(disk)

        client.agent.write(id=writer.id, data=b"go\n")

        told = eventually(lambda: client.agent.get(id=writer.id).output_error)
        assert "No space left on device" in told
        assert told in server.ctl("agent", "show", writer.id).stdout.decode()
        assert output(client, other.id) == b"before"
        assert {each.id for each in client.agent.list().agents} == {writer.id, other.id}
        assert client.agent.get(id=other.id).output_error is None
        with pytest.raises(UnavailableError, match="the registry cannot be written"):
            spawn_for_ever(client)

        filler.unlink()

        assert client.agent.wait(id=writer.id).state == "completed"
        eventually(lambda: client.agent.output(id=writer.id, offset=1 << 30).eof)
        assert client.agent.get(id=writer.id).output_error is None
        assert output(client, writer.id) == b"".join(b"%d\n" % n for n in range(1, 100_001))
        assert eventually(lambda: spawned(client)).state == "running"


@pytest.fixture
def server_on_a_small_disk() -> Iterator[tuple[Server, Path]]:
    """A server that keeps everything on a disk of its own."""
    with small_disk(4096) as disk, Server({"server.state_dir": disk}) as server:
        shutil.copytree(server.directory / "state", disk, dirs_exist_ok=True)
        server.start()
        yield server, disk


def spawn_for_ever(client: Client) -> None:
    """Ask for more and more that has to be kept."""
    while True:
        client.agent.spawn(spec=spec("true", env={"A": "x" * 50_000}))


def spawned(client: Client) -> AgentInfo | None:
    """A new agent as soon as the server starts any."""
    try:
        return client.agent.spawn(spec=spec("sleep", "60"))
    except UnavailableError:
        return None
