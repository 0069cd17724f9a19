"""Output: byte-exact, bounded on the disk, in order, against a real keeper."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from descartesd.keeper import protocol
from tests.support.disk import small_disk
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper

BLOCK = 4096


def index_of(keeper: Keeper, agent_id: str) -> tuple[int, list[tuple[int, float]]]:
    """Head and entries of the index of an agent's stdout."""
    raw = Path(protocol.index_path(keeper.output, agent_id, "stdout")).read_bytes()
    magic, _, head = protocol.INDEX_HEADER.unpack_from(raw)
    assert magic == protocol.INDEX_MAGIC
    entries = list(protocol.INDEX_ENTRY.iter_unpack(raw[protocol.INDEX_HEADER.size :]))
    return head, entries


def test_five_megabytes_of_binary_arrive_byte_for_byte(keeper: Keeper, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "data").write_bytes(data)

    ended = keeper.run("sh", "-c", f"cat {tmp_path}/data; cat {tmp_path}/data >&2")

    agent_id = ended["agent_id"]
    assert ended["totals"] == {"stdout": len(data), "stderr": len(data)}
    for stream in protocol.STREAMS:
        assert (
            hashlib.sha256(keeper.out(agent_id, stream)).digest() == hashlib.sha256(data).digest()
        )


def test_what_was_written_right_before_the_exit_is_there(keeper: Keeper) -> None:
    ids = [keeper.spawn("sh", "-c", "printf %060000d 7") for _ in range(30)]

    for agent_id in ids:
        keeper.eof(agent_id)
        assert len(keeper.out(agent_id)) == 60_000


def test_files_are_made_by_the_first_byte_and_private_to_the_keepers_group(keeper: Keeper) -> None:
    agent_id = keeper.run("echo", "x")["agent_id"]

    for path in (
        protocol.data_path(keeper.output, agent_id, "stdout"),
        protocol.index_path(keeper.output, agent_id, "stdout"),
    ):
        assert Path(path).stat().st_mode & 0o777 == 0o640
    for path in (
        protocol.data_path(keeper.output, agent_id, "stderr"),
        protocol.index_path(keeper.output, agent_id, "stderr"),
    ):
        assert not Path(path).exists()


def test_index_tells_when_each_part_came(keeper: Keeper) -> None:
    script = "echo a; sleep 0.15; echo b; sleep 0.15; echo c"
    began = time.time()
    agent_id = keeper.run("sh", "-c", script)["agent_id"]

    head, entries = index_of(keeper, agent_id)

    assert head == 0
    assert [offset for offset, _ in entries] == [0, 2, 4]
    assert began <= entries[0][1] < entries[1][1] < entries[2][1] <= time.time()
    assert entries[1][1] - entries[0][1] >= 0.1


def test_index_has_an_entry_for_every_64_kib_of_a_flood(keeper: Keeper) -> None:
    agent_id = keeper.run("head", "-c", "3000000", "/dev/zero")["agent_id"]

    _, entries = index_of(keeper, agent_id)
    offsets = [offset for offset, _ in entries]

    assert offsets[0] == 0
    assert offsets == sorted(set(offsets))
    assert [when for _, when in entries] == sorted(when for _, when in entries)
    assert max(late - early for early, late in pairwise(offsets)) < 128 * 1024


@pytest.mark.parametrize("limit", [0, 1, BLOCK, 10_000, 65_536, 100_000, 1_000_000])
def test_disk_bound_holds_and_offsets_stay(keeper: Keeper, limit: int) -> None:
    script = "import os\nfor n in range(40000): os.write(1, b'%049d\\n' % n)"
    agent_id = keeper.spawn(*PYTHON, script, output_bytes=limit)
    path = Path(protocol.data_path(keeper.output, agent_id, "stdout"))
    most = 0
    while not keeper.client.events:
        if path.exists():
            most = max(most, path.stat().st_blocks * 512)
        keeper.ask("hello", version="1.0")
    ended = keeper.eof(agent_id)

    head, entries = index_of(keeper, agent_id)
    total = 40_000 * 50
    with path.open("rb") as file:
        file.seek(head)
        kept = file.read()

    assert most <= limit + 4 * BLOCK
    assert path.stat().st_blocks * 512 <= limit + 4 * BLOCK
    assert ended["totals"]["stdout"] == path.stat().st_size == total
    assert head % BLOCK == 0
    assert total - head <= limit + 2 * BLOCK
    assert total - head >= min(limit // 2, total) - BLOCK
    whole = b"".join(b"%049d\n" % n for n in range(40_000))
    assert kept == whole[head:]
    assert [offset for offset, _ in entries] == sorted(offset for offset, _ in entries)
    with path.open("rb") as file:
        assert not file.read(head).strip(b"\0")


def test_head_never_goes_back_over_attempts(keeper: Keeper) -> None:
    agent_id = keeper.spawn("head", "-c", "500000", "/dev/zero", output_bytes=100_000)
    keeper.eof(agent_id)
    head, _ = index_of(keeper, agent_id)

    keeper.spawn("echo", "more", agent_id=agent_id, attempt=2, output_bytes=100_000)
    keeper.eof(agent_id)
    keeper.ask("forget", agent_id=agent_id)
    keeper.spawn("echo", "again", agent_id=agent_id, attempt=3, output_bytes=50_000)
    keeper.eof(agent_id)

    later, _ = index_of(keeper, agent_id)
    assert later >= head > 0
    assert keeper.out(agent_id).endswith(b"\0more\nagain\n")


def test_remove_deletes_every_file(keeper: Keeper) -> None:
    agent_id = keeper.run("sh", "-c", "echo x; echo y >&2")["agent_id"]
    assert any(name.startswith(agent_id) for name in os.listdir(keeper.output))

    keeper.ask("remove", agent_id=agent_id)

    assert not any(name.startswith(agent_id) for name in os.listdir(keeper.output))
    assert keeper.status(agent_id) is None


def test_many_floods_share_the_keeper_and_control_comes_first(keeper: Keeper) -> None:
    ids = [keeper.spawn("yes", output_bytes=1_000_000) for _ in range(30)]
    for agent_id in ids:
        keeper.wait_out(agent_id, b"y\n")

    def totals() -> list[int]:
        agents = {agent["agent_id"]: agent for agent in keeper.ask("list")["agents"]}
        return [agents[agent_id]["totals"]["stdout"] for agent_id in ids]

    before = totals()
    waits = []
    for _ in range(100):
        began = time.perf_counter()
        keeper.ask("hello", version="1.0")
        waits.append(time.perf_counter() - began)
    eventually(lambda: sum(totals()) - sum(before) > 100_000_000)
    shares = [late - early for early, late in zip(before, totals(), strict=True)]

    assert sorted(waits)[50] < 0.02
    assert min(shares) > max(shares) / 4


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(1024) as path:
        yield path


def test_full_disk_holds_up_the_writer_alone_and_loses_nothing(
    disk: Path, make_keeper: Callable[..., Keeper]
) -> None:
    keeper = make_keeper("--output-dir", str(disk))
    keeper.output = str(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(700 * 1024))
    data = os.urandom(600_000)
    (keeper.directory / "data").write_bytes(data)
    writer = keeper.spawn("cat", str(keeper.directory / "data"))

    error = eventually(lambda: (keeper.status(writer) or {})["output_error"])
    other = keeper.spawn("sleep", "60")
    assert "No space left on device" in error
    assert keeper.status(other) is not None
    filler.unlink()
    keeper.exited(writer)
    last = keeper.eof(writer)

    assert last["output_error"] is None
    assert keeper.out(writer) == data


def test_writing_stops_at_a_file_size_limit_and_says_why(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper(prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2))
    writer = keeper.spawn("yes")

    error = eventually(lambda: (keeper.status(writer) or {})["output_error"])

    assert "File too large" in error
    assert "stopped at 100000" in error
    keeper.ask("kill", agent_id=writer)
    assert keeper.exited(writer)["signal"] == 9
    keeper.ask("forget", agent_id=writer)
    assert keeper.status(writer) is None
