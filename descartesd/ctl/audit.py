"""`audit show` and `audit verify`: who did what, and whether the log of it is what was written."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count, moment
from descartesd.errors import InvalidArgumentError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.audit import AuditFault, AuditLine, AuditPage, AuditReport

_HEADERS = ("TIME", "SEQ", "WHO", "METHOD", "TARGET", "WHAT")
_PAGE = 1000


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--who", metavar="W", help="an identity, or the name of a certificate")
    parser.add_argument("--method", metavar="M", help="a method, or several as 'cert.*'")
    parser.add_argument(
        "--target", metavar="T", help="an agent, a certificate, an action, or what else was meant"
    )
    parser.add_argument(
        "--since", metavar="T", type=moment, help="what came since: a time, or an age as 10m"
    )
    parser.add_argument("--until", metavar="T", type=moment, help="what came before")
    parser.add_argument(
        "--limit", metavar="N", type=count, default=100, help="the last N lines; default 100"
    )


def _show(args: Namespace, out: Output) -> int:
    if args.limit < 1:
        raise InvalidArgumentError("--limit 0 shows nothing: expected 1 at least")
    with connect(args) as client:
        lines = _found(client, args)
    out.document(
        {"lines": lines},
        ids=[str(line.seq) for line in lines],
        lines=text.table(_HEADERS, map(_row, lines)),
    )
    return 0


def _found(client: Client, args: Namespace) -> list[AuditLine]:
    """The last lines, page by page from the newest one back."""
    found: list[AuditLine] = []
    cursor: int | None = None
    while True:
        page: AuditPage = client.audit.show(
            who=args.who,
            method=args.method,
            target=args.target,
            since=args.since,
            until=args.until,
            limit=min(_PAGE, args.limit - len(found)),
            cursor=cursor,
        )
        found = [*page.lines, *found]
        cursor = page.cursor
        if cursor is None or len(found) >= args.limit:
            return found


def _row(line: AuditLine) -> tuple[str, ...]:
    return (
        text.timestamp(line.time),
        str(line.seq),
        line.certificate or line.identity,
        line.method,
        line.target or "-",
        _what(line),
    )


def _what(line: AuditLine) -> str:
    words = [line.phase if line.phase in ("intent", "note") else line.outcome or "-"]
    if line.phase == "refused":
        words.insert(0, "refused:")
    if line.intent is not None:
        words.append(f"of {line.intent}")
    if line.count is not None:
        words.append(f"x{line.count}")
    if line.failed:
        words.append(f"({line.failed} failed)")
    if line.detail is not None:
        words.append(line.detail)
    return " ".join(words)


def _verify_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dir", metavar="DIR", help="the files of this server directory; needs no server"
    )


def _verify(args: Namespace, out: Output) -> int:
    if args.dir is None:
        with connect(args) as client:
            report = client.audit.verify()
    elif not args.dir:
        raise InvalidArgumentError("--dir is empty: expected a path")
    else:
        from descartesd.offline import verify_audit_log  # noqa: PLC0415  # start-up time

        report = verify_audit_log(args.dir, os.environ)
    out.document(report, ids=[str(report.last_seq)], lines=text.pairs(_rows(report)))
    return 0 if report.holds else 1


def _rows(report: AuditReport) -> list[tuple[str, str]]:
    signed = "-" if report.signed_at is None else text.timestamp(report.signed_at)
    seqs = f"seq {report.first_seq} to {report.last_seq}"
    rows = [
        ("holds", "yes" if report.holds else "no"),
        *(("fault", _fault(fault)) for fault in report.faults),
        ("lines", f"{report.lines} in {report.files} files, {seqs}"),
        ("signed", f"up to seq {report.signed_seq}, at {signed}"),
        ("unsigned", f"{report.unsigned} lines, those of a minute at most"),
        ("public key", report.public_key),
    ]
    if report.torn_bytes:
        rows.append(("torn", f"{report.torn_bytes} bytes of a last line, cut short by a crash"))
    return rows


def _fault(fault: AuditFault) -> str:
    # Line 0: the file has none, or it is no file of lines.
    where = f"{fault.file} line {fault.line}" if fault.line else fault.file
    return f"{where}, seq {fault.seq}: {fault.what}"


COMMANDS = {
    "show": Command(
        summary="Show who changed what and who was refused, oldest first.",
        examples=("audit show --since 1h --who ci", "audit show --method 'cert.*' --json"),
        run=_show,
        arguments=_show_arguments,
    ),
    "verify": Command(
        summary="Check that the log is what was written; 1 if it is not.",
        examples=("audit verify", "audit verify --dir /srv/descartes --json"),
        run=_verify,
        arguments=_verify_arguments,
    ),
}
