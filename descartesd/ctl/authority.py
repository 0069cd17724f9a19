"""`cert authority`, `cert sign` and what `cert issue --authority` does: authorities off line."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, NamedTuple

from descartesd.ctl import text
from descartesd.ctl.cert import add_terms, check_place, contents_of, public_key_of
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import duration
from descartesd.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError

if TYPE_CHECKING:
    from descartesd.keys.authority import Authority

_OVERLAP_S = 30 * 86_400.0


class IssuedOffline(NamedTuple):
    """As `cert issue` prints it."""

    name: str
    role: str
    fingerprint: str
    profile: str


def add_passphrase(parser: ArgumentParser) -> None:
    """Add where the passphrase of an off-line authority comes from."""
    parser.add_argument(
        "--passphrase-file",
        metavar="F",
        help="file with the passphrase, mode 0600; default: it is asked for",
    )


def _authority_arguments(parser: ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--create", metavar="FILE", help="make an off-line authority; needs no server"
    )
    what.add_argument("--trust", metavar="FILE.pub", help="let its certificates in from now on")
    what.add_argument("--distrust", metavar="SHA256:…", help="let its certificates in no more")
    add_passphrase(parser)


def _authority(args: Namespace, out: Output) -> int:
    if args.create is not None:
        return _create(args, out)
    trust = None if args.trust is None else contents_of(args.trust, "the public key")
    with connect(args) as client:
        table = client.cert.authority(trust=trust, distrust=args.distrust)
    rows = [
        (each.fingerprint, each.id, "own" if each.is_own else "trusted", _until(each.until))
        for each in table.authorities
    ]
    out.document(
        table,
        ids=[each.fingerprint for each in table.authorities],
        lines=text.table(("AUTHORITY", "ID", "KIND", "UNTIL"), rows),
    )
    return 0


def _until(moment: int | None) -> str:
    return "-" if moment is None else text.timestamp(moment)


def _create(args: Namespace, out: Output) -> int:
    from descartesd.keys.authority import public_file  # noqa: PLC0415  # start-up time
    from descartesd.keys.keyfile import fingerprint  # noqa: PLC0415
    from descartesd.keys.offline import create_offline  # noqa: PLC0415

    path = os.path.abspath(args.create)
    check_place(path, "choose another file: an authority is never overwritten")
    authority = create_offline(path, passphrase(args, is_new=True))
    shown, public = fingerprint(authority.public), public_file(path)
    out.document(
        {"fingerprint": shown, "file": path, "public": public},
        ids=[shown],
        lines=text.pairs(
            [
                ("authority", shown),
                ("locked key", path),
                ("public key", public),
                ("next", "on each server: descartesctl cert authority --trust FILE.pub"),
            ]
        ),
    )
    return 0


def passphrase(args: Namespace, *, is_new: bool = False) -> bytes:
    """The passphrase, from a file or from the terminal; a new one is asked for twice."""
    if args.passphrase_file is not None:
        from descartesd.keys.files import read_secret  # noqa: PLC0415  # start-up time

        found = read_secret(args.passphrase_file, refusal=PermissionDeniedError)
        return found.removesuffix(b"\n")
    if not sys.stdin.isatty():
        raise InvalidArgumentError(
            "there is no terminal to ask for the passphrase on",
            hint="give it in a file: --passphrase-file F",
        )
    import getpass  # noqa: PLC0415  # start-up time

    given = getpass.getpass("passphrase: ")
    if is_new and getpass.getpass("once more: ") != given:
        raise InvalidArgumentError("the two passphrases differ")
    return given.encode()


def _opened(args: Namespace) -> Authority:
    from dataclasses import replace  # noqa: PLC0415  # start-up time

    from descartesd.keys.offline import open_offline  # noqa: PLC0415

    if not os.path.exists(args.authority):
        raise NotFoundError(f"there is no authority '{args.authority}'")
    # Which roles a server has only that server knows.
    return replace(open_offline(args.authority, passphrase(args)), roles=(args.role,))


def _sign_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "key", metavar="KEY.pub", help="file with a public key, 40 characters of Z85; - is stdin"
    )
    parser.add_argument("--authority", metavar="FILE", required=True, help="off-line authority")
    parser.add_argument("--name", metavar="N", required=True, help="name of the client")
    add_terms(parser)
    add_passphrase(parser)


def _sign(args: Namespace, out: Output) -> int:
    from descartesd.keys.certificate import armour  # noqa: PLC0415  # start-up time
    from descartesd.keys.z85 import decode_key  # noqa: PLC0415

    key = decode_key(public_key_of(args.key))
    signed = _opened(args).issue(
        args.name, key, args.role, now=time.time(), days=args.days, renew_days=args.renew_days
    )
    certificate = armour(signed)
    out.document(
        {"name": args.name, "role": args.role, "certificate": certificate},
        ids=[args.name],
        lines=certificate.splitlines(),
    )
    return 0


def issue_offline(args: Namespace) -> IssuedOffline:
    """Make a key pair, sign it with an off-line authority, and write a profile that presents it."""
    from descartesd.keys.certificate import armour  # noqa: PLC0415  # start-up time
    from descartesd.keys.curve import generate  # noqa: PLC0415
    from descartesd.keys.join import parse_join  # noqa: PLC0415
    from descartesd.keys.keyfile import fingerprint  # noqa: PLC0415
    from descartesd.keys.profile import Profile, create_profile  # noqa: PLC0415
    from descartesd.keys.z85 import encode_key  # noqa: PLC0415

    if args.introduction is None:
        raise InvalidArgumentError(
            "--authority needs --introduction: where the server is, and a key to present"
            " certificates with",
            hint="an administrator makes it: descartesctl cert token --introduction --ttl 365d",
        )
    join = parse_join(contents_of(args.introduction, "the introduction"))
    path = os.path.abspath(args.out or f"{args.name}.toml")
    check_place(path)
    pair = generate()
    signed = _opened(args).issue(
        args.name,
        pair.public,
        args.role,
        now=time.time(),
        days=args.days,
        renew_days=args.renew_days,
    )
    profile = Profile(
        endpoints=(join.endpoint,),
        server_keys=(encode_key(join.server_key),),
        public_key=pair.public_text,
        secret_key=pair.secret_text,
        certificate=armour(signed),
        introduction_key=encode_key(join.token),
    )
    create_profile(path, profile)
    return IssuedOffline(args.name, args.role, fingerprint(pair.public), path)


def _rotate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("what", metavar="host|authority", choices=("host", "authority"))
    parser.add_argument(
        "--overlap",
        metavar="T",
        type=duration,
        default=_OVERLAP_S,
        help="how long both keys are good, as 12h or 30d; default 30d",
    )


def _rotate(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        done = client.cert.rotate(what=args.what, overlap_s=args.overlap)
    moment = text.timestamp(done.until)
    turn = ("its turn", moment) if done.what == "host" else ("old one ends", moment)
    rows = [("new key", done.fingerprint), ("old key", done.previous), turn]
    out.document(done, ids=[done.fingerprint], lines=text.pairs(rows))
    return 0


COMMANDS = {
    "rotate": Command(
        summary="Give the server a new host key or a new authority; for a while both are good.",
        examples=("cert rotate host --overlap 30d", "cert rotate authority"),
        run=_rotate,
        arguments=_rotate_arguments,
    ),
    "authority": Command(
        summary="List the authorities a server believes, make one, trust one, or distrust one.",
        examples=("cert authority --create fleet.key", "cert authority --trust fleet.pub"),
        run=_authority,
        arguments=_authority_arguments,
    ),
    "sign": Command(
        summary="Sign a public key with an off-line authority and print the certificate.",
        examples=(
            "cert sign alice.pub --name alice --role operator --authority fleet.key",
            "cert sign - --name ci --role observer --authority fleet.key < ci.pub > ci.cert",
        ),
        run=_sign,
        arguments=_sign_arguments,
    ),
}
