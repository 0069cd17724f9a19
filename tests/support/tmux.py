"""Terminals to look at: windows of a tmux of the test's own, each running one command."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.eventually import eventually
from tests.support.server import BIN, Server

# Looking costs a process: not as often as elsewhere.
_STEP_S = 0.05


class Tmux:
    """A tmux for the time of a block; its windows find descartesctl, as the administrator."""

    def __init__(self, server: Server) -> None:
        self._socket = server.root / f"tmux-{os.urandom(4).hex()}"
        self._environ = {
            **server.environ,
            "DESCARTES_PROFILE": str(server.admin),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{BIN}:/usr/bin:/bin",
        }

    def window(self, *command: str | Path, rows: int = 24, cols: int = 80) -> Window:
        """Run a command in a window of its own, which stays when the command has ended."""
        words = shlex.join(map(str, command))
        size = ("-x", str(cols), "-y", str(rows))
        show = ("-P", "-F", "#{pane_id}")
        keep = "exec 2>&1; stty -echo; {}; printf '[%s]' $?; exec cat > /dev/null"
        pane = self.run("-f", "/dev/null", "new-session", "-d", *size, *show, keep.format(words))
        return Window(self, pane.strip())

    def run(self, *words: str) -> str:
        """Run a command of tmux's own; what it prints."""
        done = subprocess.run(
            ["tmux", "-u", "-S", self._socket, *words],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket.exists():
            self.run("kill-server")


class Window:
    """One terminal: its screen, its keys, its size."""

    def __init__(self, tmux: Tmux, pane: str) -> None:
        self._tmux = tmux
        self._pane = pane

    @property
    def screen(self) -> str:
        """What it shows now, without the blanks at the ends of lines."""
        return self._tmux.run("capture-pane", "-p", "-t", self._pane)

    def shows(self, *words: str, timeout: float = 10.0) -> str:
        """Wait until its screen has all of these; the screen."""
        screen = ""

        def has_all() -> bool:
            nonlocal screen
            screen = self.screen
            return all(word in screen for word in words)

        try:
            eventually(has_all, timeout=timeout, step=_STEP_S)
        except AssertionError as exc:
            raise AssertionError(f"{words} not within {timeout} s:\n{screen}") from exc
        return screen

    def types(self, *keys: str) -> None:
        """Type keys as tmux names them: 'C-]', 'Enter', 'x'."""
        self._tmux.run("send-keys", "-t", self._pane, *keys)

    def writes(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux.run("send-keys", "-t", self._pane, "-l", text)

    def resize(self, rows: int, cols: int) -> None:
        """Change its size."""
        self._tmux.run("resize-window", "-t", self._pane, "-x", str(cols), "-y", str(rows))

    @property
    def mode(self) -> str:
        """Its modes: alternate screen, keypad, cursor keys, cursor, mouse."""
        names = [
            *("alternate_on", "keypad_flag", "keypad_cursor_flag", "cursor_flag"),
            "mouse_any_flag",
        ]
        shown = " ".join(f"#{{{name}}}" for name in names)
        return self._tmux.run("display-message", "-p", "-t", self._pane, shown).strip()

    @property
    def tty(self) -> str:
        """Path of its terminal."""
        return self._tmux.run("display-message", "-p", "-t", self._pane, "#{pane_tty}").strip()
