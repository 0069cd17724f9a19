"""Starts the leader of an agent, or says exactly why it cannot be started.

Two ways: where nothing has to be done in the child the interpreter uses vfork(2), whose cost does
not grow with this process; else it forks and runs one small function before execve(2).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from typing import Final, NamedTuple

from descartesd.errors import (
    DescartesError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from descartesd.keeper import procfs
from descartesd.keeper.limits import Limits

UMASK: Final = 0o022
HEADROOM: Final = 64  # descriptors for the keeper itself: sockets, epolls, /proc, starting
_SHORTAGES: Final = (
    errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT,
)  # fmt: skip
_HINTS: Final = {
    errno.EACCES: "it needs to be a file with execute permission, in directories one may search",
    errno.ENOENT: "if the file is there, the interpreter it names is not",
    errno.ENOEXEC: "a script needs a first line such as #!/bin/sh",
    errno.E2BIG: "one argument may have 128 KiB: send more by stdin or a file",
}


class Launch(NamedTuple):
    """What to start."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    path: list[str]
    has_stdin: bool
    rlimits: dict[str, int]


class Leader(NamedTuple):
    """What was started: our ends of its pipes (stdin -1 without one) and its identity.

    `stat` is open on its /proc/PID/stat.
    """

    pid: int
    pidfd: int
    stat: int
    stdin: int
    stdout: int
    stderr: int


class Launcher:
    """Starts leaders."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def launch(self, launch: Launch) -> Leader:
        """Start a leader.

        Raises InvalidArgumentError (program, cwd, limits) and ResourceExhaustedError; then there
        is no process and no descriptor of it.
        """
        program = _find(launch)
        ours: list[int] = []
        theirs: list[int] = []
        try:
            stdin, stdout, stderr = _open_pipes(launch.has_stdin, ours, theirs)
            pid = self._start(launch, program, theirs)
            pidfd, stat = _hold_or_end(pid)
        except OSError as exc:
            _close(ours)
            raise _explain(exc, launch) from exc
        except DescartesError:
            _close(ours)
            raise
        finally:
            _close(theirs)
        return Leader(pid, pidfd, stat, stdin, stdout, stderr)

    def _start(self, launch: Launch, program: bytes, stdio: list[int]) -> int:
        with self._limits.passed_on(launch.rlimits):
            try:
                process = subprocess.Popen(
                    [argument.encode() for argument in launch.argv],
                    executable=program,
                    stdin=stdio[0],
                    stdout=stdio[1],
                    stderr=stdio[2],
                    cwd=launch.cwd.encode(),
                    env={name.encode(): value.encode() for name, value in launch.env.items()},
                    umask=UMASK,
                    start_new_session=True,
                    preexec_fn=self._limits.preparation(launch.rlimits),  # noqa: PLW1509 - no threads
                )
            except subprocess.SubprocessError as exc:
                limits = ", ".join(sorted(launch.rlimits)) or "oom_score_adj"
                raise InvalidArgumentError(f"the kernel refuses to set {limits}") from exc
        # Reaped by us, exactly once: subprocess must never wait for it.
        process.returncode = 0
        try:
            self._limits.settle(process.pid, launch.rlimits)
        except PermissionError as exc:
            _end(process.pid)
            raise InvalidArgumentError(
                "the kernel refuses to set nofile: the program runs as another user"
            ) from exc
        return process.pid


def try_out(launch: Launch) -> None:
    """Look for program and cwd without starting anything; raises InvalidArgumentError."""
    program = _find(launch)
    try:
        os.close(os.open(launch.cwd.encode(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        path = os.path.join(launch.cwd.encode(), program)
        if not os.access(path, os.X_OK):
            os.stat(path)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as exc:
        raise _explain(exc, launch) from exc


def explain_output(exc: OSError) -> DescartesError:
    """Why the output files of an agent cannot be opened."""
    message = f"output file '{exc.filename}': {exc.strerror}"
    if exc.errno in _SHORTAGES:
        return ResourceExhaustedError(message)
    return InternalError(message)


def _open_pipes(has_stdin: bool, ours: list[int], theirs: list[int]) -> tuple[int, int, int]:
    stdin = -1
    if has_stdin:
        reader, stdin = os.pipe()
        theirs.append(reader)
        ours.append(stdin)
    else:
        theirs.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    for _ in range(2):
        reader, writer = os.pipe()
        ours.append(reader)
        theirs.append(writer)
    # Only our ends: O_NONBLOCK belongs to an end, and programs expect theirs to block.
    for fd in ours:
        os.set_blocking(fd, False)
    return stdin, ours[-2], ours[-1]


def _hold_or_end(pid: int) -> tuple[int, int]:
    try:
        pidfd = os.pidfd_open(pid)
        try:
            return pidfd, procfs.open_stat(pid)
        except OSError:
            os.close(pidfd)
            raise
    except OSError:
        _end(pid)
        raise


def _end(pid: int) -> None:
    # Our own child, not reaped yet: the pid cannot be another's.
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _find(launch: Launch) -> bytes:
    name = launch.argv[0]
    if "/" in name:
        return name.encode()
    refused = None
    for directory in launch.path:
        candidate = os.path.join(launch.cwd, directory, name).encode()
        if not _is_file(candidate):
            continue
        if os.access(candidate, os.X_OK):
            return candidate
        refused = refused or candidate.decode()
    if refused is not None:
        raise InvalidArgumentError(
            f"program '{name}': '{refused}' has no execute permission", hint=f"chmod +x {refused}"
        )
    raise InvalidArgumentError(
        f"program '{name}': not in any of {', '.join(launch.path) or 'no directories'}",
        hint="name it with its whole path, or add its directory to server.runner.path",
    )


def _is_file(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _explain(exc: OSError, launch: Launch) -> DescartesError:
    reason = os.strerror(exc.errno or 0)
    if exc.errno in _SHORTAGES:
        return ResourceExhaustedError(
            f"no process for program '{launch.argv[0]}': {reason}", hint="try again later"
        )
    if exc.filename == launch.cwd.encode():
        return InvalidArgumentError(
            f"cwd '{launch.cwd}': {reason}", hint="name a directory the agent may enter"
        )
    hint = _HINTS.get(exc.errno or 0)
    return InvalidArgumentError(f"program '{launch.argv[0]}': {reason}", hint=hint)


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
