"""The clock certificates are judged by, while the host's jumps."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.keys.authority import create_authority
from descartesd.keys.clock import HOLD_S, JUMP_S, SteadyClock
from descartesd.keys.curve import generate
from descartesd.keys.trust import TrustStore

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0


class Host:
    """A host with a clock that can be set, and a time since boot that cannot."""

    def __init__(self) -> None:
        self.wall, self.boot = NOW, 100.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


@pytest.fixture
def host() -> Host:
    return Host()


def clock_of(host: Host, path: Path) -> SteadyClock:
    return SteadyClock(str(path), host=lambda: host.wall, steady=lambda: host.boot)


@pytest.fixture
def clock(host: Host, tmp_path: Path) -> SteadyClock:
    made = clock_of(host, tmp_path / "clock")
    made.tick()
    return made


def test_small_corrections_are_followed(host: Host, clock: SteadyClock) -> None:
    for step in (30.0, -45.0, JUMP_S - 1):
        host.passes(10)
        host.wall += step
        clock.tick()
        assert clock() == host.wall
        assert clock.problem is None


def test_fault_48_a_year_ahead_is_warned_of_before_anybody_is_refused(
    host: Host, clock: SteadyClock, tmp_path: Path
) -> None:
    (tmp_path / "trust").mkdir()
    authority = create_authority(str(tmp_path / "authority.key"))
    store = TrustStore(str(tmp_path / "trust"), [authority.public], clock=clock)
    key = generate().public
    store.add(authority.issue("alice", key, "operator", now=NOW, days=300))

    host.wall += YEAR

    assert store.lookup(key) is not None
    clock.tick()
    assert clock.problem is not None
    assert "has jumped ahead by 365 days" in clock.problem
    host.passes(HOLD_S - 1)
    clock.tick()
    assert store.lookup(key) is not None
    # Put right in time: nothing has happened.
    host.wall -= YEAR
    clock.tick()
    assert clock.problem is None
    assert clock() == host.wall
    # And once more, and not put right.
    host.wall += YEAR
    clock.tick()
    host.passes(HOLD_S)
    clock.tick()
    assert clock.problem is None
    assert store.lookup(key) is None


def test_fault_48_a_year_back_brings_nothing_back_that_had_ended_not_even_after_a_restart(
    host: Host, clock: SteadyClock, tmp_path: Path
) -> None:
    (tmp_path / "trust").mkdir()
    authority = create_authority(str(tmp_path / "authority.key"))
    store = TrustStore(str(tmp_path / "trust"), [authority.public], clock=clock)
    key = generate().public
    store.add(authority.issue("alice", key, "operator", now=NOW - YEAR, days=365))
    assert store.lookup(key) is None

    host.wall -= YEAR / 2
    host.passes(5)
    clock.tick()

    assert store.lookup(key) is None
    assert clock() == NOW + 5
    assert clock.problem is not None
    assert "182 days behind" in clock.problem
    again = clock_of(host, tmp_path / "clock")
    again.tick()
    assert abs(again() - NOW) < 60
    assert again.problem is not None
    # Whoever knows better removes the file.
    (tmp_path / "clock").unlink()
    assert clock_of(host, tmp_path / "clock")() == host.wall


def test_what_was_seen_is_kept_at_least_hourly(
    host: Host, clock: SteadyClock, tmp_path: Path
) -> None:
    for _ in range(60):
        host.passes(120)
        clock.tick()
        kept = float((tmp_path / "clock").read_text(encoding="ascii"))
        assert host.wall - kept < 3600
    assert (tmp_path / "clock").stat().st_mode & 0o777 == 0o600


def test_a_long_absence_is_told_and_believed(
    host: Host, clock: SteadyClock, tmp_path: Path
) -> None:
    assert clock() == NOW
    host.passes(YEAR)

    again = clock_of(host, tmp_path / "clock")

    assert again() == host.wall
    assert again.problem is not None
    assert "365 days ahead of what was seen last" in again.problem


def test_a_damaged_note_is_no_time(host: Host, tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("yesterday", encoding="ascii")

    assert clock_of(host, tmp_path / "clock")() == NOW
