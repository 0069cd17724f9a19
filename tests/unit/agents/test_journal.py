"""Events: numbered without holes, durable before they are told, the oldest dropped."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from descartesd.agents.journal import Journal
from descartesd.agents.registry import Registry
from descartesd.wire.event import Event


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "registry.sqlite")


def run(
    path: str, test: Callable[[Registry, Journal], Awaitable[None]], *, kept: int = 100_000
) -> None:
    async def inside() -> None:
        registry = Registry(path)
        try:
            await test(registry, Journal(registry, kept=kept, clock=lambda: 5.0))
        finally:
            registry.close()

    asyncio.run(inside())


def numbers(journal: Journal, after: int = 0, limit: int = 1_000_000) -> list[int]:
    return [number for number, _ in journal.after(after, limit)]


def stored(path: str) -> list[int]:
    """Numbers of the events another process sees."""
    other = sqlite3.connect(path)
    rows = other.execute("SELECT seq FROM events ORDER BY seq").fetchall()
    other.close()
    return [row[0] for row in rows]


def test_event_is_told_once_it_is_durable(path: str) -> None:
    async def test(registry: Registry, journal: Journal) -> None:
        news = asyncio.Event()
        with journal.waking(news):
            journal.record("adopted", "a1", name="one", attempt=2)
            assert (journal.last, numbers(journal), news.is_set()) == (0, [], False)
            async with asyncio.timeout(1):
                await news.wait()
            assert stored(path) == numbers(journal) == [1]
        ((_, raw),) = journal.after(0, 10)
        event = msgspec.msgpack.decode(raw, type=Event)
        assert event == Event(seq=1, time=5.0, kind="adopted", agent_id="a1", name="one", attempt=2)

    run(path, test)


def test_events_of_one_turn_are_one_transaction(path: str) -> None:
    async def test(registry: Registry, journal: Journal) -> None:
        saved: list[int] = []
        registry.on_saved.append(lambda: saved.append(journal.last))
        for _ in range(10):
            journal.record("heartbeat")
        await registry.durable()
        assert saved == [10]

    run(path, test)


def test_numbers_go_on_after_a_crash_and_none_that_was_told_comes_again(path: str) -> None:
    async def before(registry: Registry, journal: Journal) -> None:
        journal.record("heartbeat")
        await registry.durable()
        journal.record("heartbeat")
        # Never durable, never told.
        registry._unsaved.clear()

    async def after(registry: Registry, journal: Journal) -> None:
        assert (journal.first, journal.last) == (1, 1)
        journal.record("heartbeat")
        await registry.durable()
        assert numbers(journal) == stored(path) == [1, 2]

    run(path, before)
    run(path, after)


def test_any_number_that_is_kept_can_be_followed_from(path: str) -> None:
    async def test(registry: Registry, journal: Journal) -> None:
        for _ in range(5000):
            journal.record("heartbeat")
        await registry.durable()
        # The last ones come from memory, those before from the registry.
        for since in (0, 1, 2900, 2951, 2952, 2953, 4990, 4999):
            assert numbers(journal, since, 10) == list(range(since + 1, min(since + 11, 5001)))
        assert numbers(journal, 5000) == []

    run(path, test)


def test_oldest_are_dropped_and_the_first_kept_is_told(path: str) -> None:
    async def test(registry: Registry, journal: Journal) -> None:
        for _ in range(1234):
            journal.record("heartbeat")
            await registry.durable()
        assert journal.last == 1234
        assert 300 <= journal.last - journal.first + 1 < 300 + 3
        assert stored(path) == list(range(journal.first, 1235))

    async def after(_registry: Registry, journal: Journal) -> None:
        assert (journal.first, journal.last) == (stored(path)[0], 1234)

    run(path, test, kept=300)
    run(path, after, kept=300)


def test_what_a_full_disk_did_not_take_is_told_later_in_its_order(path: str) -> None:
    async def test(registry: Registry, journal: Journal) -> None:
        news = asyncio.Event()
        (pages,) = registry._db.execute("PRAGMA page_count").fetchone()
        registry._db.execute(f"PRAGMA max_page_count = {pages}")
        with journal.waking(news):
            for _ in range(20):
                journal.record("error", "a1", message="x" * 100_000)
                assert not registry.save()
            assert (numbers(journal), news.is_set()) == ([], False)

            registry._db.execute("PRAGMA max_page_count = 1000000")
            assert registry.save()

            assert news.is_set()
        assert numbers(journal) == stored(path) == list(range(1, 21))

    run(path, test)
