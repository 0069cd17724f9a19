"""The lines of the log: what one turn of the loop has to say at once, and nothing lost of it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from descartesd.observe.logs import set_up, tell

log = logging.getLogger("descartesd.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging._srcfile
    written = io.StringIO()
    set_up("info", "json", written)
    yield written
    root.handlers[:], root.level, logging._srcfile = before


def events(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_lines_of_a_turn_are_written_in_their_order_when_it_is_over(stream: io.StringIO) -> None:
    async def turn() -> tuple[list[str], list[str]]:
        log.info("first")
        tell(log, logging.INFO, "second", {"agent": "a"})
        log.info("third")
        before = events(stream)
        await asyncio.sleep(0)
        return before, events(stream)

    assert asyncio.run(turn()) == ([], ["first", "second", "third"])


def test_warning_is_written_at_once_with_what_came_before_it(stream: io.StringIO) -> None:
    async def turn() -> list[str]:
        log.info("first")
        log.warning("second")
        return events(stream)

    assert asyncio.run(turn()) == ["first", "second"]


def test_without_a_loop_nothing_waits(stream: io.StringIO) -> None:
    tell(log, logging.INFO, "told", {})

    assert events(stream) == ["told"]


def test_end_of_the_process_leaves_nothing_unwritten(stream: io.StringIO) -> None:
    async def turn() -> None:
        log.info("last")

    with asyncio.Runner() as runner:
        runner.run(turn())
        logging.getLogger().handlers[0].flush()

    assert events(stream) == ["last"]


def test_line_told_the_short_way_looks_like_any_other(stream: io.StringIO) -> None:
    tell(log, logging.INFO, "told", {"agent": "a", "at\n": "b\x1b"})
    log.info("told", extra={"agent": "a", "at\n": "b\x1b"})

    short, long = (json.loads(line) for line in stream.getvalue().splitlines())
    assert abs(short.pop("time") - long.pop("time")) < 5
    assert short == long


def test_another_listener_hears_of_it_as_well(stream: io.StringIO) -> None:
    heard: list[logging.LogRecord] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record)

    logging.getLogger().addHandler(Other())
    tell(log, logging.INFO, "told", {"agent": "a"})

    assert events(stream) == ["told"]
    assert [(each.getMessage(), each.__dict__["agent"]) for each in heard] == [("told", "a")]
