"""The registry while its disk takes nothing more, and after."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.agents.record import Agent
from descartesd.agents.registry import INTENT_AGE_S, Intent, Registry
from descartesd.errors import UnavailableError
from tests.support.scriptedkeeper import record


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "registry.sqlite")


@pytest.fixture
def registry(path: str) -> Iterator[Registry]:
    opened = Registry(path)
    yield opened
    opened.close()


def fill(registry: Registry) -> None:
    """Let the file grow no more, as on a full disk (SQLITE_FULL)."""
    (pages,) = registry._db.execute("PRAGMA page_count").fetchone()
    registry._db.execute(f"PRAGMA max_page_count = {pages}")


def make_room(registry: Registry) -> None:
    registry._db.execute("PRAGMA max_page_count = 1000000")


def large(number: int) -> Agent:
    agent = record(number)
    agent.owner = "x" * 100_000
    return agent


def durable(path: str) -> list[str]:
    """Ids of the agents another process sees."""
    other = sqlite3.connect(path)
    rows = other.execute("SELECT id FROM agents ORDER BY id").fetchall()
    other.close()
    return [row[0] for row in rows]


def test_new_work_on_a_full_disk_is_unavailable_and_later_makes_up_for_it(
    registry: Registry, path: str
) -> None:
    registry.put_agent(record(1))
    assert registry.save()
    fill(registry)

    registry.put_agent(large(2))
    assert not registry.save()
    with pytest.raises(UnavailableError, match="the registry cannot be written"):
        registry.check()
    registry.put_agent(record(3))
    assert not registry.save()
    assert durable(path) == [record(1).id]

    make_room(registry)
    registry.check()

    assert registry.problem is None
    assert durable(path) == [record(number).id for number in (1, 2, 3)]


def test_last_state_of_each_row_is_what_is_made_up_for(registry: Registry, path: str) -> None:
    fill(registry)
    registry.put_agent(large(1))
    assert not registry.save()
    registry.drop_agent(record(1).id)
    # Its name is free again.
    successor = record(2)
    successor.name = record(1).name
    registry.put_agent(successor)

    make_room(registry)

    assert registry.save()
    assert durable(path) == [successor.id]


def test_nothing_piles_up_while_the_disk_is_full(registry: Registry) -> None:
    fill(registry)
    for _ in range(100):
        registry.put_agent(large(1))
        registry.save()

    assert len(registry._unsaved) == 1


def test_disk_that_took_nothing_is_left_alone_for_a_while(registry: Registry) -> None:
    async def test() -> float:
        began = asyncio.get_running_loop().time()
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await registry.durable()
        make_room(registry)
        registry.check()
        registry.put_agent(record(2))
        await registry.durable()
        return asyncio.get_running_loop().time() - began

    fill(registry)
    registry.put_agent(large(1))

    assert 0.9 < asyncio.run(test()) < 1.8


def test_what_could_not_be_written_is_written_at_the_end(path: str) -> None:
    registry = Registry(path)
    fill(registry)
    registry.put_agent(large(1))
    assert not registry.save()
    make_room(registry)

    registry.close()

    assert durable(path) == [record(1).id]


def test_answer_is_not_found_a_day_later(registry: Registry) -> None:
    registry.begin_intent(Intent("uid:0", "k", "agent.spawn", b"d", None, 1.0, None))
    registry.finish_intent("uid:0", "k", b"reply", 10.0)
    assert registry.save()

    assert registry.intent("uid:0", "k", 10.0 + INTENT_AGE_S) is not None
    assert registry.intent("uid:0", "k", 10.1 + INTENT_AGE_S) is None
