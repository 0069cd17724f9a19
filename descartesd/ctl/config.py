"""`config`: what a server would make of its configuration, without a server."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from descartesd.ctl.command import Command
from descartesd.ctl.output import Output
from descartesd.ctl.text import safe
from descartesd.errors import InvalidArgumentError, StartupRefusedError
from descartesd.keys.profile import SERVICE_CONFIG

if TYPE_CHECKING:
    from descartesd.config.effective import Setting
    from descartesd.config.load import Loaded

_VARIABLE = "DESCARTES_CONFIG_FILE"


def _file_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help=f"the configuration; without it the one {_VARIABLE} names, or {SERVICE_CONFIG}",
    )


def _show_arguments(parser: ArgumentParser) -> None:
    _file_argument(parser)
    parser.add_argument(
        "--origin", action="store_true", help="say of each setting where its value comes from"
    )


def _path(args: Namespace) -> str:
    path: str | None = args.file or os.environ.get(_VARIABLE)
    if path is None and os.path.exists(SERVICE_CONFIG):
        path = SERVICE_CONFIG
    if not path:
        raise InvalidArgumentError(
            f"no configuration is named, neither here nor by {_VARIABLE}, "
            f"and there is no {SERVICE_CONFIG}",
            hint="name it: descartesctl config check FILE, or config show FILE",
        )
    return path


@contextmanager
def _refused() -> Iterator[None]:
    """Here it is what was asked about that does not fit, no server that does not start."""
    try:
        yield
    except StartupRefusedError as exc:
        raise InvalidArgumentError(exc.message, hint=exc.hint, details=exc.details) from exc


def _load(path: str) -> Loaded:
    from descartesd.config.load import load  # noqa: PLC0415  # costs 100 ms

    return load(path, environ=os.environ)


def _show(args: Namespace, out: Output) -> int:
    path = _path(args)
    with _refused():
        loaded = _load(path)
    from descartesd.config.effective import settings  # noqa: PLC0415  # start-up time

    found = settings(loaded)
    out.document(
        {"file": path, "settings": [each._asdict() for each in found]},
        ids=[each.key for each in found],
        lines=_lines(found, with_origin=args.origin),
    )
    return 0


def _lines(found: list[Setting], *, with_origin: bool) -> Iterator[str]:
    from descartesd.config.toml_text import toml_text  # noqa: PLC0415  # start-up time

    # TOML has no word for what is not there.
    told = [each for each in found if each.value is not None]
    lines = [f"{each.key} = {safe(toml_text(each.value))}" for each in told]
    width = max(map(len, lines))
    for each, line in zip(told, lines, strict=True):
        yield f"{line:{width}}  # {safe(each.origin)}" if with_origin else line


def _check(args: Namespace, out: Output) -> int:
    path = _path(args)
    # We do without it, see main; what a plugin imports may not.
    if sys.modules.get("typing_extensions", sys) is None:
        del sys.modules["typing_extensions"]
    with _refused():
        loaded = _load(path)
        from descartesd.plugins import contributions  # noqa: PLC0415  # start-up time

        contributions(loaded)
    out.document(
        {"file": path, "ok": True}, ids=[path], lines=[f"{safe(path)}: a server would take it"]
    )
    return 0


COMMANDS = {
    "show": Command(
        "Show every setting as a server would have it, as TOML; what may be a secret is masked.",
        ("config show fleet/descartesd.toml", "config show --origin"),
        _show,
        _show_arguments,
    ),
    "check": Command(
        "Tell everything that is wrong with a configuration, those of the plugins it enables "
        "included, without a server; the exit status is 2 when something does not fit.",
        ("config check /etc/descartesd/descartesd.toml", "--json config check"),
        _check,
        _file_argument,
    ),
}
