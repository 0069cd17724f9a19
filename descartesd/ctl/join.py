"""`cert token` and `login`: a join string made on one host, and used on another."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace

from descartesd.ctl import text
from descartesd.ctl.cert import add_terms, check_place, kept_key
from descartesd.ctl.command import PROGRAM, Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import positive_duration
from descartesd.errors import InvalidArgumentError, PermissionDeniedError

_DEFAULT_TTL_S = 900.0
_DEFAULT_PROFILE = "~/.config/descartes/default.toml"
_LOOPBACK = ("tcp://127.", "tcp://[::1]", "tcp://localhost:")


def _token_arguments(parser: ArgumentParser) -> None:
    add_terms(parser, needs_role=False)
    parser.add_argument(
        "--introduction",
        action="store_true",
        help="make no token but a key to present certificates with that were signed off line",
    )
    parser.add_argument(
        "--ttl",
        metavar="T",
        type=positive_duration,
        default=_DEFAULT_TTL_S,
        help="how long it can be used, as 15m or 2d; default 15m",
    )
    parser.add_argument("--name", metavar="N", help="name of the client; default: he chooses it")


def _token(args: Namespace, out: Output) -> int:
    from descartesd.keys.join import parse_join  # noqa: PLC0415  # start-up time

    if args.role is None and not args.introduction:
        raise InvalidArgumentError("the following arguments are required: --role")
    with connect(args) as client:
        made = client.cert.token(
            role=args.role,
            ttl_s=args.ttl,
            introduction=args.introduction,
            name=args.name,
            days=args.days,
            renew_days=args.renew_days,
        )
        used = client.endpoint
    join = parse_join(made.join)
    if used.startswith("tcp://"):
        # What led us here leads others here sooner than what the server takes for its name.
        join = join._replace(endpoint=used)
    out.document(
        {
            "join": join.text(),
            "fingerprint": made.fingerprint,
            "expires_at": made.expires_at,
            "endpoint": join.endpoint,
        },
        ids=[join.text()],
        lines=[join.text()],
    )
    if args.introduction:
        out.note(f"good for {text.age(args.ttl)}; use it with: {PROGRAM} cert issue --introduction")
    else:
        out.note(f"good once, for {text.age(args.ttl)}; use it with: {PROGRAM} login -")
    if join.endpoint.startswith(_LOOPBACK):
        out.note(f"it names {join.endpoint}, which on another host is that host itself")
    return 0


def _login_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "join",
        metavar="JOIN-STRING",
        help="as 'cert token' prints it; - reads it from standard input, where no list of"
        " processes and no history of a shell shows this secret",
    )
    parser.add_argument(
        "--out", metavar="PROFILE", help=f"file to write; default {_DEFAULT_PROFILE}"
    )
    parser.add_argument("--name", metavar="N", help="name to have; default: user and host")
    parser.add_argument("--force", action="store_true", help="replace the profile that is there")


def _login(args: Namespace, out: Output) -> int:
    from descartesd.keys.certificate import renewal_due  # noqa: PLC0415  # start-up time
    from descartesd.keys.curve import pair_of  # noqa: PLC0415  # start-up time
    from descartesd.keys.join import parse_join  # noqa: PLC0415
    from descartesd.keys.profile import (  # noqa: PLC0415
        Profile,
        create_profile,
        replace_profile,
    )
    from descartesd.keys.z85 import encode_key  # noqa: PLC0415

    join = parse_join(_line_of_stdin() if args.join == "-" else args.join)
    path = _place(args)
    server_keys = (encode_key(join.server_key),)
    token = pair_of(join.token)
    guest = Profile((join.endpoint,), server_keys, token.public_text, token.secret_text)
    with kept_key(path) as pair, connect(args, profile=guest) as client:
        signed = client.cert.enroll(
            public_key=pair.public_text, name=args.name, suggestion=_suggestion()
        )
        profile = Profile(
            endpoints=(join.endpoint,),
            server_keys=server_keys,
            public_key=pair.public_text,
            secret_key=pair.secret_text,
            certificate=signed.certificate,
            renew_at=renewal_due(signed.certificate),
        )
        (replace_profile if args.force else create_profile)(path, profile)
    shown = "" if args.out is None else f"--profile {shlex.quote(path)} "
    out.document(
        {
            "name": signed.name,
            "role": signed.role,
            "fingerprint": signed.fingerprint,
            "profile": path,
        },
        ids=[signed.fingerprint],
        lines=text.pairs(
            [
                ("profile", path),
                ("name", signed.name),
                ("role", signed.role),
                ("fingerprint", signed.fingerprint),
                ("next", f"{PROGRAM} {shown}server info"),
            ]
        ),
    )
    return 0


def _line_of_stdin() -> str:
    return sys.stdin.buffer.readline(4096).decode("ascii", "replace")


def _place(args: Namespace) -> str:
    """Where the profile goes: seen to before the token is used."""
    if args.out == "":
        raise InvalidArgumentError("--out is empty: expected a path")
    path = os.path.abspath(os.path.expanduser(args.out or _DEFAULT_PROFILE))
    if args.out is None:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except OSError as exc:
            raise PermissionDeniedError(
                f"cannot make '{os.path.dirname(path)}': {exc.strerror}",
                hint="name a file of yours with --out",
            ) from exc
    if not (args.force and os.path.isfile(path)):
        check_place(path, otherwise="replace it with --force, or choose another file with --out")
    return path


def _suggestion() -> str | None:
    """A name made of the user and the host, where it is one."""
    import pwd  # noqa: PLC0415  # start-up time
    import re  # noqa: PLC0415
    import socket  # noqa: PLC0415

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = "user"
    host = socket.gethostname().partition(".")[0]
    name = re.sub(r"[^a-z0-9._-]", "-", f"{user}-{host}".lower()).lstrip("-._0123456789")
    return name[:63] or None


COMMANDS = {
    "token": Command(
        summary="Print a join string: somebody gets a certificate by it, once.",
        examples=("cert token --role operator --ttl 15m", "cert token --role observer --name ci"),
        run=_token,
        arguments=_token_arguments,
    ),
    "login": Command(
        summary="Use a join string: make a key, have it certified, and write a profile.",
        examples=("login -", "login - --out team.toml --name alice < join-string"),
        run=_login,
        arguments=_login_arguments,
    ),
}
