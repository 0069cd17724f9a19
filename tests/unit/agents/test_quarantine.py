"""A damaged registry: put aside, begun anew with what can be read, and told of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from descartesd.agents.quarantine import open_registry
from descartesd.agents.registry import Intent, Registry
from descartesd.errors import StartupRefusedError
from tests.support.disk import unwritable
from tests.support.scriptedkeeper import record

MANY = 300


@pytest.fixture
def path(tmp_path: Path) -> str:
    directory = tmp_path / "state"
    directory.mkdir()
    return str(directory / "registry.sqlite")


def fill(path: str, *, version: int | None = None) -> None:
    """A registry of many pages."""
    registry = Registry(path)
    for number in range(MANY):
        registry.put_agent(record(number))
    registry.begin_intent(Intent("uid:0", "k", "agent.spawn", b"d", None, 1.0, None))
    registry.finish_intent("uid:0", "k", b"reply", 2.0)
    registry.put_event(7, b"event")
    registry.set_meta("boot_id", "boot")
    registry.close()
    if version is not None:
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {version}")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)


def one_page(path: Path) -> None:
    """Overwrite a page with agents in it."""
    data = bytearray(path.read_bytes())
    at = data.index(record(MANY // 2).id.encode()) // 4096 * 4096
    data[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(data)


def one_row(path: Path) -> None:
    """Let a record be no record, in a file that is whole."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE agents SET record = x'c1' WHERE id = ?", (record(3).id,))


def one_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE events")


@pytest.mark.parametrize("damage", [nothing, half, noise, one_page, one_row, one_table])
def test_fault_64_damaged_registry_is_put_aside_and_begun_anew(
    path: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    fill(path)
    damage(Path(path))
    damaged = Path(path).read_bytes()

    registry, agents = open_registry(path)

    (aside,) = [each for each in Path(path).parent.iterdir() if each.suffix.startswith(".damaged")]
    assert aside.read_bytes() == damaged
    assert registry.begun_anew is not None
    assert str(aside) in registry.begun_anew
    assert registry.problem is None
    (told,) = [each for each in caplog.records if each.getMessage() == "registry.damaged"]
    assert told.levelname == "ERROR"
    known = {record(number).id: record(number) for number in range(MANY)}
    assert all(known[agent.id] == agent for agent in agents)
    registry.put_agent(record(MANY))
    registry.close()
    again, agents = open_registry(path)
    assert record(MANY) in agents
    assert again.begun_anew is None
    again.close()


@pytest.mark.parametrize(
    ("damage", "least"), [(one_page, MANY - 60), (one_row, MANY - 1), (one_table, MANY)]
)
def test_what_is_readable_of_a_damaged_registry_is_kept(
    path: str, damage: Callable[[Path], None], least: int
) -> None:
    fill(path)
    damage(Path(path))

    registry, agents = open_registry(path)

    assert least <= len(agents) <= MANY
    assert record(0) in agents
    assert record(MANY - 1) in agents
    kept = registry.intent("uid:0", "k", 3.0)
    assert kept is not None
    assert kept.reply == b"reply"
    assert registry.meta("boot_id") == "boot"
    registry.close()


def test_registry_of_a_newer_version_is_neither_read_nor_put_aside(path: str) -> None:
    fill(path, version=99)
    before = Path(path).read_bytes()

    with pytest.raises(StartupRefusedError, match="schema version 99"):
        open_registry(path)

    assert Path(path).read_bytes() == before
    assert [each.name for each in Path(path).parent.iterdir()] == ["registry.sqlite"]


def test_damaged_registry_that_cannot_be_put_aside_is_refused(path: str) -> None:
    fill(path)
    half(Path(path))

    with unwritable(Path(path).parent), pytest.raises(StartupRefusedError, match="cannot be read"):
        open_registry(path)
