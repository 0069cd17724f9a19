"""The test double does what it stands for: stdin, signals, processes and turns of the real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.support.agents import is_alive
from tests.support.eventually import eventually
from tests.support.fakes import PROGRAM


class Double:
    """The double as a process, and the lines it has printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def tell(self, line: object) -> None:
        assert self.process.stdin is not None
        data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def until(self, kind: str) -> Any:
        while (line := self.line())["type"] != kind:
            continue
        return line

    def ends(self) -> tuple[int, list[Any]]:
        assert self.process.stdout is not None
        if self.process.stdin is not None:
            self.process.stdin.close()
        # Not communicate(): it passes over what readline() has read ahead.
        lines = [json.loads(line) for line in self.process.stdout]
        return self.process.wait(10), lines


@contextmanager
def double(*arguments: str, stdin: int = subprocess.DEVNULL) -> Iterator[Double]:
    argv = [sys.executable, "-I", "-S", str(PROGRAM), *arguments]
    with subprocess.Popen(
        argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield Double(process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def user(text: str) -> dict[str, object]:
    return {"type": "user", "message": {"role": "user", "content": text}}


@pytest.mark.parametrize("dialect", ["codex", "opencode"])
def test_open_stdin_is_waited_for(dialect: str) -> None:
    with double("--dialect", dialect, "--", "hello", stdin=subprocess.PIPE) as agent:
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(0.3)

        status, lines = agent.ends()

    assert (status, bool(lines)) == (0, True)


@pytest.mark.parametrize(
    ("dialect", "number", "status"),
    [
        ("claude", signal.SIGINT, 0),
        ("claude", signal.SIGTERM, 143),
        ("codex", signal.SIGINT, 1),
        ("codex", signal.SIGTERM, -signal.SIGTERM),
        ("opencode", signal.SIGTERM, -signal.SIGTERM),
        ("gemini", signal.SIGTERM, 0),
    ],
)
def test_signal_to_the_group_ends_each_in_its_way(dialect: str, number: int, status: int) -> None:
    with double("--dialect", dialect, "--", "[[hang]]") as agent:
        agent.line()

        os.killpg(agent.process.pid, number)

        ended, lines = agent.ends()
    assert ended == status
    told = [line["is_error"] for line in lines if "is_error" in line]
    assert told == ([True] if (dialect, number) == ("claude", signal.SIGINT) else [])


def test_parent_of_gemini_ignores_what_only_it_is_told() -> None:
    with double("--dialect", "gemini", "--", "[[slow: 8]]") as agent:
        agent.line()
        agent.process.send_signal(signal.SIGTERM)

        status, lines = agent.ends()

    assert (status, lines[-1]["status"]) == (0, "success")


def test_tool_has_a_session_of_its_own_and_outlives_a_kill_of_the_group() -> None:
    with double("--dialect", "opencode", "--", "[[run: exec sleep 60]]") as agent:
        agent.line()
        [tool] = eventually(psutil.Process(agent.process.pid).children)
        eventually(lambda: tool.name() == "sleep")
        assert os.getsid(tool.pid) == tool.pid

        os.killpg(agent.process.pid, signal.SIGKILL)
        agent.process.wait()

        assert is_alive(tool)
        tool.kill()


def test_chat_has_several_turns_and_one_can_be_broken_off() -> None:
    with double("--dialect", "claude", "--chat", stdin=subprocess.PIPE) as agent:
        agent.tell(user("[[spend: 5]]"))
        assert agent.until("result")["is_error"] is False
        agent.tell(user("[[hang]]"))
        agent.until("system")
        agent.tell({"type": "pause"})
        agent.tell(
            {"type": "control_request", "request_id": "r", "request": {"subtype": "interrupt"}}
        )
        assert agent.until("control_response")["response"]["subtype"] == "success"
        assert agent.until("result")["is_error"] is True
        agent.tell(user("[[big: 400]]"))
        assert len(agent.until("assistant")["message"]["content"][0]["text"]) == 400 * 1024

        status, lines = agent.ends()

    assert (status, lines[-1]["total_cost_usd"]) == (0, pytest.approx(0.012))


def test_illegible_line_ends_claude_and_is_answered_by_pi() -> None:
    with double("--dialect", "claude", "--chat", stdin=subprocess.PIPE) as agent:
        agent.tell(b"garbage\n")
        assert agent.ends() == (1, [])

    with double("--dialect", "pi", "--chat", stdin=subprocess.PIPE) as agent:
        agent.tell(b"garbage\n")
        assert agent.line()["success"] is False
        agent.tell({"type": "prompt", "message": "hello"})
        agent.until("agent_end")
        assert agent.ends()[0] == 0
