"""The registry of a directory that takes nothing: read at the start, written once it can be."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from descartesd.agents.registry import Intent, Registry
from descartesd.errors import StartupRefusedError, UnavailableError
from tests.support.disk import failing, fill, small_disk, unwritable
from tests.support.scriptedkeeper import record

Obstacle = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    directory = tmp_path / "state"
    directory.mkdir()
    return str(directory / "registry.sqlite")


@contextmanager
def too_large(_directory: Path) -> Iterator[None]:
    """As on a disk that has not a byte left."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def ids(path: str) -> list[str]:
    """Ids of the agents another process sees."""
    with closing(sqlite3.connect(path)) as other:
        return [row[0] for row in other.execute("SELECT id FROM agents ORDER BY id")]


def filled(path: str) -> None:
    """A registry as a daemon leaves it."""
    registry = Registry(path)
    registry.put_agent(record(1))
    registry.put_event(7, b"event")
    registry.close()


def crashed(path: str) -> None:
    """A registry as a daemon that was killed leaves it: what it knew last stands in the log."""
    registry = Registry(path)
    registry.put_agent(record(1))
    registry.put_event(7, b"event")
    assert registry.save()
    for part in ("", "-wal"):
        shutil.copyfile(f"{path}{part}", f"{path}.copy{part}")
    registry.close()
    for part in ("", "-wal"):
        os.rename(f"{path}.copy{part}", f"{path}{part}")


@pytest.mark.parametrize("left", [filled, crashed])
def test_fault_63_start_without_a_writable_directory_knows_everything_and_takes_nothing(
    path: str, left: Callable[[str], None]
) -> None:
    left(path)
    with unwritable(Path(path).parent):
        registry = Registry(path)

        assert list(registry.agents()) == [record(1)]
        assert registry.event_bounds() == (7, 7)
        assert registry.problem
        with pytest.raises(UnavailableError, match="the registry cannot be written") as caught:
            registry.check()
        assert caught.value.hint
        registry.put_agent(record(2))
        assert not registry.save()
        asyncio.run(registry.tidy())

    asyncio.run(registry.tidy())
    assert registry.problem is None
    registry.check()
    assert ids(path) == [record(1).id, record(2).id]
    registry.put_agent(record(3))
    registry.close()
    assert ids(path) == [record(number).id for number in (1, 2, 3)]


@pytest.mark.parametrize("obstacle", [unwritable, too_large])
def test_first_start_without_a_writable_directory_begins_once_it_can(
    path: str, obstacle: Obstacle
) -> None:
    with obstacle(Path(path).parent):
        registry = Registry(path)
        registry.put_agent(record(1))
        assert not registry.save()
        assert list(registry.agents()) == []

    assert registry.save()
    registry.close()
    assert ids(path) == [record(1).id]


def test_fault_63_start_on_a_full_disk_knows_everything() -> None:
    with small_disk(4096) as disk:
        path = str(disk / "registry.sqlite")
        crashed(path)
        filler = fill(disk)

        registry = Registry(path)
        assert list(registry.agents()) == [record(1)]
        registry.put_agent(record(2))
        registry.save()

        filler.unlink()
        assert registry.save()
        registry.close()
        assert ids(path) == [record(1).id, record(2).id]


def test_fault_63_disk_that_fails_is_told_of_and_made_up_for(path: str) -> None:
    registry = Registry(path)
    registry.put_agent(record(1))
    assert registry.save()
    with failing(Path(f"{path}-wal")):
        registry.put_agent(record(2))
        assert not registry.save()
        assert registry.problem == "disk I/O error"
        with pytest.raises(UnavailableError):
            registry.check()

    registry.check()
    registry.close()
    assert ids(path) == [record(1).id, record(2).id]


def test_another_file_that_comes_into_its_place_is_left_alone(path: str) -> None:
    crashed(path)
    other = f"{path}.other"
    filled(other)
    with unwritable(Path(path).parent):
        registry = Registry(path)
        registry.put_agent(record(2))
    os.rename(other, path)

    assert not registry.save()
    assert registry.problem == "it is not the file of before: restart the server"
    registry.close()
    assert ids(path) == [record(1).id]


def test_nothing_is_begun_while_somebody_says_so(path: str) -> None:
    registry = Registry(path)
    registry.barred = "'/state' cannot be written"
    with pytest.raises(UnavailableError, match="'/state' cannot be written"):
        registry.check()

    registry.barred = None
    registry.check()
    registry.close()


def test_what_is_no_file_is_refused_even_so(path: str) -> None:
    Path(path).mkdir()

    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
        Registry(path)


def test_registry_of_a_newer_version_is_refused_by_its_version(path: str) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")

    with pytest.raises(StartupRefusedError, match="schema version 99, newer than") as caught:
        Registry(path)
    assert caught.value.hint == "start the newer descartesd that wrote it"
    with unwritable(Path(path).parent), pytest.raises(StartupRefusedError, match="version 99"):
        Registry(path)


def test_key_of_before_is_known_while_nothing_can_be_written(path: str) -> None:
    registry = Registry(path)
    registry.begin_intent(Intent("uid:0", "k", "agent.spawn", b"d", None, 1.0, None))
    registry.finish_intent("uid:0", "k", b"reply", 2.0)
    registry.close()

    with unwritable(Path(path).parent):
        registry = Registry(path)
        found = registry.intent("uid:0", "k", 3.0)
        registry.close()

    assert found is not None
    assert found.reply == b"reply"
