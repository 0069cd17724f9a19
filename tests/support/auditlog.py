"""An audit log in a directory of its own, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from descartesd.keys.seal import sealer_of
from descartesd.observe.audit import AuditLog, AuditOptions
from descartesd.observe.audit_check import Check
from descartesd.observe.audit_head import HeadStore, head_of
from descartesd.observe.audit_line import Entry
from descartesd.wire.audit import AuditReport

SEALER = sealer_of(b"s" * 32)
WHO = "key:SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Place:
    """A directory, and the head of the log in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.head: str | None = None
        self.takes_heads = True

    def _save(self, text: str) -> bool:
        if self.takes_heads:
            self.head = text
        return self.takes_heads

    def open(self, **options: Any) -> AuditLog:
        heads = HeadStore(load=lambda: self.head, save=self._save)
        return AuditLog(AuditOptions(str(self.directory), **options), SEALER, heads)

    @property
    def file(self) -> Path:
        return self.directory / "audit.jsonl"

    @property
    def lines(self) -> list[bytes]:
        return self.file.read_bytes().splitlines(keepends=True)

    def write(self, lines: list[bytes]) -> None:
        self.file.write_bytes(b"".join(lines))

    def verify(self) -> AuditReport:
        """What somebody finds who has the files, the registry and the host's key."""
        return run(Check(str(self.directory), head_of(self.head), SEALER.public))


def run(check: Check) -> AuditReport:
    while check.step():
        continue
    return check.report()


def done(log: AuditLog, count: int, method: str = "agent.stop") -> None:
    """Begin so many pieces of work."""
    for number in range(count):
        log.intent(Entry(WHO, method, "intent", "ci", f"agent-{number}"))
