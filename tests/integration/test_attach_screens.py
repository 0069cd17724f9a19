"""Full-screen programs as agents, looked at and typed into through terminals of tmux."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from descartesd.client import Client
from tests.support.agents import left_empty, spec, until_state
from tests.support.eventually import eventually
from tests.support.server import Server, gone
from tests.support.tmux import Tmux, Window

VIM_PROGRAM = shutil.which("vim") or shutil.which("vim.tiny")
pytestmark = pytest.mark.skipif(
    not (VIM_PROGRAM and all(map(shutil.which, ("tmux", "less", "htop")))),
    reason="needs tmux, vim or vim-tiny, less and htop",
)
LEAVE = ("C-]", "d")
VIM = (str(VIM_PROGRAM), "-N", "-u", "NONE", "-i", "NONE", "-n")
# Nothing of a full-screen program is left in a window.
ORDINARY = "0 0 0 1 0"


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client(wait_for_server_s=30) as client, left_empty(client):
        yield client


@pytest.fixture
def tmux(shared_server: Server) -> Iterator[Tmux]:
    with Tmux(shared_server) as tmux:
        yield tmux


def attach(tmux: Tmux, *words: str, rows: int = 24, cols: int = 80) -> Window:
    return tmux.window("descartesctl", "agent", "attach", *words, rows=rows, cols=cols)


def spawn(client: Client, *command: str, rows: int = 24, cols: int = 80) -> str:
    return client.agent.spawn(spec=spec(*command, name="a", tty={"rows": rows, "cols": cols})).id


def vim_has(window: Window, rows: int, cols: int) -> None:
    """Ask vim for its size until it is that: a screen drawn anew loses the answer."""

    def answers(name: str, value: int) -> bool:
        window.writes(f":set {name}?\r")
        return f"{name}={value}" in window.screen

    eventually(lambda: answers("lines", rows), timeout=10, step=0.1)
    eventually(lambda: answers("columns", cols), timeout=10, step=0.1)


def same_screen(one: Window, other: Window) -> None:
    eventually(lambda: one.screen == other.screen, timeout=10, step=0.05)


def test_vim_is_typed_into_left_and_found_again(tmux: Tmux, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    window = tmux.window(
        *("descartesctl", "agent", "spawn", "--name", "a", "--tty", "--attach", "--"),
        *VIM,
        file,
    )
    window.shows('notes.txt" [New]', "~")

    window.writes("ihello grün \x1b")
    window.shows("hello grün")
    window.resize(30, 100)
    vim_has(window, 30, 100)
    window.types(*LEAVE)
    window.shows("left a; it goes on", "[0]")
    assert window.mode == ORDINARY
    assert client.agent.get(id="a").state == "running"

    again = attach(tmux, "a", rows=20, cols=60)
    again.shows("hello grün", "~")
    vim_has(again, 20, 60)
    again.writes(":wq\r")
    again.shows("a: completed, exit 0", "[0]")
    assert again.mode == ORDINARY
    assert file.read_text() == "hello grün \n"


def test_attachment_goes_on_over_a_crash_of_the_server(
    tmux: Tmux, client: Client, shared_server: Server, tmp_path: Path
) -> None:
    spawn(client, *VIM, str(tmp_path / "notes.txt"))
    window = attach(tmux, "a")
    window.shows("~")
    window.writes("ibefore \x1b")
    window.shows("before")

    shared_server.kill()
    window.shows("waiting for it")
    window.writes("ameanwhile \x1b")
    shared_server.start()
    window.shows("before meanwhile", "~")
    assert "waiting" not in window.screen
    window.writes("aafter\x1b:wq\r")
    window.shows("a: completed, exit 0", "[0]")

    assert (tmp_path / "notes.txt").read_text() == "before meanwhile after\n"


def test_several_look_on_and_one_writes(tmux: Tmux, client: Client, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"line {n}\n" for n in range(1, 200)))
    spawn(client, "less", str(text))
    writer = attach(tmux, "a")
    writer.shows("line 23")

    refused = attach(tmux, "a")
    refused.shows("error: agent 'a' is being written to by admin", "--steal", "[7]")
    watchers = [attach(tmux, "--watch", "a") for _ in range(2)]
    for watcher in watchers:
        watcher.shows("line 23")
    writer.writes("50g")
    writer.shows("line 50", "line 72")
    for watcher in watchers:
        same_screen(watcher, writer)
    watchers[0].writes("q")
    watchers[0].types(*LEAVE)
    watchers[0].shows("left a; it goes on", "[0]")
    watchers[1].types("C-c")
    watchers[1].shows("[130]")
    assert watchers[1].mode == ORDINARY

    thief = attach(tmux, "--steal", "a")
    thief.shows("line 50", "line 72")
    writer.shows("error: admin has taken over agent 'a'", "[7]")
    assert writer.mode == ORDINARY
    thief.writes("q")
    thief.shows("a: completed, exit 0", "[0]")


def test_agent_without_a_terminal_is_written_to_in_lines(tmux: Tmux, client: Client) -> None:
    client.agent.spawn(spec=spec("cat", name="b", stdin="pipe"))
    window = attach(tmux, "b")
    window.shows("attached to b; leave with ctrl-d")

    window.writes("one\rtwo")
    window.shows("one")
    window.types("C-u")
    window.writes("three\r")
    assert "two" not in window.shows("three")
    window.types("C-d")

    window.shows("left b; it goes on", "[0]")
    assert client.agent.get(id="b").state == "running"


def test_htop_is_drawn_to_every_size_and_quits_on_its_key(tmux: Tmux, client: Client) -> None:
    spawn(client, "htop", "--no-color")
    window = attach(tmux, "a", rows=15, cols=90)
    window.shows("PID")
    eventually(lambda: _row_of(window, "F10Quit") == 15, step=0.05)

    window.resize(25, 100)
    eventually(lambda: _row_of(window, "F10Quit") == 25, step=0.05)
    window.types("F10")

    window.shows("a: completed, exit 0", "[0]")


def test_terminal_is_put_back_whatever_ends_the_command(tmux: Tmux, client: Client) -> None:
    spawn(client, "htop", "--no-color")

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        window = attach(tmux, "a")
        window.shows("F10Quit")
        before = _settings(window)
        [process] = _running(window)
        process.send_signal(number)
        window.shows(f"[{128 + number}]")
        assert window.mode == ORDINARY
        assert before != _settings(window)
        assert " icanon" in _settings(window)
        gone(process.pid)
    client.agent.kill(id="a")
    until_state(client, "a", "terminated")


def test_no_key_ends_or_stops_who_looks_on_but_ctrl_c(tmux: Tmux, client: Client) -> None:
    spawn(client, "sh", "-c", "echo here; exec sleep 60")
    window = attach(tmux, "--watch", "a")
    window.shows("here")

    window.types("C-\\", "C-z", "C-c")

    window.shows("[130]")
    assert " icanon" in _settings(window)


def _row_of(window: Window, word: str) -> int:
    lines = enumerate(window.screen.splitlines(), 1)
    return next((number for number, line in lines if word in line), 0)


def _settings(window: Window) -> str:
    done = subprocess.run(
        ["stty", "-a", "-F", window.tty], capture_output=True, text=True, check=True
    )
    return done.stdout


def _running(window: Window) -> list[psutil.Process]:
    """The descartesctl of a window."""
    device = os.stat(window.tty).st_rdev
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "attach" in (process.info["cmdline"] or ()) and _terminal(process.pid) == device
    ]


def _terminal(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/fd/0").st_rdev
    except OSError:
        return -1
