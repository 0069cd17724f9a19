"""Sets up logging: an event name and its fields on one line, as JSON or for people."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, TextIO

import msgspec

from descartesd.observe.journald import JournalHandler, leads_to_journal
from descartesd.wire.printable import printable, shown

_LEVELS = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {number: logging.getLevelName(number).lower() for number in _LEVELS.values()}
_encode = msgspec.json.Encoder(enc_hook=str).encode
_root = logging.getLogger()
_text = json.JSONEncoder(default=str).encode
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def set_up(level: str, style: Literal["json", "pretty"], stream: TextIO = sys.stderr) -> None:
    """Send all log records to `stream` in the style asked for; to the journal, if it leads there,
    with every fact as a field.
    """
    handler: logging.Handler
    if leads_to_journal(stream):
        handler = JournalHandler(_fields)
        handler.setFormatter(_Brief())
    elif style == "json":
        handler = _JsonLines(stream)
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Pretty())
    # No line says in which file, thread and process it was written: finding that out costs as much
    # as the rest of it. https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Log what is no less severe, from now on."""
    logging.getLogger().setLevel(_LEVELS[level])
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, _LEVELS[level]))


def tell(log: logging.Logger, level: int, event: str, facts: Mapping[str, object]) -> None:
    """Log a kind of line of which there may be thousands a second, at a third of the cost.

    The caller has asked `log` whether the level is wanted.
    """
    handlers = _root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], _JsonLines):
        handlers[0].tell(log.name, level, event, facts)
    else:
        log.log(level, event, extra=facts)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _json(created: float, level: str, event: str, logger: str, facts: Mapping[str, object]) -> str:
    # To the microsecond; round() would cost as much as encoding all of it.
    stamp = int(created * 1e6) / 1e6
    line = {"time": stamp, "level": level, "event": event, "logger": logger, **facts}
    return printable(_encode(line)).decode()


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = _fields(record)
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        level = record.levelname.lower()
        return _json(record.created, level, record.getMessage(), record.name, facts)


class _JsonLines(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the event loop at once, with a warning all at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Json())
        # Threads may add at any time: what a deque does is done at once. It is due only while a
        # `flush` is still to take what waits: who adds looks at that afterwards.
        self._waiting: deque[str] = deque()
        self._is_due = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._add(self.format(record), record.levelno)
        except Exception:  # noqa: BLE001  # as every handler of logging does
            self.handleError(record)

    def tell(self, logger: str, level: int, event: str, facts: Mapping[str, object]) -> None:
        """Write what would be a record; it has to be encodable."""
        self._add(_json(time.time(), _NAMES[level], event, logger, facts), level)

    def flush(self) -> None:
        """Write what waits."""
        self.acquire()
        try:
            self._is_due = False
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            # A stream that takes nothing leaves nobody to be told.
            with suppress(OSError):
                self.stream.write("".join(lines))
                self.stream.flush()
        finally:
            self.release()

    def _add(self, line: str, level: int) -> None:
        self._waiting.append(f"{line}\n")
        if level >= logging.WARNING:
            self.flush()
        elif not self._is_due:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
                self._is_due = True
            except RuntimeError:
                self.flush()


class _Brief(logging.Formatter):
    """The event and its facts; the journal itself knows when it was and how severe."""

    def format(self, record: logging.LogRecord) -> str:
        # JSON keeps a newline or an escape sequence in a value from forging a line.
        fields = " ".join(f"{key}={_text(value)}" for key, value in _fields(record).items())
        text = shown(f"{self.heading(record)}{record.getMessage()} {fields}".rstrip())
        if not record.exc_info:
            return text
        # Its lines stay lines, but begin so that none can be taken for a message.
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([text, *(f"  | {shown(line)}" for line in trace)])

    def heading(self, _record: logging.LogRecord) -> str:
        return ""


class _Pretty(_Brief):
    def heading(self, record: logging.LogRecord) -> str:
        stamp = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{stamp}.{int(record.msecs):03d} {record.levelname.lower():<7} "
