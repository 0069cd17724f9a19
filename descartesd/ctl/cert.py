"""The verbs of the noun `cert`."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from typing import NamedTuple

from descartesd.ctl import text
from descartesd.ctl.command import PROGRAM, Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count
from descartesd.errors import (
    AlreadyExistsError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    StartupRefusedError,
)

_OUT_HELP = "file to write; default ./NAME.toml, with --dir DIR/profiles/NAME.toml"


class _Issued(NamedTuple):
    name: str
    role: str
    fingerprint: str
    profile: str


def _issue_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the client, unique on the server")
    parser.add_argument("--role", metavar="R", required=True, help="observer, operator or admin")
    parser.add_argument(
        "--days", metavar="N", type=count, default=365, help="how long it is valid; default 365"
    )
    parser.add_argument("--out", metavar="PROFILE", help=_OUT_HELP)
    parser.add_argument(
        "--dir", metavar="DIR", help="sign with the keys of this server directory; needs no server"
    )


def _issue(args: Namespace, out: Output) -> int:
    for option, value in (("--out", args.out), ("--dir", args.dir)):
        if value == "":
            raise InvalidArgumentError(f"{option} is empty: expected a path")
    if args.out is not None:
        _check_place(os.path.abspath(args.out))
    try:
        issued = _issue_by_server(args) if args.dir is None else _issue_in_directory(args)
    except StartupRefusedError as exc:
        raise _by_cause(exc) from exc
    shown = shlex.quote(issued.profile)
    out.document(
        issued._asdict(),
        ids=[issued.fingerprint],
        lines=text.pairs(
            [
                ("profile", issued.profile),
                ("fingerprint", issued.fingerprint),
                ("next", f"{PROGRAM} --profile {shown} server info"),
            ]
        ),
    )
    return 0


def _issue_in_directory(args: Namespace) -> _Issued:
    from descartesd.init import issue_certificate  # noqa: PLC0415  # start-up time

    issued = issue_certificate(
        args.dir, args.name, args.role, environ=os.environ, out=args.out, days=args.days
    )
    identity = issued.identity
    return _Issued(args.name, args.role, identity.fingerprint, issued.profile)


def _issue_by_server(args: Namespace) -> _Issued:
    from descartesd.keys.authority import check_request  # noqa: PLC0415  # start-up time
    from descartesd.keys.curve import generate  # noqa: PLC0415
    from descartesd.keys.profile import Profile, create_profile  # noqa: PLC0415

    check_request(args.name, args.role, args.days)
    path = os.path.abspath(args.out or f"{args.name}.toml")
    _check_place(path)
    pair = generate()
    with connect(args) as client:
        signed = client.cert.sign(
            public_key=pair.public_text, name=args.name, role=args.role, days=args.days
        )
    profile = Profile(
        endpoints=tuple(signed.endpoints),
        server_keys=(signed.server_key,),
        public_key=pair.public_text,
        secret_key=pair.secret_text,
        certificate=signed.certificate,
    )
    create_profile(path, profile)
    return _Issued(signed.name, signed.role, signed.fingerprint, path)


def _check_place(path: str) -> None:
    # Before anything is signed: a certificate without its key is of no use.
    if os.path.isdir(path):
        raise InvalidArgumentError(f"'{path}' is a directory: name a file in it with --out")
    if os.path.lexists(path):
        raise AlreadyExistsError(
            f"'{path}' exists already", hint="choose another file with --out, or remove it"
        )
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise NotFoundError(
            f"there is no directory '{directory}'", hint="make it, or name another with --out"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionDeniedError(
            f"cannot write into '{directory}'", hint="name a directory of yours with --out"
        )


def _by_cause(refusal: StartupRefusedError) -> DescartesError:
    """The error that fits what the kernel refused; a server would not start whatever that was."""
    cause: BaseException | None = refusal
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    kind: type[DescartesError] = StartupRefusedError
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        kind = NotFoundError
    elif isinstance(cause, PermissionError):
        kind = PermissionDeniedError
    return kind(refusal.message, hint=refusal.hint, details=refusal.details)


COMMANDS = {
    "issue": Command(
        summary="Make a key pair, have it signed, and write the profile that uses it.",
        examples=(
            "cert issue ci --role operator --days 90",
            "cert issue ci --role operator --dir /srv/descartes --out ci.toml",
        ),
        run=_issue,
        arguments=_issue_arguments,
    ),
}
