"""`plugin list` and `plugin show`: who takes part in the server, and how it fares."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from descartesd.ctl import text
from descartesd.ctl.command import Command, suggest
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.errors import NotFoundError

if TYPE_CHECKING:
    from descartesd.wire.plugin import PluginInfo

_HEADERS = ("PLUGIN", "VERSION", "STATE", "CALLS", "ERRORS", "P99", "HOOKS")


def _list(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        table = client.plugin.list()
    rows = [
        (
            each.name,
            each.version or "-",
            each.state,
            str(each.calls),
            str(each.errors),
            _p99(each),
            " ".join(each.hooks) or "-",
        )
        for each in table.plugins
    ]
    out.document(table, ids=[each.name for each in table.plugins], lines=text.table(_HEADERS, rows))
    return 0


def _p99(plugin: PluginInfo) -> str:
    return text.seconds(plugin.p99_s) if plugin.p99_s else "-"


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as 'plugin list' shows it")


def _show(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        plugins = {each.name: each for each in client.plugin.list().plugins}
    found = plugins.get(args.name)
    if found is None:
        raise NotFoundError(
            f"this server has no plugin '{args.name}'",
            hint=suggest(args.name, plugins, "see them: descartesctl plugin list"),
        )
    out.document(found, ids=[found.name], lines=text.pairs(_rows(found)))
    return 0


def _rows(plugin: PluginInfo) -> list[tuple[str, str]]:
    return [
        ("plugin", plugin.name),
        ("package", f"{plugin.distribution} {plugin.version}"),
        ("state", plugin.state),
        *([("last error", plugin.last_error)] if plugin.last_error else []),
        ("calls", f"{plugin.calls}, {plugin.errors} failed, {plugin.dropped} dropped"),
        ("p99", _p99(plugin)),
        ("hooks", _words(plugin.hooks)),
        ("actions", _words(plugin.actions)),
        ("backends", _words(plugin.backends)),
        ("metrics", _words(plugin.metrics)),
        ("exporters", _words(plugin.exporters)),
        *((f"config {key}", str(value)) for key, value in (plugin.config or {}).items()),
    ]


def _words(names: Sequence[str]) -> str:
    return " ".join(names) or "none"


COMMANDS = {
    "list": Command(
        summary="List the plugins of the server, their state, and how their hooks fare.",
        examples=("plugin list", "--json plugin list"),
        run=_list,
    ),
    "show": Command(
        summary="Show one plugin: its hooks, what it adds, and its settings without secrets.",
        examples=("plugin show builtin", "--json plugin show builtin"),
        run=_show,
        arguments=_show_arguments,
    ),
}
