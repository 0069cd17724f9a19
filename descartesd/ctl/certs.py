"""`cert list`, `cert show` and `cert revoke`: who is let in, and who is let in no more."""

from __future__ import annotations

import re
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from descartesd.ctl import text
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.errors import InvalidArgumentError

if TYPE_CHECKING:
    from descartesd.wire.cert import CertInfo

_KINDS = {"token": "join string", "introduction": "introduction key"}
_HEADERS = ("NAME", "ROLE", "STATUS", "EXPIRES", "SERIAL", "FINGERPRINT")
_DAY_S = 86_400


def _list(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        table = client.cert.list()
    now = time.time()
    rows: list[tuple[str, ...]] = [
        (each.name or "-", each.role or "-", each.status, _expires(each, now), each.serial or "-",
         each.fingerprint or "-")
        for each in table.certificates
    ]  # fmt: skip
    # Whoever has one of these can come in as well.
    rows += [
        (each.name or "-", each.role or "-", _KINDS[each.kind], text.age(each.expires_at - now),
         "-", each.fingerprint)
        for each in table.tokens
        if each.used_by is None
    ]  # fmt: skip
    out.document(
        table,
        ids=[each.name or each.fingerprint or each.serial for each in table.certificates],
        lines=text.table(_HEADERS, rows),
    )
    return 0


def _expires(certificate: CertInfo, now: float) -> str:
    if certificate.status == "revoked":
        return "-"
    left = certificate.not_after - now
    if left <= 0:
        return f"{text.age(-left)} ago"
    return f"{int(left // _DAY_S)}d" if left >= _DAY_S else text.age(left)


def _show_arguments(parser: ArgumentParser) -> None:
    _add_who(parser)


def _show(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        shown = client.cert.show(**_who(args.who))
    now = time.time()
    rows = [
        ("name", shown.name),
        ("role", shown.role),
        ("status", shown.status),
        ("serial", shown.serial),
        ("fingerprint", shown.fingerprint),
        ("signed by", shown.authority),
        *_times(shown, now),
    ]
    lines = text.pairs((name, value) for name, value in rows if value)
    lines += [text.safe(line) for line in (shown.certificate or "").splitlines()]
    out.document(shown, ids=[shown.name or shown.fingerprint or shown.serial], lines=lines)
    return 0


def _times(shown: CertInfo, now: float) -> list[tuple[str, str]]:
    if shown.revoked_at is not None:
        number = f"number {shown.generation} of the revocation list"
        return [("revoked", f"{text.moment(shown.revoked_at, now)}, {number}")]
    return [
        ("valid from", text.timestamp(shown.not_before)),
        ("valid until", f"{text.timestamp(shown.not_after)} ({_expires(shown, now)})"),
        ("renewable until", text.timestamp(shown.renew_until)),
    ]


def _revoke_arguments(parser: ArgumentParser) -> None:
    _add_who(parser)
    parser.add_argument(
        "--even-unknown",
        action="store_true",
        help="also a serial or a fingerprint this server has never seen",
    )
    parser.add_argument(
        "--kill-agents", action="store_true", help="kill the agents of its holder; else they stay"
    )
    parser.add_argument("--idem", metavar="KEY", help="once only, however often this is repeated")


def _revoke(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        done = client.cert.revoke(
            **_who(args.who),
            even_unknown=args.even_unknown,
            kill_agents=args.kill_agents,
            idem=args.idem,
        )
    rows = [
        ("revoked", done.name or "-"),
        ("fingerprint", done.fingerprint or "-"),
        ("serial", done.serial or "-"),
        ("number", str(done.generation)),
    ]
    if done.join_strings:
        rows.append(("join strings ended", str(done.join_strings)))
    if args.kill_agents:
        rows.append(("agents killed", str(done.killed)))
    out.document(
        done,
        ids=[done.fingerprint or done.serial],
        lines=text.pairs(row for row in rows if row[1] != "-"),
    )
    return 0


def _renew(args: Namespace, out: Output) -> int:
    from descartesd.client.profiles import find_profile  # noqa: PLC0415  # start-up time
    from descartesd.client.upkeep import renewed  # noqa: PLC0415
    from descartesd.keys.certificate import terms  # noqa: PLC0415
    from descartesd.keys.profile import replace_profile  # noqa: PLC0415

    with connect(args) as client:
        signed = client.cert.renew()
    profile = find_profile(args.profile)
    if profile.path is None:
        raise InvalidArgumentError("there is no profile to write the new certificate to")
    replace_profile(profile.path, renewed(profile, signed.certificate))
    stated = terms(signed.certificate)
    rows = [
        ("renewed", signed.name),
        ("valid until", text.timestamp(stated.not_after)),
        ("renewable until", text.timestamp(stated.renew_until)),
        ("profile", profile.path),
    ]
    out.document(signed, ids=[signed.fingerprint], lines=text.pairs(rows))
    return 0


def _add_who(parser: ArgumentParser) -> None:
    parser.add_argument(
        "who",
        metavar="WHO",
        help="a name, a fingerprint (SHA256:…), or a serial as serial:HEX",
    )


def _who(word: str) -> dict[str, Any]:
    if word.startswith("SHA256:"):
        return {"fingerprint": word}
    if word.startswith("serial:"):
        return {"serial": word.removeprefix("serial:").lower()}
    # No name begins with a digit.
    if re.fullmatch(r"[0-9][0-9a-fA-F]{15}", word):
        return {"serial": word.lower()}
    return {"name": word}


COMMANDS = {
    "list": Command(
        summary="List everybody with a certificate, and everybody whose certificate was revoked.",
        examples=("cert list", "--json cert list"),
        run=_list,
    ),
    "show": Command(
        summary="Show one certificate.",
        examples=("cert show ci", "cert show serial:0123456789abcdef"),
        run=_show,
        arguments=_show_arguments,
    ),
    "renew": Command(
        summary="Have the certificate of the profile signed anew, for the same key and name.",
        examples=("cert renew", "--profile ci.toml cert renew"),
        run=_renew,
    ),
    "revoke": Command(
        summary="Let a certificate and its key in no more, at once and for good.",
        examples=("cert revoke ci", "cert revoke ci --kill-agents"),
        run=_revoke,
        arguments=_revoke_arguments,
    ),
}
