"""The files and directories a server puts in place when it starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator

from descartesd.errors import StartupRefusedError

# One for each connection, stream and watch; more would only cost.
_DESCRIPTORS = 65_536


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What the file system refuses at the start is told in one sentence: it is no bug."""
    try:
        yield
    except OSError as exc:
        raise StartupRefusedError(
            f"cannot start: '{exc.filename}': {exc.strerror}",
            hint="see that server.state_dir, run_dir and local_socket are where they can be",
        ) from exc


def lock_state(state_dir: str) -> list[int]:
    """Have a state directory to oneself as long as what is returned is open.

    The directory itself is locked, which one that cannot be written lets happen too; and a file in
    it, for file systems that lock no directories. Raises StartupRefusedError, OSError where neither
    can be locked.
    """
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    held: list[int] = []
    failures = []
    for path, flags in (
        (state_dir, os.O_RDONLY | os.O_DIRECTORY),
        (os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CREAT),
    ):
        try:
            held.append(_locked(path, flags))
        except BlockingIOError as exc:
            for fd in held:
                os.close(fd)
            raise StartupRefusedError(
                f"another descartesd runs on the state directory '{state_dir}'",
                hint="stop it first, or give this one its own server.state_dir",
            ) from exc
        except OSError as exc:
            failures.append(exc)
    if not held:
        raise failures[0]
    return held


def _locked(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        exc.filename = path
        raise
    return fd


def allow_descriptors() -> int:
    """Let this process open as many files as it may; the soft limit it was started with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


def open_directory(path: str) -> None:
    """See that there is a directory everyone may enter, whatever the umask; one there stays."""
    if not os.path.isdir(path):
        os.makedirs(path)
        os.chmod(path, 0o755)  # noqa: S103  # the socket in it is for everyone


def publish(path: str, content: bytes) -> None:
    """Put a file that everyone may read in place, whole or not at all."""
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o644)
        file.write(content)
    os.rename(fresh, path)
