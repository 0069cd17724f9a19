"""A flood of a minute: bounded on disk and in memory, and followers know what they miss."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from descartesd.client import Client
from descartesd.wire.agent import Limits
from tests.faults.peers import daemon_of
from tests.support.agents import left_empty, spec
from tests.support.eventually import eventually
from tests.support.server import Server, running

SECONDS = 60
MIB = 1 << 20
KEPT = 10 * MIB


@dataclass
class Follower:
    """Follows an agent to its end, and counts what it was given and told to be gone."""

    server: Server
    agent_id: str
    seen: int = 0
    missed: int = 0
    wrong: list[int] = field(default_factory=list)

    def follow(self) -> None:
        at = 0
        with self.server.client() as client:
            for chunk in client.agent.follow(id=self.agent_id, streams=["stdout"]):
                assert chunk.offset >= at
                self.missed += chunk.offset - at
                self.seen += len(chunk.data)
                at = chunk.offset + len(chunk.data)
                if chunk.data != expected(chunk.offset, len(chunk.data)):
                    self.wrong.append(chunk.offset)


def expected(offset: int, count: int) -> bytes:
    """What `yes` writes there."""
    start = offset % 2
    return (b"y\n" * (count // 2 + 2))[start : start + count]


def echoed_s(client: Client, agent_id: str) -> float:
    """How long an agent's answer takes."""
    before = client.agent.output(id=agent_id).total
    began = time.monotonic()
    client.agent.write(id=agent_id, data=b"x")
    eventually(lambda: client.agent.output(id=agent_id, offset=before).data == b"x", step=0.0005)
    return time.monotonic() - began


def ninth_of_ten(values: list[float]) -> float:
    return sorted(values)[len(values) * 9 // 10]


def on_disk(directory: Path) -> int:
    """Bytes its files take; 0 if one was renamed while they were looked at."""
    try:
        return sum(file.stat().st_blocks * 512 for file in directory.iterdir())
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fault_52_a_minute_of_yes_is_bounded_on_disk_and_in_memory() -> None:
    with running() as server, server.client() as client, left_empty(client):
        daemon = daemon_of(server)
        keeper = psutil.Process(client.server.health().keeper.pid)
        other = client.agent.spawn(spec=spec("cat", stdin="pipe"))
        idle = ninth_of_ten([echoed_s(client, other.id) for _ in range(50)])
        agent = client.agent.spawn(spec=spec("yes", limits=Limits(output_bytes=KEPT)))
        followers = [Follower(server, agent.id) for _ in range(2)]
        threads = [threading.Thread(target=each.follow) for each in followers]
        for thread in threads:
            thread.start()
        directory = server.directory / "state" / "output"
        disk: list[int] = []
        memory: list[tuple[int, int]] = []
        took: list[float] = []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            took.append(echoed_s(client, other.id))
            disk.append(eventually(lambda: on_disk(directory)))
            memory.append((daemon.memory_info().rss, keeper.memory_info().rss))

        ended = client.agent.kill(id=agent.id)
        for thread in threads:
            thread.join(timeout=60)

        total = ended.output.stdout.total
        assert total > 100 * MIB
        assert max(disk) <= 20 * MIB
        quarter = memory[len(memory) // 4]
        assert max(each[0] for each in memory) - quarter[0] < 16 * MIB
        assert max(each[1] for each in memory) - quarter[1] < 2 * MIB
        assert ninth_of_ten(took) < max(3 * idle, 0.05)
        assert client.agent.output(id=agent.id).truncated_before >= total - KEPT
        for follower in followers:
            assert not follower.wrong
            assert follower.seen + follower.missed == total
            assert follower.seen > 10 * MIB
