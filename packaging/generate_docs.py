#!/usr/bin/env python3
"""Writes the reference pages that derive from the code; `--check` only says which are stale."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from descartesd import main as daemon_program
from descartesd.agents.lifecycle import TRANSITIONS
from descartesd.config.reference import reference
from descartesd.ctl import command as ctl
from descartesd.ctl.topics import exit_codes
from descartesd.errors import ERRORS
from descartesd.keeper.main import USAGE as KEEPER_USAGE
from descartesd.wire.methods import METHODS, Method

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- begin generated from {} -->\n", "<!-- end generated -->\n"


def main() -> int:
    """Write every page that differs, or with `--check` name them; 1 when one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    stale = [
        (path, text)
        for path, text in ((ROOT / name, make()) for name, make in PAGES.items())
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        name = path.relative_to(ROOT)
        if check:
            sys.stderr.write(f"{name} is stale: run make docs\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
    return 1 if check and stale else 0


def page(title: str, source: str, intro: str, *parts: str) -> str:
    """A page with its heading and where it comes from."""
    head = f"# {title}\n\n<!-- Generated from {source} by packaging/generate_docs.py. -->\n\n"
    return head + "\n".join([intro.strip() + "\n", *parts])


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    names = list(headers)
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def sentences(text: str) -> str:
    """One sentence a line."""
    return re.sub(r"(?<=[.!?]) +(?=[A-Z`])", "\n", " ".join(text.split()))


# -- methods


METHODS_INTRO = """
Every method, with the role it needs and whether a client may send it again.
How a request travels is told in [the protocol](protocol.md), what may go wrong in
[errors](errors.md).

What a client may do when the connection was lost before the answer came:
`read` and `state` are sent again (the first changes nothing, the second is idempotent by the
agent's state), `idem` is sent again under its idempotency key, `never` is not sent again.

A type in a table is text, number, integer, true or false, bytes (msgpack bin), a list or a map.
Where a field is not required it may be left out.
"""


def methods_page() -> str:
    """docs/reference/methods.md."""
    overview = table(
        ("method", "role", "re-sent", "summary"),
        (
            (f"[`{m.name}`](#{anchor(m.name)})", m.permission, m.resend, m.summary)
            for m in METHODS.values()
        ),
    )
    types = sorted(_types(), key=lambda kind: kind.__name__)
    return page(
        "Methods",
        "descartesd/wire/methods.py",
        METHODS_INTRO,
        overview,
        *map(_method, METHODS.values()),
        "## Types\n",
        *map(_type, types),
    )


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def _method(method: Method[Any, Any]) -> str:
    kind = "Stream of" if method.stream else "Reply:"
    reply = _link(method.reply) if _fields(method.reply) else "an empty map"
    lines = [
        f"## {method.name}",
        "",
        sentences(method.summary),
        "",
        f"Role `{method.permission}`, re-sent `{method.resend}`, since {method.since}.",
        f"{kind} {reply}.",
        "",
        f"Params: {sentences(method.request.__doc__ or '')}",
        "",
    ]
    fields = _field_table(method.request)
    return "\n".join([*lines, *([fields] if fields else [])])


def _type(kind: type[msgspec.Struct]) -> str:
    head = f"### Type {kind.__name__}\n\n{sentences(kind.__doc__ or '')}\n\n"
    return head + _field_table(kind)


def _types() -> set[type[msgspec.Struct]]:
    """Every struct a reply has or is, and every one inside a request."""
    found: set[type[msgspec.Struct]] = set()
    requests = {method.request for method in METHODS.values()}
    pending: list[Any] = [inspect.type_info(m.reply) for m in METHODS.values()]
    pending += [inspect.type_info(request) for request in requests]
    while pending:
        info = pending.pop()
        if isinstance(info, inspect.StructType):
            if info.cls in found:
                continue
            found.add(info.cls)
            pending += [field.type for field in info.fields]
        else:
            pending += _inside(info)
    return {kind for kind in found - requests if _fields(kind)}


def _inside(info: Any) -> Iterator[Any]:
    for name in ("type", "item_type", "key_type", "value_type"):
        inner = getattr(info, name, None)
        if inner is not None:
            yield inner
    if isinstance(info, inspect.UnionType):
        yield from info.types


def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    return info.fields if isinstance(info, inspect.StructType) else ()


def _field_table(kind: type[msgspec.Struct]) -> str:
    fields = _fields(kind)
    if not fields:
        return ""
    rows = ((f"`{f.encode_name}`", _name(f.type), _default(f)) for f in fields)
    return table(("field", "type", "default"), rows)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    return f"`{json.dumps(value)}`" if value is not None else "nil"


def _link(kind: type[msgspec.Struct]) -> str:
    return f"[{kind.__name__}](#{anchor(f'Type {kind.__name__}')})"


def _name(info: Any) -> str:
    match info:
        case inspect.Metadata():
            return _name(info.type)
        case inspect.StructType():
            return _link(info.cls)
        case inspect.UnionType():
            return " or ".join(map(_name, info.types))
        case inspect.LiteralType():
            return ", ".join(f'`"{value}"`' for value in _in_order(info.values))
        case inspect.ListType() | inspect.VarTupleType():
            return f"list of {_name(info.item_type)}{_length(info, 'entries')}"
        case inspect.DictType():
            keys, values = _name(info.key_type), _name(info.value_type)
            return f"map of {keys} to {values}{_length(info, 'entries')}"
        case inspect.StrType():
            pattern = f" matching `{_pattern(info.pattern)}`" if info.pattern else ""
            return f"text{pattern}{_length(info, 'characters')}"
        case inspect.BytesType():
            return f"bytes{_length(info, 'bytes')}"
        case inspect.IntType() | inspect.FloatType():
            return f"{_PLAIN[type(info)]}{_range(info)}"
        case _:
            return _PLAIN[type(info)]


@functools.cache
def _written_orders() -> dict[frozenset[str], tuple[str, ...]]:
    """The values of every Literal in the order of the source; msgspec sorts them."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    pending: list[Any] = [m.request for m in METHODS.values()] + [*_types()]
    while pending:
        hint = pending.pop()
        if typing.get_origin(hint) is typing.Literal:
            found[frozenset(typing.get_args(hint))] = typing.get_args(hint)
        elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            pending += [each for each in typing.get_type_hints(hint).values() if each != hint]
        else:
            pending += typing.get_args(hint)
    return found


def _in_order(values: Iterable[str]) -> tuple[str, ...]:
    return _written_orders()[frozenset(values)]


_PLAIN = {
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "true or false",
    inspect.NoneType: "nil",
    inspect.AnyType: "anything",
}


def _pattern(pattern: str) -> str:
    # What refuses a newline at the end is noise to a reader.
    return pattern.removesuffix(r"(?!\n)").replace("|", r"\|")


def _length(info: Any, unit: str) -> str:
    least, most = info.min_length, info.max_length
    if least is not None and most is not None:
        return f", {least} {unit}" if least == most else f", {least} to {most} {unit}"
    if most is not None:
        return f", at most {most} {unit}"
    return f", at least {least} {unit}" if least is not None else ""


def _range(info: Any) -> str:
    if info.ge is not None and info.le is not None:
        return f", {info.ge} to {info.le}"
    return f", {info.ge} or more" if info.ge is not None else ""


# -- errors and exit codes


ERRORS_INTRO = """
An error has a `code`, a `message` (a sentence that says what is and what was expected),
often a `hint` (the next step), `retryable`, and sometimes `details`.
Act on the code; the sentence is for people and may change.
`retryable` says whether the same request may succeed when it is sent again later.
The table has its usual value, the error itself has the one that counts:
`deadline_exceeded` is retryable for methods of the classes `read`, `state` and `idem`,
`unavailable` is not when the request may have been carried out.
"""


def errors_page() -> str:
    """docs/reference/errors.md."""
    rows = (
        (
            f"`{code}`",
            f"`{error.__name__}`",
            str(error.exit_status),
            "yes" if error.default_retryable else "no",
            (error.__doc__ or "").replace("\n", " "),
        )
        for code, error in ERRORS.items()
    )
    headers = ("code", "Python class", "exit status", "retryable", "meaning")
    return page("Errors", "descartesd/errors.py", ERRORS_INTRO, table(headers, rows))


EXIT_INTRO = """
The exit status of `descartesctl`, as `descartesctl help exit-codes` prints it.
`descartesd` itself ends with 0 after an orderly stop, with 78 when it refuses to start,
and with 2 when `--check-config` finds a fault.
"""


def exit_codes_page() -> str:
    """docs/reference/exit-codes.md."""
    text = f"```text\n{exit_codes()}\n```\n"
    return page("Exit codes", "descartesd/ctl/topics.py", EXIT_INTRO, text)


# -- command line


CLI_INTRO = """
`descartesctl` speaks to a server, `descartesd` is the server, `descartes-keeper` is started by it.
Standard output carries data, standard error everything else.
With `--json` a command prints the wire types, described in [methods](methods.md),
and an error is one line `{"error": {…}}` on standard error, with the same
[exit status](exit-codes.md).

The profile is the one `--profile` names (a file, or a name in `~/.config/descartes`), or the one
`DESCARTES_PROFILE` names, or `~/.config/descartes/default.toml`, or the Unix socket
`/run/descartes/control.sock`.

## Global options

They stand before or after noun and verb, never after `--`.
"""


def cli_page() -> str:
    """docs/reference/cli.md."""
    commands = dict(_commands())
    general = next(iter(commands.values()))
    names = {option for action in _actions("", general) for option in action.option_strings}
    known = {*ctl.GLOBAL_FLAGS, *ctl.GLOBAL_VALUES} & names
    shared = [a for a in _actions("", general) if known & set(a.option_strings)]
    return page(
        "Command line",
        "the parsers of descartesd/ctl, descartesd/main.py and descartesd/keeper/main.py",
        CLI_INTRO,
        table(("option", "meaning"), map(_option, shared)),
        *(_section(title, command, commands, known) for title, command in commands.items()),
        f"## descartesd\n\n```text\n{_daemon_help()}```\n",
        f"## descartes-keeper\n\n```text\n{KEEPER_USAGE}\n```\n",
    )


def _commands() -> Iterator[tuple[str, ctl.Command]]:
    for noun in ctl.NOUNS:
        for verb, command in import_module(f"descartesd.ctl.{noun}").COMMANDS.items():
            yield f"{noun} {verb}", command
    for name, single in ctl.SINGLE.items():
        yield name, import_module(f"descartesd.ctl.{single.module}").COMMANDS[single.verb]


def _actions(title: str, command: ctl.Command) -> list[argparse.Action]:
    parser = ctl.build_parser(title, command)
    return [a for a in parser._actions if a.dest != "help"]  # noqa: SLF001  # argparse tells them nowhere else


def _section(
    title: str, command: ctl.Command, commands: dict[str, ctl.Command], known: set[str]
) -> str:
    first = next(each for each, other in commands.items() if other is command)
    if first != title:
        return f"## {title}\n\nThe same as [{first}](#{anchor(first)}).\n"
    return _command(title, command, known)


def _command(title: str, command: ctl.Command, known: set[str]) -> str:
    actions = [a for a in _actions(title, command) if not known & set(a.option_strings)]
    options = [a for a in actions if a.option_strings]
    words = [_positional(a) for a in actions if not a.option_strings]
    tail = ["--", "COMMAND", "[ARG …]"] if command.takes_command else []
    synopsis = [ctl.PROGRAM, title, *(["[options]"] if options else []), *words, *tail]
    explained = [a for a in actions if a.option_strings or a.help]
    parts = [
        f"## {title}\n",
        sentences(command.summary) + "\n",
        f"```text\n{' '.join(synopsis)}\n```\n",
        *([table(("argument", "meaning"), map(_option, explained))] if explained else []),
        "Examples:\n",
        "".join(f"- `{ctl.PROGRAM} {line}`\n" for line in command.examples),
    ]
    return "\n".join(parts)


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    several = {"+": f"{name} [{name} …]", "*": f"[{name} …]", "?": f"[{name}]"}
    return several.get(str(action.nargs), name)


def _option(action: argparse.Action) -> tuple[str, str]:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest.upper())
    value = ""
    if action.option_strings and action.nargs != 0:
        value = f" {action.metavar or '|'.join(action.choices or [action.dest.upper()])}"
    shown = f"{names}{value}".replace("|", r"\|")
    return f"`{shown}`", (action.help or "").replace("|", r"\|")


def _daemon_help() -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        daemon_program.main(["--help"])
    return text.getvalue()


# -- parts of pages written by hand


def lifecycle_page() -> str:
    """docs/explanation/lifecycle.md, with its table of transitions."""
    rows = (
        (f"`{state}`", ", ".join(f"`{each}`" for each in TRANSITIONS if each in following))
        for state, following in TRANSITIONS.items()
    )
    path = ROOT / "docs/explanation/lifecycle.md"
    begin = BEGIN.format("descartesd/agents/lifecycle.py")
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n{table(('from', 'to'), rows)}\n{END}{after}"


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/methods.md": methods_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/exit-codes.md": exit_codes_page,
    "docs/reference/configuration.md": reference,
    "docs/reference/cli.md": cli_page,
    "docs/explanation/lifecycle.md": lifecycle_page,
}


if __name__ == "__main__":
    sys.exit(main())
