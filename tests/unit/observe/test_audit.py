"""The audit log: what a line says, what survives a crash, what happens on a full disk."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from descartesd.errors import UnavailableError
from descartesd.keys.z85 import encode_key
from descartesd.observe.audit_line import Entry
from tests.support.auditlog import WHO, Place, done, run


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextmanager
def full(place: Place, room: int) -> Iterator[None]:
    """Let no file of this process grow beyond the log and so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (place.file.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_intent_is_in_the_file_before_the_work_begins(place: Place) -> None:
    log = place.open()

    seq = log.intent(Entry(WHO, "agent.stop", "intent", "ci", "build-7"))

    written = json.loads(place.lines[-1])
    del written["time"], written["prev"]
    assert written == {
        "seq": seq,
        "identity": WHO,
        "certificate": "ci",
        "method": "agent.stop",
        "target": "build-7",
        "phase": "intent",
    }
    assert place.file.stat().st_mode & 0o777 == 0o600


def test_each_line_names_the_hash_of_the_one_before(place: Place) -> None:
    done(place.open(), 3)

    lines = [line.rstrip(b"\n") for line in place.lines]
    assert json.loads(lines[0])["prev"] == "0" * 64
    for before, after in itertools.pairwise(lines):
        assert json.loads(after)["prev"] == hashlib.blake2b(before, digest_size=32).hexdigest()


def test_lines_of_one_turn_of_the_loop_share_a_write(place: Place) -> None:
    log = place.open()

    async def scenario() -> tuple[int, int]:
        before = len(place.lines)
        for number in range(5):
            log.add(Entry(WHO, "agent.stop", "outcome", target=f"{number}", outcome="ok"))
        during = len(place.lines)
        await asyncio.sleep(0)
        return during - before, len(place.lines) - before

    assert asyncio.run(scenario()) == (0, 5)


def test_fault_35_nothing_in_a_line_can_forge_one_or_move_a_cursor(place: Place) -> None:
    log = place.open()
    evil = 'x\n{"seq":99}\r\x1b[2J\x7f\x9b31m\u202eabc\U000e0001é'

    log.intent(Entry(WHO, "agent.stop", "intent", evil, evil, detail=evil))

    assert len(place.lines) == 2
    text = place.lines[-1].decode()
    assert text.rstrip("\n").isprintable()
    assert json.loads(text)["target"] == evil
    assert place.verify().holds


def test_the_log_goes_on_after_a_restart(place: Place) -> None:
    first = place.open()
    done(first, 2)
    first.close()

    done(place.open(), 2)

    assert [json.loads(line)["seq"] for line in place.lines] == list(range(1, 8))
    assert place.verify().holds


def test_after_a_crash_the_log_holds_and_says_how_much_is_unsigned(place: Place) -> None:
    log = place.open()
    done(log, 5)
    # Killed: nothing is closed, nothing signed.

    report = place.verify()
    assert report.holds
    assert (report.last_seq, report.signed_seq, report.unsigned) == (6, 1, 5)

    done(place.open(), 1)
    assert place.verify().holds


def test_a_torn_last_line_is_told_apart_from_tampering(place: Place) -> None:
    done(place.open(), 3)
    with place.file.open("ab") as file:
        file.write(b'{"seq":5,"time":17')

    report = place.verify()
    assert report.holds
    assert report.torn_bytes == 18

    place.open()

    told = [json.loads(line) for line in place.lines if b"audit.torn" in line]
    assert [line["detail"] for line in told] == [
        '18 bytes of a line that a crash cut short: {"seq":5,"time":17'
    ]
    report = place.verify()
    assert report.holds
    assert report.torn_bytes == 0


def test_it_rotates_by_size_and_the_chain_goes_on(place: Place) -> None:
    log = place.open(max_bytes=2000, keep_files=100)
    done(log, 50)
    log.close()

    report = place.verify()
    assert report.holds
    assert report.files > 5
    assert report.lines == report.last_seq == 52
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in place.directory.iterdir())


def test_only_so_many_files_are_kept_and_what_is_left_holds(place: Place) -> None:
    log = place.open(max_bytes=2000, keep_files=2)
    done(log, 50)

    asyncio.run(log.tidy())

    report = place.verify()
    assert report.holds
    assert report.files == 3
    assert report.first_seq > 1
    assert report.unsigned == 0


def test_a_crash_in_the_middle_of_a_rotation_is_made_up_for(place: Place) -> None:
    log = place.open()
    done(log, 3)
    place.file.rename(place.directory / "audit-000000000001.jsonl")

    done(place.open(), 1)

    report = place.verify()
    assert report.holds
    assert report.files == 2


def test_fault_63_on_a_full_disk_changes_are_refused_and_later_taken_again(place: Place) -> None:
    log = place.open()
    done(log, 2)
    before = place.lines

    with full(place, 40):
        with pytest.raises(UnavailableError, match="the audit log cannot be written: File too la"):
            done(log, 1)
        assert place.lines == before
        assert log.problem == "File too large"
        assert "changes are refused" in str(log.trouble)

    asyncio.run(log.tidy())
    assert log.problem is None
    done(log, 1)
    assert place.verify().holds


def test_fault_63_changes_go_on_where_that_is_wished_and_are_made_up_for(place: Place) -> None:
    log = place.open(on_error="continue")

    with full(place, 40):
        done(log, 3)
        assert "changes are made unrecorded" in str(log.trouble)
        assert len(place.lines) == 1

    done(log, 1)
    assert log.problem is None
    assert len(place.lines) == 5
    assert place.verify().holds


def test_fault_63_lines_that_wait_too_long_are_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descartesd.observe.audit._MOST_PENDING", 10)
    log = place.open(on_error="continue")

    with full(place, 0):
        done(log, 25)
    done(log, 1)

    (lost,) = [json.loads(line) for line in place.lines if b"audit.lost" in line]
    assert lost["count"] == 15
    assert place.verify().holds


def test_a_log_that_is_moved_away_is_begun_anew_and_that_is_a_fault(place: Place) -> None:
    log = place.open()
    done(log, 2)
    place.file.rename(place.directory / "elsewhere")

    asyncio.run(log.tidy())
    done(log, 1)

    assert len(place.lines) >= 2
    assert not place.verify().holds


def test_a_head_that_cannot_be_kept_is_tried_again(place: Place) -> None:
    log = place.open()
    done(log, 2)
    place.takes_heads = False
    asyncio.run(log.tidy())
    assert place.verify().signed_seq == 1

    place.takes_heads = True
    asyncio.run(log.tidy())

    assert place.verify().signed_seq == 3


def test_the_running_server_knows_its_last_line(place: Place) -> None:
    log = place.open()
    done(log, 3)
    assert run(log.check()).holds
    *lines, last = place.lines

    place.write([*lines, last.replace(b"agent-2", b"agent-9")])

    report = run(log.check())
    assert not report.holds
    assert report.faults[0].what == "the last line is not the one this server wrote, line 4"


def test_a_head_by_another_key_is_a_fault(place: Place) -> None:
    log = place.open()
    done(log, 1)
    log.close()
    assert place.head is not None
    place.head = json.dumps({**json.loads(place.head), "key": encode_key(bytes(32))})

    log = place.open()
    asyncio.run(log.tidy())

    assert "the audit log was changed" in str(log.trouble)
    report = place.verify()
    assert report.signed_seq == report.last_seq
    assert not report.holds


def test_a_line_costs_little(place: Place) -> None:
    log = place.open()
    begun = os.times()

    done(log, 2000)

    ended = os.times()
    # 10 us by the budget; what it is on a busy machine, and with a profiler, may be more.
    assert (ended.user + ended.system - begun.user - begun.system) / 2000 < 100e-6
