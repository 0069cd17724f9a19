"""Actions that take their time: their progress is told, and they end with who waits for them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError
from tests.support.eventually import eventually
from tests.support.plugins import PluggedServer
from tests.support.server import BIN

SLOW = """
    import asyncio, pathlib
    from typing import Annotated
    from descartesd.api import Action, Meta, Struct, hookimpl

    class Where(Struct, forbid_unknown_fields=True):
        path: Annotated[str, Meta(description="where to write")]
        steps: Annotated[int, Meta(ge=1, le=99)] = 3

    def write(params, word):
        with open(params.path, "a") as file:
            file.write(word + "\\n")

    async def awaited(context, params):
        write(params, "begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            write(params, "cancelled")
            raise

    def threaded(context, params):
        write(params, "begun")
        write(params, "cancelled" if context.cancelled.wait(60) else "waited")

    def counted(context, params):
        for number in range(params.steps):
            context.progress(number + 1, params.steps, "counting")
        return {"counted": params.steps}

    async def stubborn(context, params):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                write(params, "no")
                if pathlib.Path(params.path + ".end").exists():
                    return
                await asyncio.sleep(0.01)

    @hookimpl
    def register_actions():
        return [
            Action(name=f"slow.{run.__name__}", summary="Take time.", run=run, params=Where,
                   timeout_s=0.2 if run is stubborn else 50)
            for run in (awaited, threaded, counted, stubborn)
        ]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PluggedServer]:
    settings = {"plugins.actions_at_once": 2}
    with PluggedServer({"slow": SLOW}, settings=settings) as made:
        made.start()
        yield made


def has(book: Path, *words: str) -> None:
    eventually(lambda: book.exists() and book.read_text().split() == list(words))


def test_progress_is_streamed_and_the_result_comes_last(
    server: PluggedServer, tmp_path: Path
) -> None:
    params = {"path": str(tmp_path / "book"), "steps": 5}
    with server.client() as client:
        items = list(client.action.follow(name="slow.counted", params=params))

    *steps, last = items
    assert last.result is not None
    assert last.result.result == {"counted": 5}
    assert steps
    assert (steps[-1].done, steps[-1].total, steps[-1].text) == (5, 5, "counting")


@pytest.mark.parametrize("name", ["slow.awaited", "slow.threaded"])
def test_an_action_is_cancelled_with_its_stream(
    server: PluggedServer, tmp_path: Path, name: str
) -> None:
    book = tmp_path / "book"
    with server.client() as client:
        stream = client.action.follow(name=name, params={"path": str(book)})
        waiting = threading.Thread(target=list, args=[stream])
        waiting.start()
        has(book, "begun")
        stream.close()
        waiting.join(10)

    has(book, "begun", "cancelled")


@pytest.mark.parametrize("name", ["slow.awaited", "slow.threaded"])
def test_an_action_is_cancelled_when_its_client_is_gone_or_interrupted(
    server: PluggedServer, tmp_path: Path, name: str
) -> None:
    for number in (signal.SIGKILL, signal.SIGINT):
        book = tmp_path / number.name
        words = ("action", "run", name, f"path={book}")
        with subprocess.Popen(
            [BIN / "descartesctl", "--profile", server.admin, *words],
            env=server.environ,
            stderr=subprocess.PIPE,
        ) as running:
            has(book, "begun")
            running.send_signal(number)
            status = running.wait(10)

        assert status == (130 if number == signal.SIGINT else -9)
        has(book, "begun", "cancelled")


def test_progress_is_a_bar_on_a_terminal(server: PluggedServer, tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    words = ("action", "run", "slow.counted", f"path={tmp_path}/book", "steps:=9")
    with subprocess.Popen(
        [BIN / "descartesctl", "--profile", server.admin, *words],
        env={**server.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=writer,
    ) as running:
        os.close(writer)
        shown = _read_to_end(reader)
        assert running.stdout is not None
        answer = running.stdout.read()
    os.close(reader)

    assert b"counting" in shown
    assert answer == b"counted  9\n"


def _read_to_end(reader: int) -> bytes:
    read = b""
    # The end of a terminal is EIO.
    with contextlib.suppress(OSError):
        while data := os.read(reader, 65536):
            read += data
    return read


def test_only_so_many_actions_run_at_once(server: PluggedServer, tmp_path: Path) -> None:
    book = tmp_path / "book"
    params = {"path": str(book)}
    with server.client() as client:
        streams = [
            client.action.follow(name=name, params=params)
            for name in ("slow.awaited", "slow.threaded")
        ]
        threads = [threading.Thread(target=list, args=[stream]) for stream in streams]
        for thread in threads:
            thread.start()
        has(book, "begun", "begun")

        with pytest.raises(ResourceExhaustedError, match=r"plugins\.actions_at_once"):
            client.action.run(name="ping")
        for stream in streams:
            stream.close()
        for thread in threads:
            thread.join(10)

        eventually(lambda: client.action.run(name="ping").result == "pong")


def test_an_action_that_ignores_its_end_keeps_nobody_waiting(
    server: PluggedServer, tmp_path: Path
) -> None:
    book = tmp_path / "book"
    (tmp_path / "book.end").touch()
    with server.client() as client, pytest.raises(DeadlineExceededError, match=r"slow\.stubborn"):
        client.action.run(name="slow.stubborn", params={"path": str(book)})

    has(book, "no")


def test_parameters_are_checked_before_anything_runs(server: PluggedServer, tmp_path: Path) -> None:
    params = {"path": str(tmp_path / "book"), "steps": 100}
    with server.client() as client, pytest.raises(InvalidArgumentError, match="steps"):
        list(client.action.follow(name="slow.counted", params=params))


def test_a_followed_action_is_in_the_audit_log(server: PluggedServer, tmp_path: Path) -> None:
    book = tmp_path / "book"
    server.ctl("action", "run", "slow.counted", f"path={book}")

    log = (server.directory / "state" / "audit.jsonl").read_text().splitlines()
    told = [line for line in map(json.loads, log) if line["method"] == "action.follow"]

    assert [line["phase"] for line in told[-2:]] == ["intent", "outcome"]
    assert told[-1]["target"] == "slow.counted"


def test_the_command_line_prints_the_result_and_the_help_of_an_action(
    server: PluggedServer, tmp_path: Path
) -> None:
    book = tmp_path / "book"
    done = server.ctl("--json", "action", "run", "slow.counted", f"path={book}", "steps:=2")
    keyed = server.ctl(
        "--json", "action", "run", "slow.counted", f"path={book}", "--idem", "one-key-for-it"
    )
    helped = server.ctl("action", "run", "slow.counted", "--help").stdout.decode()

    assert json.loads(done.stdout)["result"] == {"counted": 2}
    assert json.loads(keyed.stdout)["result"] == {"counted": 3}
    assert "slow.counted: Take time." in helped
    assert "  path=…  text, required, where to write" in helped
    assert "  steps:=…  integer from 1 to 99, default 3" in helped
