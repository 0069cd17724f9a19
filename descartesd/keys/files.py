"""Creates key files whole, never over another file, and reads secrets only if others cannot."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from typing import NamedTuple

from descartesd.errors import (
    AlreadyExistsError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StartupRefusedError,
)

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
SIZE_MAX = 64 * 1024

_ERRORS: dict[int | None, type[DescartesError]] = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotFoundError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    errno.ENAMETOOLONG: InvalidArgumentError,
    errno.ENOSPC: ResourceExhaustedError,
    errno.EDQUOT: ResourceExhaustedError,
}


class Contents(NamedTuple):
    """A file as read, and why it must not hold a secret (None when it may), with the remedy."""

    data: bytes
    fault: str | None
    hint: str | None


def create_secret(path: str, data: bytes) -> None:
    """Create a file only its owner can read, on disk before this returns.

    Whatever the umask, its mode is 0600 from its first moment. Raises AlreadyExistsError when
    anything has that name, or the error of the family that fits the kernel's.
    """
    _create(path, data, SECRET_MODE)


def create_public(path: str, data: bytes) -> None:
    """Create a file everybody can read (0644), in the same way."""
    _create(path, data, PUBLIC_MODE)


def replace_secret(path: str, data: bytes) -> None:
    """Put a file only its owner can read in the place of `path`: whole, or the old one stays.

    Raises the error of the family that fits the kernel's.
    """
    directory = os.path.dirname(path) or "."
    temporary = os.path.join(directory, f".new-{os.urandom(8).hex()}")
    try:
        _write_new(temporary, data, SECRET_MODE)
        try:
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        sync_directory(directory)
    except OSError as exc:
        raise translated(exc, path) from exc


def read_secret(path: str, *, refusal: type[DescartesError] = StartupRefusedError) -> bytes:
    """Read a secret the way ssh(1) does.

    Raises `refusal` when the file cannot be read, is a symbolic link, is another user's (root's
    is fine), can be read by others, or lies in a directory others can write to.
    """
    try:
        contents = read_contents(path)
    except OSError as exc:
        raise refusal(f"cannot read '{path}': {exc.strerror}") from exc
    if contents.fault is not None:
        raise refusal(contents.fault, hint=contents.hint)
    return contents.data


def read_contents(path: str) -> Contents:
    """Read a small regular file and judge it as the place of a secret.

    Raises OSError when it cannot be read; EFBIG over 64 KiB.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if status.st_size > SIZE_MAX:
            raise OSError(errno.EFBIG, f"larger than {SIZE_MAX} bytes", path)
        data = _read_all(fd)
    finally:
        os.close(fd)
    return Contents(data, *_judge(path, status))


def translated(exc: OSError, path: str) -> DescartesError:
    """The error of the family for a failed creation of `path`."""
    cls = _ERRORS.get(exc.errno, StartupRefusedError)
    return cls(f"cannot create '{path}': {exc.strerror}")


def _create(path: str, data: bytes, mode: int) -> None:
    directory = os.path.dirname(path) or "."
    temporary = os.path.join(directory, f".new-{os.urandom(8).hex()}")
    try:
        _write_new(temporary, data, mode)
        try:
            # Unlike rename(2), link(2) never replaces what has that name.
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
        sync_directory(directory)
    except FileExistsError as exc:
        raise AlreadyExistsError(
            f"'{path}' exists already", hint="nothing was changed; choose another name or remove it"
        ) from exc
    except OSError as exc:
        raise translated(exc, path) from exc


def _write_new(path: str, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, SECRET_MODE)
    try:
        os.fchmod(fd, mode)
        write_whole(fd, data)
        os.fsync(fd)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def write_whole(fd: int, data: bytes) -> None:
    """Write all of it; raises OSError when that cannot be."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(directory: str) -> None:
    """Have the names in a directory survive a loss of power."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, SIZE_MAX):
        pieces.append(piece)
    return b"".join(pieces)


def _judge(path: str, status: os.stat_result) -> tuple[str | None, str | None]:
    shown = shlex.quote(path)
    if stat.S_ISLNK(os.lstat(path).st_mode):
        return f"'{path}' is a symbolic link, expected the file itself", None
    if status.st_uid not in {0, os.geteuid()}:
        return (
            f"'{path}' belongs to uid {status.st_uid}, expected uid {os.geteuid()} or root",
            f"chown {os.geteuid()} {shown}",
        )
    if status.st_mode & 0o077:
        return (
            f"others can read '{path}' (mode {status.st_mode & 0o7777:04o}), expected 0600",
            f"chmod 600 {shown}",
        )
    directory = os.path.dirname(os.path.abspath(path))
    mode = os.stat(directory).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return (
            f"others can replace '{path}': its directory has mode {mode & 0o7777:04o}",
            f"chmod o-w {shlex.quote(directory)}",
        )
    return None, None
