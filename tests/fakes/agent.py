#!/usr/bin/env python3
"""A test double of the coding CLIs: their lines, their signals, their processes, their traps.

It is a program of its own, standard library only, and starts as fast as Python does:

    agent.py --dialect claude [--chat] [--resume SESSION] -- TASK
    agent.py --tui

The task's text decides what it does, in this order of words:

    [[run: CMD]]      runs CMD as a tool, in a session of its own; its exit status changes nothing
    [[detach: CMD]]   a tool that leaves CMD behind as a daemon, double-forked
    [[slow: N]]       N pieces of text, 0.05 s apart          [[silent: S]]  nothing for S seconds
    [[big: KB]]       one line of so many kilobytes           [[garbage]]    lines that are no JSON
    [[spend: N]]      the turn costs N tokens, N/1000 dollars [[progress: P]]
    [[ask: TOOL]]     asks leave for a tool and waits for the answer (claude, chat)
    [[hang]]          silence until a signal                  [[cut]]        half a line, then hangs
    [[http: CODE]]    the model's host refuses                [[exit: N]]    exits with N at once
    [[die: SIGNAL]]   dies by a signal

As the real ones do, codex and opencode read their stdin to its end first; gemini and codex are a
launcher and a child; claude ends a turn at SIGINT and exits with 0, gemini exits with 0 and
without a word at SIGTERM; opencode and gemini leave their tools behind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent))
    from voices import VOICES, Claude, Voice, raw, say
else:
    from tests.fakes.voices import VOICES, Claude, Voice, raw, say

PROGRAM = str(Path(__file__).resolve())
_DIRECTIVE = re.compile(r"\[\[(\w+)(?::\s*([^\]]*))?\]\]")
_STEP_S = 0.05
_ASKED_S = 300.0


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The turn is to end now."""


class Told(Exception):  # noqa: N818 - it is no error
    """A signal has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Agent:
    """One conversation."""

    def __init__(self, voice: Voice, dialect: str, *, is_chat: bool) -> None:
        self.voice = voice
        self.dialect = dialect
        self.is_chat = is_chat
        self.tools = 0
        self.tool: subprocess.Popen[bytes] | None = None
        self.prompts: list[str] = []
        self.answers: dict[str, Any] = {}
        self.unread = b""
        self.is_at_end = not is_chat

    # -- turns

    def turn(self, task: str) -> None:
        """One turn: what the task's directives say, then an end."""
        self.voice.begin()
        spent = 7
        for name, value in _DIRECTIVE.findall(task):
            if name == "spend":
                spent = int(value)
            elif name == "http":
                self.voice.failed(f"unexpected status {value}")
                sys.exit(int(value) & 255 if self.dialect == "gemini" else 1)
            else:
                self.directives()[name](value)
        self.voice.text("PONG")
        self.voice.end(spent)

    def directives(self) -> dict[str, Callable[[str], None]]:
        return {
            "run": self.run,
            "detach": self.detach,
            "slow": self.slow,
            "silent": lambda value: self.wait(float(value)),
            "big": lambda value: self.voice.text("x" * (int(value) * 1024)),
            "garbage": lambda _: raw(b'plain words\n{"type": \n\xff\xfe\x00\n[1, 2]\n'),
            "progress": lambda value: self.voice.progress(float(value)),
            "ask": self.ask,
            "hang": lambda _: self.wait(3600.0),
            "cut": self.cut,
            "exit": lambda value: sys.exit(int(value)),
            "die": lambda value: die(getattr(signal, f"SIG{value}")),
        }

    def run(self, command: str) -> None:
        tool_id = self.next_tool(command)
        # In a session of its own, as all of them do.
        self.tool = subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        while self.tool.poll() is None:
            self.wait(_STEP_S)
        assert self.tool.stdout is not None
        # What the tool has left behind may hold the pipe: nobody waits for its end.
        os.set_blocking(self.tool.stdout.fileno(), False)
        output = self.tool.stdout.read() or b""
        self.tool = None
        self.voice.tool_done(tool_id, command, output.decode(errors="replace"))

    def detach(self, command: str) -> None:
        tool_id = self.next_tool(command)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                os.execv("/bin/bash", ["/bin/bash", "-c", command])
            os._exit(0)
        os.wait()
        self.voice.tool_done(tool_id, command, "")

    def next_tool(self, command: str) -> str:
        self.tools += 1
        tool_id = f"tool_{self.tools}"
        self.voice.tool(tool_id, command)
        return tool_id

    def slow(self, count: str) -> None:
        for number in range(int(count)):
            self.voice.text(f"piece {number}")
            self.wait(_STEP_S)

    def cut(self, _: str) -> None:
        raw(b'{"type":"assistant","session_id":"')
        self.wait(3600.0)

    def ask(self, tool: str) -> None:
        assert isinstance(self.voice, Claude)
        tool_id = self.next_tool(tool)
        asked = str(uuid.uuid4())
        request = {
            "subtype": "can_use_tool",
            "tool_name": tool,
            "input": {"command": "rm -rf build"},
            "tool_use_id": tool_id,
        }
        self.voice.state("requires_action")
        say(type="control_request", request_id=asked, request=request)
        until = time.monotonic() + _ASKED_S
        while asked not in self.answers and time.monotonic() < until:
            self.wait(_STEP_S)
        self.voice.state("running")
        behavior = self.answers[asked].get("behavior")
        self.voice.tool_done(tool_id, tool, f"was answered: {behavior}")

    # -- stdin

    def wait(self, seconds: float) -> None:
        """Let time pass; a chat hears what it is told meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.is_at_end:
                time.sleep(left)
            elif select.select([0], [], [], left)[0]:
                self.hear()

    def hear(self) -> None:
        data = os.read(0, 65536)
        self.is_at_end = not data
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            self.obey(line)

    def obey(self, line: bytes) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            if self.dialect == "pi":
                say(type="response", command="parse", success=False, error="no JSON")
                return
            sys.stderr.write("Error parsing streaming input line\n")
            sys.exit(1)
        if self.dialect == "pi":
            self.obey_rpc(told)
        else:
            self.obey_stream(told)

    def obey_rpc(self, told: dict[str, Any]) -> None:
        kind = told.get("type")
        if kind == "prompt":
            self.prompts.append(told["message"])
        is_known = kind in ("prompt", "get_state")
        data = {"sessionId": self.voice.session} if kind == "get_state" else {}
        say(type="response", command=kind, success=is_known, data=data)

    def obey_stream(self, told: dict[str, Any]) -> None:
        kind = told.get("type")
        if kind == "user":
            self.prompts.append(text_of(told["message"]["content"]))
        elif kind == "control_response":
            response = told["response"]
            self.answers[response["request_id"]] = response.get("response", {})
        elif kind == "control_request":
            is_known = told["request"]["subtype"] == "interrupt"
            subtype = "success" if is_known else "error"
            response = {"subtype": subtype, "request_id": told["request_id"]}
            say(type="control_response", response=response)
            if is_known:
                raise Interrupted

    # -- life

    def chat(self) -> None:
        while self.prompts or not self.is_at_end:
            while not self.prompts and not self.is_at_end:
                select.select([0], [], [])
                try:
                    self.hear()
                except Interrupted:
                    continue
            if self.prompts:
                try:
                    self.turn(self.prompts.pop(0))
                except Interrupted:
                    self.kill_tool()
                    self.voice.failed("aborted_streaming")

    def kill_tool(self) -> None:
        if self.tool is not None:
            os.killpg(self.tool.pid, signal.SIGKILL)
            self.tool.wait()
            self.tool = None

    def live(self, task: str) -> int:
        """All of it; the exit status."""
        try:
            if self.is_chat:
                self.chat()
            else:
                self.turn(task)
        except Told as told:
            return self.end_by(told.number)
        return 0

    def end_by(self, number: int) -> int:
        if self.dialect == "claude":
            self.kill_tool()
            if number == signal.SIGINT:
                self.voice.failed("aborted_streaming")
                return 0
            return 128 + number
        if self.dialect == "codex":
            self.kill_tool()
            if number == signal.SIGINT:
                return 1
            die(number)
        # gemini: no result, and its tool is left behind.
        return 0


def text_of(content: Any) -> str:
    """The text of a message."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def die(number: int) -> NoReturn:
    """End by a signal as if there were no handler."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(1)


def told(number: int, _frame: object) -> None:
    # A launcher hands on what its whole group is told: the second time it says nothing new.
    signal.signal(number, signal.SIG_IGN)
    raise Told(number)


def launch(dialect: str) -> int:
    """Be a launcher: gemini's parent ignores signals, codex' hands them on."""
    child = subprocess.Popen([sys.executable, "-I", "-S", PROGRAM, "--inner", *sys.argv[1:]])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if dialect == "gemini":
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, lambda got, _: child.send_signal(got))
    status = child.wait()
    if status < 0:
        die(-status)
    return status


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dialect", choices=VOICES, default="claude")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--resume", metavar="SESSION")
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--tui", action="store_true")
    parser.add_argument("--first-run", action="store_true")
    parser.add_argument("task", nargs="*")
    args = parser.parse_args()
    if args.tui:
        return tui(args.dialect, is_first=args.first_run)
    if args.dialect in ("gemini", "codex") and not args.inner:
        return launch(args.dialect)
    if args.dialect in ("claude", "codex", "gemini"):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, told)
    voice = VOICES[args.dialect](args.resume or str(uuid.uuid4()))
    if voice.reads_stdin and not args.chat:
        while os.read(0, 65536):
            continue
    agent = Agent(voice, args.dialect, is_chat=args.chat)
    return agent.live(" ".join(args.task))


def tui(dialect: str, *, is_first: bool) -> int:
    """A full-screen program: alternate screen, a title that tells what it does, much redraw.

    It begins with queries nobody need answer. `b` and `i` make it busy and idle, `q` ends it. The
    first time it asks for trust, and Enter means no.
    """
    import termios  # noqa: PLC0415 - only here
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(0)
    tty.setraw(0)
    raw(b"\x1b[?1049h\x1b[6n\x1b[c\x1b[?u\x1b]10;?\x07\x1b]11;?\x07")
    try:
        if is_first:
            raw(b"\x1b[2J\x1b[HDo you trust this folder?  y) yes  [n) no, exit]")
            if os.read(0, 1) != b"y":
                return 1
        return _screens(dialect)
    finally:
        raw(b"\x1b[?1049l")
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _screens(dialect: str) -> int:
    is_busy, turn = False, 0
    while True:
        spinner = "⠋⠙⠹⠸"[turn % 4]
        title = f"{spinner} {dialect}" if is_busy else f"✳ {dialect}"
        turn += 1
        raw(f"\x1b]0;{title}\x07\x1b[H".encode())
        if is_busy:
            # 30 KB/s, as the greediest of them.
            raw(b"\x1b[2J\x1b[H" + b"\x1b[38;5;42m#\x1b[0m" * 100)
        if not select.select([0], [], [], _STEP_S if is_busy else None)[0]:
            continue
        key = os.read(0, 1)
        if key in (b"q", b"\x03", b""):
            return 0
        is_busy = key == b"b" if key in (b"b", b"i") else is_busy


if __name__ == "__main__":
    sys.exit(main())
