"""The private directory of an agent for temporary files, made at its start, removed with it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from descartesd.errors import ConflictError, InternalError, ResourceExhaustedError
from descartesd.keeper.agent import Agents
from descartesd.keeper.loop import Loop, Steps
from descartesd.keeper.users import User, Users, begin_as

_MODE: Final = 0o700
_SHORTAGES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK)
_DELAY_MIN_S: Final = 0.001
_DELAY_MAX_S: Final = 0.05


def make(path: str) -> None:
    """Make it for whoever this process is, or take over what an earlier attempt left.

    Raises ConflictError for one of somebody else, ResourceExhaustedError for want of room,
    InternalError where it may not be made.
    """
    try:
        os.mkdir(path, _MODE)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConflictError(f"'{path}' is there already and belongs to somebody else") from None
    except OSError as exc:
        message = f"directory '{path}' for temporary files: {exc.strerror}"
        if exc.errno in _SHORTAGES:
            raise ResourceExhaustedError(message) from exc
        raise InternalError(
            message,
            hint="give the agent a TMPDIR of its own in its environment, or start the server with"
            " one that all agents' users may write to",
        ) from exc


def drop_if_empty(path: str) -> None:
    """Leave nothing of an attempt that has left nothing in it."""
    try:
        os.rmdir(path)
    except OSError:
        # What is in it, or may only be removed by its owner, goes with the agent.
        return


class TmpDirs:
    """Where they are, and their end."""

    def __init__(self, loop: Loop, agents: Agents, users: Users) -> None:
        self._loop = loop
        self._agents = agents
        self._users = users
        self._base = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - private ones are made in it

    def path(self, agent_id: str) -> str:
        """The directory of an agent."""
        return os.path.join(self._base, f"descartes-{agent_id}")

    def remove(self, agent_id: str, then: Callable[[], None]) -> None:
        """Remove an agent's directory with what is in it, and call `then`."""
        path = self.path(agent_id)
        try:
            os.rmdir(path)
        except FileNotFoundError:
            then()
        except OSError:
            self._loop.start(self._removing(path, then))
        else:
            then()

    def _removing(self, path: str, then: Callable[[], None]) -> Steps:
        # By a helper: it may take long, and what is in there is not ours to touch.
        try:
            pid = begin_as(self._owner(path), lambda: _remove(path))
        except OSError:
            then()
            return
        self._agents.helpers.add(pid)
        delay_s = _DELAY_MIN_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            yield delay_s
            delay_s = min(2 * delay_s, _DELAY_MAX_S)
        self._agents.helpers.discard(pid)
        then()

    def _owner(self, path: str) -> User | None:
        found = os.lstat(path)
        is_own = found.st_uid == self._users.uid
        return None if is_own else User(found.st_uid, found.st_gid, [])


def _remove(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    # A directory without write permission keeps its files: its owner may change that.
    os.chmod(path, _MODE)
    for above, names, _ in os.walk(path):
        for name in names:
            if not os.path.islink(directory := os.path.join(above, name)):
                os.chmod(directory, _MODE)
    for _, names, others, fd in os.fwalk(path, topdown=False):
        for name in others:
            os.unlink(name, dir_fd=fd)
        for name in names:
            _drop_directory(name, fd)
    os.rmdir(path)


def _drop_directory(name: str, fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except NotADirectoryError:
        # A symbolic link to one.
        os.unlink(name, dir_fd=fd)
