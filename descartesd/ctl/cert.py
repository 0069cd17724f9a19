"""The verbs of the noun `cert`."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from descartesd.ctl import text
from descartesd.ctl.command import PROGRAM, Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count
from descartesd.errors import (
    AbortedError,
    AlreadyExistsError,
    DeadlineExceededError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    StartupRefusedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from descartesd.keys.curve import CurveKeyPair

_SIZE_MAX = 16_384
_OUT_HELP = "file to write; default ./NAME.toml, with --dir DIR/profiles/NAME.toml"


class _Issued(NamedTuple):
    name: str
    role: str
    fingerprint: str
    profile: str


def _issue_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the client, unique on the server")
    add_terms(parser)
    parser.add_argument("--out", metavar="PROFILE", help=_OUT_HELP)
    parser.add_argument(
        "--dir", metavar="DIR", help="sign with the keys of this server directory; needs no server"
    )
    parser.add_argument(
        "--authority", metavar="FILE", help="sign with this off-line authority; needs no server"
    )
    parser.add_argument(
        "--introduction",
        metavar="FILE",
        help="with --authority: what 'cert token --introduction' printed; - is stdin",
    )
    parser.add_argument(
        "--passphrase-file",
        metavar="F",
        help="with --authority: file with its passphrase, mode 0600; default: it is asked for",
    )


def add_terms(parser: ArgumentParser, *, needs_role: bool = True) -> None:
    """Add what a certificate states: its role, and how long it is valid and can be renewed."""
    parser.add_argument(
        "--role", metavar="R", required=needs_role, help="observer, operator, admin or another"
    )
    parser.add_argument(
        "--days", metavar="N", type=count, default=365, help="how long it is valid; default 365"
    )
    parser.add_argument(
        "--renew-until",
        metavar="DAYS",
        type=count,
        dest="renew_days",
        help="for how long its holder may renew it; default: not beyond its end",
    )


def _issue(args: Namespace, out: Output) -> int:
    for option, value in (("--out", args.out), ("--dir", args.dir)):
        if value == "":
            raise InvalidArgumentError(f"{option} is empty: expected a path")
    if args.out is not None:
        check_place(os.path.abspath(args.out))
    try:
        issued = _issued(args)
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


def _issued(args: Namespace) -> _Issued:
    if args.dir is not None:
        return _issue_in_directory(args)
    if args.authority is not None:
        from descartesd.ctl.authority import issue_offline  # noqa: PLC0415  # start-up time

        return _Issued(*issue_offline(args))
    return _issue_by_server(args)


def _issue_in_directory(args: Namespace) -> _Issued:
    from descartesd.init import issue_certificate  # noqa: PLC0415  # start-up time

    issued = issue_certificate(
        args.dir,
        args.name,
        args.role,
        environ=os.environ,
        out=args.out,
        days=args.days,
        renew_days=args.renew_days,
    )
    identity = issued.identity
    return _Issued(args.name, args.role, identity.fingerprint, issued.profile)


def _issue_by_server(args: Namespace) -> _Issued:
    from descartesd.keys.authority import check_request  # noqa: PLC0415  # start-up time
    from descartesd.keys.certificate import renewal_due  # noqa: PLC0415
    from descartesd.keys.profile import Profile, create_profile  # noqa: PLC0415

    check_request(args.name, args.role, args.days, args.renew_days)
    path = os.path.abspath(args.out or f"{args.name}.toml")
    check_place(path)
    with kept_key(path) as pair, connect(args) as client:
        signed = client.cert.sign(
            public_key=pair.public_text,
            name=args.name,
            role=args.role,
            days=args.days,
            renew_days=args.renew_days,
        )
        profile = Profile(
            endpoints=tuple(signed.endpoints),
            server_keys=(signed.server_key,),
            public_key=pair.public_text,
            secret_key=pair.secret_text,
            certificate=signed.certificate,
            renew_at=renewal_due(signed.certificate),
        )
        create_profile(path, profile)
    return _Issued(signed.name, signed.role, signed.fingerprint, path)


@contextmanager
def kept_key(path: str) -> Iterator[CurveKeyPair]:
    """A key pair for the profile to be written to `path`, kept beside it until that is there.

    Where the answer may have been lost the key stays: the same command, said again, gets the same
    certificate.
    """
    from descartesd.keys.curve import create_key_file, generate, load_key_file  # noqa: PLC0415

    kept = f"{path}.key"
    if os.path.lexists(kept):
        pair = load_key_file(kept)
    else:
        pair = generate()
        create_key_file(kept, pair)
    try:
        yield pair
    except (UnavailableError, DeadlineExceededError, AbortedError) as exc:
        exc.hint = "\n".join(
            filter(None, [exc.hint, f"say the same again: it goes on with the key in '{kept}'"])
        )
        raise
    except DescartesError:
        os.unlink(kept)
        raise
    os.unlink(kept)


def check_place(path: str, otherwise: str = "choose another file with --out, or remove it") -> None:
    """See that a profile can be written there, before anything is signed for it."""
    if os.path.isdir(path):
        raise InvalidArgumentError(f"'{path}' is a directory: name a file in it with --out")
    if os.path.lexists(path):
        raise AlreadyExistsError(f"'{path}' exists already", hint=otherwise)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise NotFoundError(
            f"there is no directory '{directory}'", hint="make it, or name another with --out"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionDeniedError(
            f"cannot write into '{directory}'", hint="name a directory of yours with --out"
        )


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "key",
        metavar="FILE",
        help="file with a public key, 40 characters of Z85, or with a certificate; - is stdin",
    )
    parser.add_argument("--name", metavar="N", help="name of the client; default: the file's name")
    add_terms(parser, needs_role=False)


def _add(args: Namespace, out: Output) -> int:
    words = contents_of(args.key, "the key")
    if words.startswith("#"):
        return _add_certificate(args, words, out)
    if args.role is None:
        raise InvalidArgumentError("the following arguments are required: --role")
    name = args.name or os.path.basename(args.key).removesuffix(".pub")
    if args.key == "-" and args.name is None:
        raise InvalidArgumentError("a key from standard input has no name", hint="add --name N")
    public_key = _checked_key(args.key, words)
    with connect(args) as client:
        signed = client.cert.sign(
            public_key=public_key,
            name=name,
            role=args.role,
            days=args.days,
            renew_days=args.renew_days,
        )
    out.document(
        signed,
        ids=[signed.fingerprint],
        lines=text.pairs(
            [
                ("let in", signed.name),
                ("role", signed.role),
                ("fingerprint", signed.fingerprint),
                ("server key", signed.server_key),
                ("endpoints", " ".join(signed.endpoints)),
            ]
        ),
    )
    return 0


def _add_certificate(args: Namespace, certificate: str, out: Output) -> int:
    if args.role is not None or args.name is not None:
        raise InvalidArgumentError("a certificate says its name and role itself")
    with connect(args) as client:
        added = client.cert.add(certificate=certificate)
    rows = [("let in", added.name), ("role", added.role), ("fingerprint", added.fingerprint)]
    out.document(added, ids=[added.fingerprint], lines=text.pairs(rows))
    return 0


def public_key_of(path: str) -> str:
    """The public key (Z85) in a file; raises InvalidArgumentError, NotFoundError."""
    return _checked_key(path, contents_of(path, "the public key"))


def contents_of(path: str, what: str) -> str:
    """The text of a small file, or of standard input for '-'; raises NotFoundError."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            return file.read(_SIZE_MAX).decode("utf-8", "replace")
    except OSError as exc:
        raise NotFoundError(f"cannot read {what} '{path}': {exc.strerror}") from exc


def _checked_key(path: str, contents: str) -> str:
    from descartesd.keys.z85 import decode_key  # noqa: PLC0415  # start-up time

    words = contents.split()
    if len(words) != 1:
        raise InvalidArgumentError(
            f"'{path}' is not a public key: expected 40 characters of Z85 and nothing else",
            hint="a file with a secret key must not travel: copy the public key alone",
        )
    try:
        decode_key(words[0])
    except ValueError as exc:
        raise InvalidArgumentError(f"'{path}' is not a public key: {exc}") from exc
    return words[0]


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
    "add": Command(
        summary="Let the holder of a public key, or of a certificate signed off line, in.",
        examples=(
            "cert add alice.pub --role operator",
            "cert add - --name alice --role observer --days 30 < alice.pub",
        ),
        run=_add,
        arguments=_add_arguments,
    ),
}
