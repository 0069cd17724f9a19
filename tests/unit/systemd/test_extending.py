"""Time is asked for as long as a start or a stop gets on, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from descartesd.systemd import extending as module
from descartesd.systemd.extending import extending
from descartesd.systemd.notify import Notifier
from descartesd.systemd.status import stopping_sentence
from tests.support.manager import Hearing


@pytest.fixture
def hearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hearing]:
    heard = Hearing(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(heard.path))
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    yield heard
    heard.close()


def extended(hearing: Hearing) -> int:
    """How often time was asked for."""
    return len(hearing.values("EXTEND_TIMEOUT_USEC"))


def during(state: Callable[[], object], until: Callable[[], bool], **bounds: float) -> None:
    """Ask for time until something holds."""

    async def test() -> None:
        notifier = Notifier.from_environment()
        async with extending(notifier, state, **bounds), asyncio.timeout(20):
            while not until():  # noqa: ASYNC110  # what is waited for is told to a socket
                await asyncio.sleep(0.01)
        notifier.close()

    asyncio.run(test())


def test_time_is_asked_for_again_and_again_while_something_happens(hearing: Hearing) -> None:
    numbers = iter(range(10_000))
    during(numbers.__next__, lambda: extended(hearing) >= 20, patience_s=0.2, longest_s=60)

    assert set(hearing.values("EXTEND_TIMEOUT_USEC")) == {"10000000"}
    told = extended(hearing)
    asyncio.run(asyncio.sleep(0.05))
    assert extended(hearing) == told


@pytest.mark.parametrize(
    ("moves", "bounds"),
    [(False, {"patience_s": 0.1, "longest_s": 60}), (True, {"patience_s": 60, "longest_s": 0.1})],
    ids=["nothing happens any more", "it takes too long"],
)
def test_no_more_time_is_asked_for(
    hearing: Hearing, caplog: pytest.LogCaptureFixture, moves: bool, bounds: dict[str, float]
) -> None:
    numbers = iter(range(10_000))
    told = lambda: "systemd.no_more_time" in caplog.messages  # noqa: E731

    during(lambda: moves and next(numbers), told, **bounds)

    assert extended(hearing) > 1


def test_without_systemd_nobody_is_asked() -> None:
    async def test() -> None:
        async with extending(Notifier(), lambda: 1 / 0, patience_s=1, longest_s=1):
            await asyncio.sleep(0)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        ((0, 0), "stopping"),
        ((1, 0), "stopping: 1 agent left"),
        ((2, 1), "stopping: 2 agents and 1 request left"),
    ],
)
def test_status_of_a_stop_says_what_is_left(left: tuple[int, int], sentence: str) -> None:
    assert stopping_sentence(*left) == sentence
