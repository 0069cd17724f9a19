"""Listening under bad conditions: no watch, bytes that are gone, ends that come too early."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.agents import monitor as module
from descartesd.agents.book import Book
from descartesd.agents.follow import Waker, Watches
from descartesd.agents.journal import Journal
from descartesd.agents.monitor import Monitor
from descartesd.agents.output import OutputFiles
from descartesd.agents.record import Agent
from descartesd.agents.registry import Registry
from descartesd.keeper import protocol
from tests.support.scriptedkeeper import record, status

INIT = {"type": "system", "subtype": "init", "session_id": "s1"}
DONE = {"type": "result", "session_id": "s1", "is_error": False, "usage": {"input_tokens": 5}}


class NoWatches:
    """Of a kernel that gives no further watch."""

    @contextlib.contextmanager
    def watching(self, _name: str, _waker: Waker) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "no space left")
        yield


class Scene:
    """One agent that speaks, and the monitor that hears it."""

    def __init__(self, directory: Path, watches: Any = None) -> None:
        self.directory = directory
        self.registry = Registry(str(directory / "registry.sqlite"))
        self.book = Book(self.registry, Journal(self.registry), OutputFiles(str(directory)), "here")
        self.watches = watches or Watches(asyncio.get_running_loop(), str(directory))
        self.monitor = Monitor(self.book, self.watches, self.pause)
        self.agent = record(1, dialect="claude")
        self.book.add(self.agent)
        self.applied = 0

    async def pause(self, agent: Agent) -> None:
        raise AssertionError(agent)

    @property
    def path(self) -> Path:
        return Path(protocol.data_path(str(self.directory), self.agent.id, "stdout"))

    def say(self, *lines: object) -> None:
        with self.path.open("ab") as file:
            for line in lines:
                file.write(json.dumps(line).encode() + b"\n")

    def drop_before(self, offset: int) -> None:
        index = protocol.index_path(str(self.directory), self.agent.id, "stdout")
        Path(index).write_bytes(protocol.INDEX_HEADER.pack(protocol.INDEX_MAGIC, 0, offset))

    def ends(self, *, eof: bool, exit_code: int = 0) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        said = status(self.agent, "exited", exit_code=exit_code, eof=eof)
        said["totals"] = {"stdout": size, "stderr": 0}
        self.monitor.hear_out(self.agent, said, self.apply)

    def apply(self) -> None:
        self.applied += 1

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not wanted():  # noqa: ASYNC110 - nothing tells a test of it
                await asyncio.sleep(0.005)


def run(
    directory: Path, test: Callable[[Scene], Any], *, watches: Any = None, listens: bool = True
) -> None:
    async def inside() -> None:
        scene = Scene(directory, watches)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(scene.monitor.run()) if listens else None
                await test(scene)
                if listening is not None:
                    listening.cancel()
        finally:
            if isinstance(scene.watches, Watches):
                scene.watches.close()
            scene.registry.close()

    asyncio.run(inside())


def test_without_a_watch_it_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.05)

    async def test(scene: Scene) -> None:
        assert scene.book.views.info(scene.agent).activity == "unknown"
        scene.say(INIT)
        await scene.until(lambda: scene.book.views.info(scene.agent).activity == "thinking")
        scene.say(DONE)
        await scene.until(lambda: scene.book.views.info(scene.agent).tokens == 5)

    run(tmp_path, test, watches=NoWatches())


def test_named_dialect_is_initializing_until_it_speaks(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        await scene.until(lambda: scene.book.views.info(scene.agent).activity == "initializing")
        scene.say(INIT)
        await scene.until(lambda: scene.book.views.info(scene.agent).activity == "thinking")

    run(tmp_path, test)


def asks(number: int, size: int) -> dict[str, object]:
    request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"x": "x" * size}}
    return {"type": "control_request", "request_id": f"q{number}", "request": request}


@pytest.mark.parametrize(("size", "least_s", "most_s"), [(100, 0.4, 0.6), (900_000, 3.4, 4.5)])
def test_the_larger_the_record_the_seldomer_it_is_written(
    tmp_path: Path, size: int, least_s: float, most_s: float
) -> None:
    async def test(scene: Scene) -> None:
        scene.say(*(asks(number, size) for number in range(4)))
        monitor, agent = scene.monitor, scene.agent
        ear = monitor._ear(agent)
        assert ear is not None
        while len(monitor.questions(agent.id)) < 4:
            monitor._hear(ear)
        monitor._tell(ear, at_once=True)

        assert least_s < ear.quiet_until - time.monotonic() < most_s

    run(tmp_path, test, listens=False)


def test_behind_bytes_that_are_gone_the_next_whole_line_counts(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.say(DONE, DONE, DONE)
        length = scene.path.stat().st_size // 3
        scene.drop_before(length + length // 2)
        scene.ends(eof=True)

        assert scene.applied == 1
        assert scene.agent.report is not None
        assert (scene.agent.report.tokens, scene.agent.report.ignored) == (5, 0)
        assert scene.agent.report.offset == 3 * length

    run(tmp_path, test, listens=False)


def test_clean_exit_is_noted_once_the_output_has_ended(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.say(INIT)
        scene.ends(eof=False)
        assert scene.applied == 0

        scene.say(DONE)
        scene.ends(eof=True)
        assert scene.applied == 1
        assert scene.agent.report is not None
        assert not scene.agent.report.lacks_result

    run(tmp_path, test, listens=False)


def test_other_exit_is_noted_at_once(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.say(INIT)
        scene.ends(eof=False, exit_code=3)
        assert scene.applied == 1

    run(tmp_path, test, listens=False)


def test_end_is_noted_though_the_rest_of_the_output_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)

    async def test(scene: Scene) -> None:
        scene.say(INIT)
        scene.ends(eof=False)
        await scene.until(lambda: scene.applied == 1)
        # What was held back is heard all the same, for its sums.
        scene.say(DONE)
        scene.ends(eof=True)
        await scene.until(lambda: scene.applied == 2)
        assert scene.book.views.info(scene.agent).tokens == 5

    run(tmp_path, test)


def test_who_waits_for_a_line_is_told_or_cancelled(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.say(INIT)
        wanted = scene.monitor.line(scene.agent, lambda line: b"result" in line)
        never = scene.monitor.line(scene.agent, lambda _: False)
        scene.say(INIT, DONE)
        await wanted
        assert not never.done()

        scene.agent.eof = True
        scene.book.wake(scene.agent)
        with pytest.raises(asyncio.CancelledError):
            await never

    run(tmp_path, test)


def test_agent_without_a_dialect_is_left_alone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.agent.dialect = None
        scene.say(INIT)
        scene.ends(eof=False)

        assert scene.applied == 1
        assert scene.agent.report is None
        assert scene.monitor.questions(scene.agent.id) == []
        assert scene.monitor.line(scene.agent, lambda _: True).cancelled()

    run(tmp_path, test, listens=False)
