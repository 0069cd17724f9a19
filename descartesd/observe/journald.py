"""Sends log records to systemd's journal by its own protocol: each fact is a field of its own.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

SOCKET = "/run/systemd/journal/socket"
# Syslog's severities, least severe last.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
# What these are called in the journal, whoever logs them.
_NAMES = {"agent": "AGENT_ID", "trace": "TRACE_ID"}
_UNFIT = re.compile(r"[^A-Z0-9_]")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def leads_to_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd has connected this stream to the journal (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


@functools.lru_cache(maxsize=256)
def message_id(event: str) -> str:
    """The same 128 bits for the same kind of event on every host: journalctl MESSAGE_ID=…"""
    return hashlib.blake2b(f"descartesd\0{event}".encode(), digest_size=16).hexdigest()


class JournalHandler(logging.Handler):
    """Never waits for the journal: what it has no room for is dropped, and counted in the next."""

    def __init__(
        self, fields_of: Callable[[logging.LogRecord], dict[str, object]], path: str = SOCKET
    ) -> None:
        super().__init__()
        self._fields_of = fields_of
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        event = record.getMessage()
        fields: dict[str, object] = {
            "MESSAGE": self.format(record),
            "MESSAGE_ID": message_id(event),
            "EVENT": event,
            "PRIORITY": next(number for least, number in _PRIORITIES if record.levelno >= least),
            "SYSLOG_IDENTIFIER": "descartesd",
            "LOGGER": record.name,
        }
        for name, value in self._fields_of(record).items():
            fields.setdefault(_field_name(name), value)
        if self.dropped:
            fields["DROPPED"] = self.dropped
        try:
            self._send(b"".join(_encoded(name, str(value)) for name, value in fields.items()))
            self.dropped = 0
        except OSError:
            self.dropped += 1

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as exc:
            if exc.errno != errno.EMSGSIZE:
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        """What is too large for a message travels as a file that nobody can change any more."""
        fd = os.memfd_create("descartesd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))
            self._socket.sendmsg([b""], [passed], 0, self._path)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Send nothing more."""
        self._socket.close()
        super().close()


@functools.lru_cache(maxsize=256)
def _field_name(name: str) -> str:
    # The journal keeps no field that begins with '_' or a digit.
    return _NAMES.get(name) or _UNFIT.sub("_", name.upper()).lstrip("_0123456789")[:64] or "FIELD"


def _encoded(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
