"""Room for large messages, by what a connection has read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import zmq

from descartesd.transport.unread import LARGE, WINDOW, Unread

FD = 7


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


async def taking(unread: Unread, size: int, entered: list[int], leave: asyncio.Event) -> None:
    async with unread.room(FD, size):
        entered.append(size)
        await leave.wait()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_asks_for_more_than_there_is_waits_in_order() -> None:
    async def scenario() -> None:
        unread, leave = Unread(), asyncio.Event()
        entered: list[int] = []
        async with asyncio.TaskGroup() as group:
            async with unread.room(FD, WINDOW):
                for size in (WINDOW // 2, WINDOW, 10):
                    group.create_task(taking(unread, size, entered, leave))
                await turn()
                assert entered == []
            await turn()
            # The small one would fit, but it came later.
            assert entered == [WINDOW // 2]
            leave.set()
        assert entered == [WINDOW // 2, WINDOW, 10]

    in_loop(scenario)


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    async def scenario() -> None:
        unread, leave = Unread(), asyncio.Event()
        entered: list[int] = []
        leave.set()
        async with asyncio.TaskGroup() as group, unread.room(FD, WINDOW):
            gone = group.create_task(taking(unread, WINDOW, entered, leave))
            group.create_task(taking(unread, 10, entered, leave))
            await turn()
            gone.cancel()
        assert entered == [10]

    in_loop(scenario)


def test_who_is_cancelled_in_its_turn_gives_it_back() -> None:
    async def scenario() -> None:
        unread, leave = Unread(), asyncio.Event()
        entered: list[int] = []
        async with asyncio.TaskGroup() as group:
            async with unread.room(FD, WINDOW):
                gone = group.create_task(taking(unread, WINDOW, entered, leave))
                await turn()
            gone.cancel()
        async with unread.room(FD, WINDOW):
            assert entered == []

    in_loop(scenario)


def test_more_than_the_window_is_taken_alone() -> None:
    async def scenario() -> None:
        unread = Unread()
        async with unread.room(FD, 100 * WINDOW):
            assert not unread.is_full(FD)

    in_loop(scenario)


def test_what_libzmq_has_let_go_of_counts_no_longer() -> None:
    async def scenario() -> None:
        unread = Unread()
        with zmq.Context() as context, context.socket(zmq.PAIR) as near:
            near.bind("inproc://unread")
            near.sndhwm = 0
            with context.socket(zmq.PAIR) as far:
                far.connect("inproc://unread")
                for _ in range(2 * WINDOW // LARGE):
                    near.send(unread.pack(FD, bytes(LARGE)))
                assert unread.is_full(FD)
                for _ in range(2 * WINDOW // LARGE):
                    far.recv()
                async with unread.room(FD, WINDOW):
                    pass
                assert not unread.is_full(FD)

    in_loop(scenario)


def test_of_a_connection_that_is_closed_nothing_is_kept() -> None:
    async def scenario() -> None:
        unread = Unread()
        unread.pack(FD, bytes(2 * WINDOW))
        unread.drop(FD)
        assert not unread.is_full(FD)
        assert not unread.windows

    in_loop(scenario)
