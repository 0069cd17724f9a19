"""Looks at an agent's paths before its start where that may wait for ever, in a helper."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from descartesd.errors import DeadlineExceededError, DescartesError, ResourceExhaustedError
from descartesd.keeper import envfile
from descartesd.keeper.agent import Agents
from descartesd.keeper.launch import Launch
from descartesd.keeper.loop import Loop, Steps, boottime
from descartesd.keeper.mounts import Mounts
from descartesd.keeper.users import begin_as

LIMIT_S: Final = 10.0
STUCK_MAX: Final = 8
_DELAY_MIN_S: Final = 0.001
_DELAY_MAX_S: Final = 0.05
_STUCK_LOOK_S: Final = 1.0
_HINT: Final = "another program serves that file system and hangs: see to it, or unmount it"

# What is looked at, and its path.
Path = tuple[str, str]


class Lookups:
    """A start comes after them, so that a file system that hangs holds up that agent alone.

    One that begins to hang in the instant between them and the start still holds up the keeper.
    """

    def __init__(self, loop: Loop, agents: Agents) -> None:
        self._loop = loop
        self._agents = agents
        self._mounts = Mounts()
        # Helpers that were given up and cannot even be killed yet.
        self._stuck: set[int] = set()

    def may_wait(self, launch: Launch) -> bool:
        """Whether this start has to wait for `looking`; on most hosts never."""
        if not self._mounts.doubtful:
            return False
        return any(self._mounts.may_wait(path) for _, path in _paths(launch))

    def looking(self, launch: Launch) -> Steps:
        """Wait until everything has been looked at, whatever was found.

        Raises DeadlineExceededError naming what has not answered within LIMIT_S, and
        ResourceExhaustedError for want of a process, or while many wait already.
        """
        if len(self._stuck) >= STUCK_MAX:
            raise ResourceExhaustedError(
                f"{len(self._stuck)} looks at paths of agents still wait for their file systems",
                hint=_HINT,
            )
        paths = list(_paths(launch))
        # Shared with the helper, which counts what it has begun to look at.
        progress = mmap.mmap(-1, 1)
        try:
            pid = begin_as(launch.user, partial(_look, paths, progress))
        except OSError as exc:
            raise ResourceExhaustedError(f"no process to look at its paths: {exc}") from exc
        self._agents.helpers.add(pid)
        deadline = boottime() + LIMIT_S
        delay_s = _DELAY_MIN_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if boottime() > deadline:
                self._give_up(pid)
                raise _too_late(*paths[max(progress[0], 1) - 1])
            yield delay_s
            delay_s = min(2 * delay_s, _DELAY_MAX_S)
        self._agents.helpers.discard(pid)

    def _give_up(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.wait_for([pid])

    @property
    def stuck(self) -> list[int]:
        """The helpers that cannot even be killed yet."""
        return sorted(self._stuck)

    def wait_for(self, stuck: Iterable[int]) -> None:
        """Reap helpers that were given up, whenever they end."""
        for pid in stuck:
            self._stuck.add(pid)
            self._agents.helpers.add(pid)
            self._loop.start(self._reaping(pid), is_resumable=True)

    def _reaping(self, pid: int) -> Steps:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            yield _STUCK_LOOK_S
        self._stuck.discard(pid)
        self._agents.helpers.discard(pid)


def _paths(launch: Launch) -> Iterator[Path]:
    """What a start will look at, in that order."""
    yield "cwd", launch.cwd
    if launch.env_file is not None:
        yield "env_file", launch.env_file
    program = launch.argv[0]
    directories = [""] if "/" in program else launch.path
    for directory in directories:
        yield "program", os.path.join(launch.cwd, directory, program)


def _look(paths: list[Path], progress: mmap.mmap) -> None:
    for number, (_, path) in enumerate(paths, 1):
        progress[0] = min(number, 255)
        try:
            _touch(path)
        except (OSError, DescartesError):
            # Found out and told by the start itself.
            continue


def _touch(path: str) -> None:
    if os.path.isdir(path):
        os.chdir(path)
    elif os.path.isfile(path):
        os.access(path, os.X_OK)
        envfile.first_bytes(path)


def _too_late(what: str, path: str) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"{what} '{path}': its file system has not answered within {LIMIT_S:g} s", hint=_HINT
    )
