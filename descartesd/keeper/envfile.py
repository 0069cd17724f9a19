"""Reads a file of environment variables, one `NAME=VALUE` a line, as systemd.exec(5) does."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from descartesd.errors import InvalidArgumentError

BYTES_MAX: Final = 1024 * 1024
_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_QUOTES: Final = ("'", '"')


def read(path: str) -> dict[str, str]:
    """The variables of a file; a later line of the same name wins.

    Empty lines and those that begin with '#' or ';' are passed over; quotes around a value are
    taken off. Raises InvalidArgumentError, which may name a line and shows nothing of it, and
    OSError for want of descriptors.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        bare = line.strip()
        if not bare or bare[0] in "#;":
            continue
        name, equals, value = bare.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isascii() or not name.isidentifier():
            raise InvalidArgumentError(f"env_file '{path}': line {number} is not NAME=VALUE")
        if "\0" in value:
            raise InvalidArgumentError(f"env_file '{path}': line {number} has a NUL character")
        found[name] = _unquoted(value)
    return found


def first_bytes(path: str) -> bytes:
    """The first bytes of a regular file; raises OSError."""
    fd = os.open(path.encode(), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _text(path: str) -> str:
    try:
        content = _content(path)
    except OSError as exc:
        if exc.errno in _SHORTAGES:
            raise
        reason = os.strerror(exc.errno or 0)
        raise InvalidArgumentError(
            f"env_file '{path}': {reason}", hint="name a file the agent's user may read"
        ) from exc
    if len(content) > BYTES_MAX:
        raise InvalidArgumentError(f"env_file '{path}': it has more than {BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise InvalidArgumentError(f"env_file '{path}': it is not valid UTF-8") from exc


def _content(path: str) -> bytes:
    # Without waiting for the writer of a named pipe, and without a terminal to be signalled from.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path.encode(), flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgumentError(f"env_file '{path}': it is no regular file")
        content = b""
        # Not every file system hands out all of it at once.
        while len(content) <= BYTES_MAX and (part := os.read(fd, BYTES_MAX)):
            content += part
        return content
    finally:
        os.close(fd)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] in _QUOTES and value[-1] == value[0]:
        return value[1:-1]
    return value
