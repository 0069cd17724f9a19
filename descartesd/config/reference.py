"""Writes the reference page of the configuration from the schema."""

from __future__ import annotations

import typing
from itertools import groupby
from typing import Literal

from msgspec import Struct

from descartesd.config.backend import Words
from descartesd.config.layers import ALIASES, CONFIG_FILE, ENVIRONMENT, FLAT_KEYS, PREFIX
from descartesd.config.leaves import Leaf, leaves
from descartesd.config.toml_text import toml_text

_HEAD = f"""\
# Configuration

<!-- Generated from descartesd/config/schema.py. -->

The configuration is one TOML file, named by `--config` or `{CONFIG_FILE}`.
Every key may be overridden; the later of these wins:
default, file, `[environments.NAME]`, environment variable, command line.
Lists replace, tables merge.
A key that is not listed here is refused, and so is a value that begins with `@`.
Relative paths are relative to the directory of the file.
"""

_PLUGIN = f"""\
## [plugins.NAME]

The settings of the plugin NAME, which has to be enabled; which ones there are is up to the plugin.
They are checked as all others are, when the plugin is loaded.
`{PREFIX}PLUGINS__NAME__KEY` is `plugins.NAME.key`; where a plugin's name has a `-`, the variable
has a `_`.
"""


def reference() -> str:
    """The text of docs/reference/configuration.md."""
    settings = leaves().values()
    plain = (leaf for leaf in settings if leaf.entry is None)
    sections = groupby(plain, key=lambda leaf: leaf.key.rpartition(".")[0])
    tables = [_section(name, list(members)) for name, members in sections]
    entries = [_entry(leaf, leaf.entry) for leaf in settings if leaf.entry is not None]
    return "\n".join([_HEAD, *tables, *entries, _PLUGIN, _environments(), _variables()])


def _entry(leaf: Leaf, kind: type[Struct]) -> str:
    about = f"{leaf.description}\n{kind.__doc__}"
    title, _, rows = _section(f"{leaf.key}.NAME", list(leaves(kind).values())).partition("\n\n")
    return f"{title}\n\n{about}\n\n{rows}"


def _section(name: str, members: list[Leaf]) -> str:
    rows = "\n".join(_row(leaf, leaf.key.removeprefix(f"{name}.")) for leaf in members)
    return f"## [{name}]\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _row(leaf: Leaf, name: str) -> str:
    default = "" if leaf.is_table or leaf.default is None else f"`{toml_text(leaf.default)}`"
    return f"| `{name}` | {_value(leaf)} | {default} | {leaf.description} |"


def _value(leaf: Leaf) -> str:
    if leaf.is_table:
        _, value = typing.get_args(leaf.base)
        return f"table: name = {_choices(value) or _text(value)}"
    if typing.get_origin(leaf.base) is Literal:
        return _choices(leaf.base)
    if leaf.base in (int, float):
        bounds = next(meta for meta in leaf.metas if meta.ge is not None)
        return f"{'integer' if leaf.base is int else 'number'}, {bounds.ge} to {bounds.le}"
    if leaf.base in (str, bool):
        return "text" if leaf.base is str else "`true`, `false`"
    inner, _ = typing.get_args(leaf.base)
    return "list of texts" if inner is not Words else "list of texts and of lists of texts"


def _text(kind: object) -> str:
    return next((m.title for m in typing.get_args(kind)[1:] if m.title), "text")


def _choices(literal: object) -> str:
    if typing.get_origin(literal) is not Literal:
        return ""
    return ", ".join(f'`"{each}"`' for each in typing.get_args(literal))


def _environments() -> str:
    rows = "\n".join(f"- `{flat}` is `{key}`" for flat, key in FLAT_KEYS.items())
    return f"""\
## [environments.NAME]

Settings of one environment, chosen by `{ENVIRONMENT}` (`production` when unset).
They stand in the same sections, `[environments.staging.server]`, or directly in the table:

{rows}

Where both are given, the one in the section wins.
"""


def _variables() -> str:
    rows = "\n".join(f"- `{name}` is `{key}`" for name, key in ALIASES.items())
    return f"""\
## Environment variables

`{PREFIX}SECTION__KEY` is `section.key`: `{PREFIX}NETWORK__SEND_HWM=500`,
`{PREFIX}SERVER__RUNNER__WORKING_DIR=/srv`, `{PREFIX}POLICY__LOCAL_UIDS__1000=operator`.
A list is written as in TOML: `{PREFIX}SERVER__RUNNER__PATH='["/usr/bin"]'`.
Shorter names:

{rows}
- `{CONFIG_FILE}` names the file
- `{ENVIRONMENT}` chooses the environment

Other variables that begin with `{PREFIX}` are not configuration.
"""
