"""Sets up logging: an event name and its fields on one line, as JSON or for people."""

from __future__ import annotations

import json
import logging
import sys
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
_encode = msgspec.json.Encoder(enc_hook=str).encode
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
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Json() if style == "json" else _Pretty())
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


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return printable(_encode(line)).decode()


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
