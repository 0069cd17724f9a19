"""Starts the leader of an agent, or says exactly why it cannot be started.

Two ways: where nothing has to be done in the child it is posix_spawn(3), whose cost does not grow
with this process; else this process forks and runs one small function before execve(2).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeVar

from descartesd.errors import (
    DescartesError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from descartesd.keeper import cwd, envfile, procfs, tmpdir
from descartesd.keeper.cgroup import Group
from descartesd.keeper.limits import KINDS, Fds, Limits
from descartesd.keeper.prepare import Preparation, Step
from descartesd.keeper.stdio import Ends, open_null, open_pipes, open_tty
from descartesd.keeper.terminal import Size, take_as_controlling
from descartesd.keeper.users import User, become, do_as

T = TypeVar("T")

HOME: Final = "/"  # this process's own working directory; no mounted file system is kept busy
# All: those not named posix_spawn(3) has to look at first, one by one.
_DEFAULTED: Final = tuple(map(int, signal.valid_signals()))
HEADROOM: Final = 64  # descriptors for the keeper itself: sockets, epolls, /proc, starting
_SHORTAGES: Final = (
    errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT,
)  # fmt: skip
_SHORTAGE_HINTS: Final = {
    errno.EAGAIN: "raise TasksMax or LimitNPROC of the service that runs the keeper",
    errno.EMFILE: "raise LimitNOFILE of the service that runs the keeper",
    errno.ENFILE: "raise fs.pipe-user-pages-hard, or fs.file-max, with sysctl",
}
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
    tty: Size | None = None
    user: User | None = None
    # A directory to be made for this agent alone.
    tmp: str | None = None
    # Variables in a file go before those in `env`, and those in `env_over`, which are only with a
    # file, before both.
    env_file: str | None = None
    env_over: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    # What is found on stdin first; without a pipe, instead of the null device, all of it.
    stdin_data: bytes | None = None
    # Directories its own must really be or be below; nothing is asked of it with none.
    cwd_within: list[str] = []  # noqa: RUF012 - nobody changes it

    def __repr__(self) -> str:
        return f"Launch({self.argv[:1]}, {sorted(self.env)})"


class Leader(NamedTuple):
    """What was started: its identity, and our ends of its pipes or terminal."""

    pid: int
    pidfd: int
    # In ticks since the host was started.
    start_time: int
    ends: Ends


class Launcher:
    """Starts leaders."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._null = open_null()

    def launch(self, launch: Launch, group: Group | None = None) -> Leader:
        """Start a leader, as a member of `group`.

        Raises InvalidArgumentError (program, cwd, limits, user) and ResourceExhaustedError; then
        there is no process and no descriptor of it.
        """
        launch = with_env_file(launch)
        program = _as_user(launch, _ready)
        try:
            return self._launch_ready(launch, program, group)
        except BaseException:
            _drop_tmp(launch)
            raise

    def _launch_ready(self, launch: Launch, program: bytes, group: Group | None) -> Leader:
        if launch.tty is None:
            stdio = open_pipes(self._null, has_stdin=launch.has_stdin, stdin_data=launch.stdin_data)
        else:
            stdio = open_tty(launch.tty)
        try:
            stdio.give(launch.user)
            before = procfs.now()
            pid = self._prepare_and_start(launch, program, stdio.theirs, group)
            start_time = _start_time(pid, before)
            pidfd = _hold_or_end(pid)
        except OSError as exc:
            stdio.ours.close()
            raise _explain(exc, launch) from exc
        except BaseException:
            stdio.ours.close()
            raise
        finally:
            stdio.close_theirs()
        return Leader(pid, pidfd, start_time, stdio.ours)

    def _prepare_and_start(
        self, launch: Launch, program: bytes, stdio: Fds, group: Group | None
    ) -> int:
        joining = -1 if group is None else group.open()
        try:
            steps = self._steps(launch, joining)
            if not steps:
                return self._spawn(launch, program, stdio)
            preparation = Preparation(steps)
            try:
                return _fork(launch, program, stdio, preparation)
            finally:
                preparation.close()
        finally:
            if joining >= 0:
                os.close(joining)

    def _spawn(self, launch: Launch, program: bytes, stdio: Fds) -> int:
        stdin, stdout, stderr = self._limits.lend(launch.rlimits, stdio)
        try:
            cwd.enter(launch.cwd, launch.cwd_within)
            try:
                pid = os.posix_spawn(
                    program,
                    _encoded(launch.argv),
                    _encoded_env(launch.env),
                    file_actions=(
                        (os.POSIX_SPAWN_DUP2, stdin, 0),
                        (os.POSIX_SPAWN_DUP2, stdout, 1),
                        (os.POSIX_SPAWN_DUP2, stderr, 2),
                    ),
                    setsid=True,
                    setsigdef=_DEFAULTED,
                )
            finally:
                os.chdir(HOME)
        finally:
            self._limits.take_back()
        try:
            self._limits.settle(pid, launch.rlimits)
        except PermissionError as exc:
            _end(pid)
            raise InvalidArgumentError(
                "the kernel refuses to set nofile: the program runs as another user"
            ) from exc
        return pid

    def _steps(self, launch: Launch, joining: int) -> list[Step]:
        """What has to be done in the child; with nothing it need not be forked."""
        steps: list[Step] = []
        if launch.tty is not None:
            steps.append(("tty", take_as_controlling))
        if joining >= 0:
            steps.append(("cgroup.procs", partial(_join, joining)))
        steps.extend(self._limits.steps(launch.rlimits))
        if steps or launch.user is not None:
            steps.append(self._limits.files_step(launch.rlimits))
        if launch.user is not None:
            steps.append(("user", partial(become, launch.user)))
        if steps:
            steps.append(("cwd", partial(cwd.enter, launch.cwd, launch.cwd_within)))
        return steps


def _fork(launch: Launch, program: bytes, stdio: Fds, preparation: Preparation) -> int:
    try:
        process = subprocess.Popen(
            _encoded(launch.argv),
            executable=program,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            env=_encoded_env(launch.env),
            start_new_session=True,
            preexec_fn=preparation,  # noqa: PLW1509 - no threads
        )
    except subprocess.SubprocessError as exc:
        raise _explain_step(preparation.failure(), launch) from exc
    # Reaped by us, exactly once: subprocess must never wait for it.
    process.returncode = 0
    return process.pid


def _encoded(argv: list[str]) -> list[bytes]:
    return [argument.encode() for argument in argv]


def _encoded_env(env: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in env.items()}


def _join(joining: int) -> None:
    os.write(joining, b"0")


def _as_user(launch: Launch, work: Callable[[Launch], T]) -> T:
    """Do what must see the file system as the agent will."""
    try:
        if launch.user is None:
            return work(launch)
        found: T = do_as(launch.user, partial(work, launch))
        return found
    except OSError as exc:
        raise _explain(exc, launch) from exc


def _ready(launch: Launch) -> bytes:
    program = _find(launch)
    if launch.tmp is not None:
        tmpdir.make(launch.tmp)
    return program


def _drop_tmp(launch: Launch) -> None:
    if (tmp := launch.tmp) is None:
        return
    try:
        _as_user(launch, lambda _: os.rmdir(tmp))
    except DescartesError:
        # It is not empty: of an earlier attempt, and removed with the agent.
        return


def with_env_file(launch: Launch) -> Launch:
    """Put the variables of its file into its environment.

    Raises InvalidArgumentError and ResourceExhaustedError.
    """
    if (env_file := launch.env_file) is None:
        return launch
    found = _as_user(launch, lambda _: envfile.read(env_file))
    return launch._replace(env={**launch.env, **found, **launch.env_over})


def try_out(launch: Launch) -> None:
    """Look for program, cwd and file of variables without starting anything.

    Raises InvalidArgumentError.
    """
    with_env_file(launch)
    _as_user(launch, _look)


def _look(launch: Launch) -> bytes:
    program = _find(launch)
    if launch.cwd_within:
        os.close(cwd.open_within(launch.cwd, launch.cwd_within))
    os.close(os.open(launch.cwd.encode(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    path = os.path.join(launch.cwd.encode(), program)
    if not os.access(path, os.X_OK):
        os.stat(path)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return program


def explain_output(exc: OSError) -> DescartesError:
    """Why the output files of an agent cannot be opened."""
    message = f"output file '{exc.filename}': {exc.strerror}"
    if exc.errno in _SHORTAGES:
        return ResourceExhaustedError(message)
    return InternalError(message)


def _start_time(pid: int, before: int) -> int:
    # In the same tick it was started in that one, without asking for it.
    if before == procfs.now():
        return before
    start_time = procfs.start_time(pid)
    if start_time is None:
        # Out of descriptors or memory.
        _end(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return start_time


def _hold_or_end(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
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


def _explain_step(failure: tuple[str, int] | None, launch: Launch) -> DescartesError:
    """Why the child could not be made ready."""
    name, code = failure or ("child", 0)
    if name == "cwd":
        return _explain(OSError(code, "", launch.cwd.encode()), launch)
    reason = os.strerror(code)
    if name in KINDS:
        return InvalidArgumentError(f"the kernel refuses to set {name}: {reason}")
    if name == "user" and launch.user is not None:
        return InvalidArgumentError(f"user of uid {launch.user.uid}: {reason}")
    return InternalError(f"no process for program '{launch.argv[0]}': {name}: {reason}")


def _explain(exc: OSError, launch: Launch) -> DescartesError:
    reason = os.strerror(exc.errno or 0)
    if exc.errno in _SHORTAGES:
        return ResourceExhaustedError(
            f"no process for program '{launch.argv[0]}': {reason}",
            hint=_SHORTAGE_HINTS.get(exc.errno or 0, "try again later"),
        )
    if exc.filename == launch.cwd.encode() and exc.errno == errno.EXDEV:
        return PermissionDeniedError(
            f"cwd '{launch.cwd}': it is really in none of {', '.join(launch.cwd_within)}",
            hint="name a directory below one of them that no symbolic link leads out of",
        )
    if exc.filename == launch.cwd.encode():
        return InvalidArgumentError(
            f"cwd '{launch.cwd}': {reason}", hint="name a directory the agent may enter"
        )
    hint = _HINTS.get(exc.errno or 0)
    return InvalidArgumentError(f"program '{launch.argv[0]}': {reason}", hint=hint)
