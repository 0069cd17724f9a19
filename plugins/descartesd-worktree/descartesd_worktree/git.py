"""Runs git on a repository that may mean harm: no shell, no program of the repository's choice."""

from __future__ import annotations

import copy
import os
import re
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, NamedTuple

from descartesd.api import InvalidArgumentError, UnavailableError

# What git is told before all that the repository says of itself.
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "diff.ignoreSubmodules": "all",
    "submodule.recurse": "false",
    "branch.autoSetupMerge": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
}
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    # Objects that are elsewhere stay there: asking for them would run a program.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_EDITOR": "false",
    "GIT_PAGER": "cat",
}
# A filter is a program git runs on the content of files.
_FILTER = r"^filter\..*\.(clean|smudge|process|required)$"
_MOST_BYTES = 4 * 1024 * 1024
# So long it may take to notice that nobody waits any more.
_LOOK_S = 0.2


class Done(NamedTuple):
    """How git ended, and what it said; `is_cut` tells that it had more to say."""

    status: int
    out: bytes
    err: str
    is_cut: bool


class Until(NamedTuple):
    """When an operation has to be over: by the monotonic clock, or when nobody waits any more."""

    deadline: float
    cancelled: threading.Event = threading.Event()

    def left_s(self, word: str) -> float:
        """Seconds that are left for `git WORD`. Raises UnavailableError where none are."""
        if self.cancelled.is_set():
            raise UnavailableError(f"git {word} was ended, because nobody waits for it any more")
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise _late(word)
        return left_s


class Place(NamedTuple):
    """A repository and, where it is about one, a worktree of it: its own part, and its files."""

    common: str
    own: str | None = None
    files: str | None = None

    def environ(self) -> dict[str, str]:
        """Where git is to look; it shall find nothing by itself, least of all where an agent is."""
        if self.own is None or self.files is None:
            return {"GIT_DIR": self.common}
        return {"GIT_DIR": self.own, "GIT_COMMON_DIR": self.common, "GIT_WORK_TREE": self.files}


class Git:
    """Runs git for one operation."""

    def __init__(self, place: Place, until: Until, umask: int = 0o022) -> None:
        self._place = place
        self._until = until
        self._umask = umask
        self._settings = dict(_SETTINGS)
        found = self.run("config", "--null", "--name-only", "--get-regexp", _FILTER)
        if found.is_cut or found.status not in (0, 1):
            raise InvalidArgumentError(
                f"repo: the configuration of '{place.common}' cannot be read: {found.err}"
            )
        for key in filter(None, found.out.decode("utf-8", "surrogateescape").split("\0")):
            self._settings[key] = "false" if key.endswith(".required") else ""

    def at(self, place: Place) -> Git:
        """The same, about another place of the same repository."""
        other = copy.copy(self)
        other._place = place  # noqa: SLF001  # of its own kind
        return other

    def run(
        self,
        *words: str,
        more: Mapping[str, str] | None = None,
        given: bytes = b"",
        most: int = _MOST_BYTES,
    ) -> Done:
        """Run it with these words, and `given` as what it reads; `most` bytes of output are kept.

        Raises UnavailableError when it is not over in time, or is not there.
        """
        environ = {**_ENVIRONMENT, **self._place.environ(), **self._as_environ(), **(more or {})}
        with tempfile.TemporaryFile() as source:
            source.write(given)
            source.seek(0)
            process = self._start(words, source, environ)
            try:
                out, err, is_cut = self._read(process, words[0], most)
                if is_cut:
                    _end(process)
                status = process.wait(self._until.left_s(words[0]))
            except subprocess.TimeoutExpired as exc:
                raise _late(words[0]) from exc
            finally:
                _end(process)
        return Done(status, out, _sentence(err), is_cut)

    def _as_environ(self) -> dict[str, str]:
        """The settings as variables: a name in them may have any character."""
        pairs = {"GIT_CONFIG_COUNT": str(len(self._settings))}
        for number, (key, value) in enumerate(self._settings.items()):
            pairs[f"GIT_CONFIG_KEY_{number}"] = key
            pairs[f"GIT_CONFIG_VALUE_{number}"] = value
        return pairs

    def _start(
        self, words: tuple[str, ...], source: IO[bytes], environ: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                ["git", "--no-pager", *words],  # noqa: S607  # found on the PATH it is given
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._place.files or "/",
                env=environ,
                umask=self._umask,
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise UnavailableError(
                f"git cannot be run: '{exc.filename}' is not there",
                hint="install git on the server's host",
            ) from exc

    def _read(
        self, process: subprocess.Popen[bytes], word: str, most: int
    ) -> tuple[bytes, bytes, bool]:
        """Both outputs until they end; what is over `most` bytes ends git."""
        pipes = [pipe.fileno() for pipe in (process.stdout, process.stderr) if pipe is not None]
        found = {pipe: bytearray() for pipe in pipes}
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(min(self._until.left_s(word), _LOOK_S)):
                    chunk = os.read(key.fd, 65536)
                    found[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                if any(len(text) > most for text in found.values()):
                    return bytes(found[pipes[0]][:most]), b"", True
        out, err = (bytes(found[pipe]) for pipe in pipes)
        return out, err, False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git, and what it has started, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _late(word: str) -> UnavailableError:
    return UnavailableError(
        f"git {word} was not done in time",
        hint="see spawn_s and git_s in [plugins.worktree]; the action worktree.create has more "
        "time than the start of an agent",
    )


def _sentence(err: bytes) -> str:
    """The last thing git complained of, as one line."""
    lines = err.decode("utf-8", "replace").strip().splitlines()
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    last = told[-1] if told else ""
    return re.sub(r"[^ -~]", "?", last.removeprefix("fatal: ").removeprefix("error: "))[:300]
