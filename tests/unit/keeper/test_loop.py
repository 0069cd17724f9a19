"""The loop: order, fairness, timers."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from descartesd.keeper.loop import PIPES_PER_TURN, Loop, Steps, boottime


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    """Twelve pipes with a byte in each."""
    made = [os.pipe() for _ in range(12)]
    for _, writer in made:
        os.write(writer, b"x")
    yield made
    for each in made:
        for fd in each:
            os.close(fd)


def test_timers_come_in_order_and_not_early(loop: Loop) -> None:
    came: list[tuple[str, float]] = []
    began = boottime()

    def note(name: str) -> None:
        came.append((name, boottime() - began))

    loop.call_later(0.02, lambda: note("second"))
    loop.call_later(0.01, lambda: note("first"))
    loop.call_later(0.015, lambda: note("never")).cancel()
    loop.call_later(0.03, loop.stop)
    loop.run()

    assert [name for name, _ in came] == ["first", "second"]
    assert came[0][1] >= 0.01
    assert came[1][1] >= 0.02


def test_timer_planned_for_now_comes_in_the_next_turn(loop: Loop) -> None:
    turns: list[int] = []

    def again() -> None:
        turns.append(loop.turn)
        if len(turns) == 3:
            loop.stop()
        loop.call_later(0, again)

    loop.call_later(0, again)
    loop.run()

    assert turns == [turns[0], turns[0] + 1, turns[0] + 2]


def test_task_waits_as_long_as_it_asks_and_can_be_cancelled(loop: Loop) -> None:
    came: list[str] = []

    def steps(name: str) -> Steps:
        try:
            while True:
                came.append(name)
                yield 0.01
        finally:
            came.append(f"{name} closed")

    first = loop.start(steps("a"))
    assert came == ["a"]
    loop.call_later(0.015, first.cancel)
    loop.call_later(0.05, loop.stop)
    loop.run()
    first.cancel()

    assert came == ["a", "a", "a closed"]


def test_control_is_served_between_few_pipes(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    served: list[str] = []
    reader, writer = os.pipe()
    os.write(writer, b"x")
    loop.watch(reader, lambda _: served.append("control"))
    for fd, _ in pipes:
        loop.watch_pipe(fd, lambda _: served.append("pipe"))
    loop.call_after_turn(lambda: loop.stop() if len(served) > 30 else None)

    loop.run()

    expected = ["control", *["pipe"] * PIPES_PER_TURN]
    assert served[:15] == expected * 3
    os.close(reader)
    os.close(writer)


def test_pipes_take_turns(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    served = dict.fromkeys((fd for fd, _ in pipes), 0)

    def serve(fd: int) -> None:
        served[fd] += 1

    for fd, _ in pipes:
        loop.watch_pipe(fd, lambda _, fd=fd: serve(fd))  # type: ignore[misc] # bound early
    loop.call_after_turn(lambda: loop.stop() if loop.turn == 30 else None)

    loop.run()

    assert set(served.values()) == {30 * PIPES_PER_TURN // len(pipes)}


def test_callback_may_end_what_is_still_to_be_served(
    loop: Loop, pipes: list[tuple[int, int]]
) -> None:
    served: list[int] = []

    def serve(_: int) -> None:
        served.append(1)
        for fd, _writer in pipes:
            loop.unwatch_pipe(fd)
        loop.stop()

    for fd, _ in pipes:
        loop.watch_pipe(fd, serve)
    loop.run()

    assert served == [1]


def test_events_waited_for_can_be_changed(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    masks: list[int] = []
    reader, writer = pipes[0]
    loop.watch_pipe(writer, masks.append, events=0)
    loop.watch(reader, masks.append, events=0)
    loop.call_later(0.01, lambda: loop.rewatch_pipe(writer, events=select.EPOLLOUT))
    loop.call_later(0.02, lambda: loop.rewatch_pipe(writer, events=0))
    loop.call_later(0.03, lambda: loop.rewatch(reader, events=select.EPOLLIN))
    loop.call_later(0.04, loop.stop)

    loop.run()

    assert set(masks) == {select.EPOLLIN, select.EPOLLOUT}
    assert masks == sorted(masks, reverse=True)
