"""Opens what an agent has as stdin, stdout and stderr: pipes, or one terminal."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final, NamedTuple

from descartesd.errors import DescartesError, InternalError, ResourceExhaustedError
from descartesd.keeper.terminal import Size, open_terminal
from descartesd.keeper.users import User

# Less than the default of 64 KiB where little is carried, so that the pipes of many agents stay
# within what one user may have (pipe-user-pages-soft, pipe(7)); stdin has a buffer before it.
SMALL_PIPE_BYTES: Final = 16 * 1024
_PIPE_HINTS: Final = {
    errno.EMFILE: "raise LimitNOFILE of the service that runs the keeper",
    errno.ENFILE: "raise fs.pipe-user-pages-hard, or fs.file-max, with sysctl",
}
_TTY_HINTS: Final = {**_PIPE_HINTS, errno.ENOSPC: "raise kernel.pty.max with sysctl"}


class Ends(NamedTuple):
    """Our ends, -1 where there is none; `slave` is the agent's side of its terminal."""

    stdin: int
    stdout: int
    stderr: int
    slave: int

    def close(self) -> None:
        """Close all of them."""
        _close(*self)


class Stdio(NamedTuple):
    """What the agent gets as descriptors 0, 1 and 2, and our ends of it."""

    theirs: tuple[int, int, int]
    ours: Ends
    # The one of theirs that is everybody's, -1 where there is none.
    shared: int = -1

    def give(self, user: User | None) -> None:
        """Let the agent's user open its pipes and terminal anew, as by /dev/stderr.

        Raises OSError.
        """
        if user is None:
            return
        for fd in self.theirs:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, user.uid, user.gid)
            elif os.isatty(fd):
                os.fchown(fd, user.uid, -1)

    def close_theirs(self) -> None:
        """Close what the agent has got by now; its terminal we keep open."""
        if self.ours.slave >= 0:
            return
        for fd in self.theirs:
            if fd != self.shared:
                os.close(fd)


def open_null() -> int:
    """The null device, for reading: one will do for every agent."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def open_pipes(null: int, *, has_stdin: bool, stdin_data: bytes | None = None) -> Stdio:
    """Three pipes, or two and as stdin this null device, or a file that has this data.

    Raises ResourceExhaustedError that says what to raise.
    """
    opened: list[int] = []
    try:
        if has_stdin:
            their_stdin, stdin = _small_pipe(opened)
        elif stdin_data is not None:
            their_stdin, stdin = _filled_file(stdin_data, opened), -1
        else:
            their_stdin, stdin = null, -1
        stdout, their_stdout = _pipe(opened)
        stderr, their_stderr = _small_pipe(opened)
    except OSError as exc:
        _close(*opened)
        raise _explain("pipe", exc, _PIPE_HINTS) from exc
    # Only our ends: O_NONBLOCK belongs to an end, and programs expect theirs to block.
    for fd in (stdin, stdout, stderr):
        if fd >= 0:
            os.set_blocking(fd, False)
    return Stdio((their_stdin, their_stdout, their_stderr), Ends(stdin, stdout, stderr, -1), null)


def open_tty(size: Size) -> Stdio:
    """One terminal for all three.

    Raises ResourceExhaustedError that says what to raise.
    """
    opened: tuple[int, ...] = ()
    try:
        opened = master, slave = open_terminal(size)
        # Reading and writing are waited for apart, and epoll(7) takes a descriptor once only.
        writing = os.dup(master)
    except OSError as exc:
        _close(*opened)
        raise _explain("terminal", exc, _TTY_HINTS) from exc
    return Stdio((slave, slave, slave), Ends(writing, master, -1, slave))


def _pipe(opened: list[int]) -> tuple[int, int]:
    ends = os.pipe()
    opened.extend(ends)
    return ends


def _filled_file(data: bytes, opened: list[int]) -> int:
    """A file without a name, which its reader may also open anew, at its beginning."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    opened.append(fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _small_pipe(opened: list[int]) -> tuple[int, int]:
    ends = _pipe(opened)
    _shrink(ends[0])
    return ends


def _shrink(reader: int) -> None:
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, SMALL_PIPE_BYTES)
    except PermissionError:
        # It is smaller already: the kernel refuses to enlarge it.
        return


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _explain(what: str, exc: OSError, hints: dict[int, str]) -> DescartesError:
    hint = hints.get(exc.errno or 0)
    message = f"no {what} for the agent: {os.strerror(exc.errno or 0)}"
    if hint is None:
        return InternalError(message)
    return ResourceExhaustedError(message, hint=hint)
