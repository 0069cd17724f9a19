#!/usr/bin/env python3
"""Writes the manual pages from what the reference pages are made of: `manuals.py OUT`."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from cli_page import CLI_INTRO, commands, global_options, keeper_options, options
from methods_page import table
from roff import manual
from source_date import source_date

from descartesd import main as daemon
from descartesd.config.layers import CONFIG_FILE, ENVIRONMENT
from descartesd.config.leaves import leaves
from descartesd.config.reference import reference
from descartesd.ctl.command import GLOBALS_USAGE, NOUNS, SINGLE
from descartesd.ctl.topics import exit_codes
from descartesd.keeper.main import USAGE

SERVICE = Path(__file__).parent / "deb" / "descartesd.toml"
CONFIG = "/etc/descartesd/descartesd.toml"
SIGNALS = """
- `SIGTERM`, `SIGINT`: a server that runs by hand ends its agents in order, then its keeper.
  A service leaves them to the unit of the keeper.
- `SIGHUP`: a service reads its configuration again.
  A server that runs by hand ends, as when its terminal is closed.

A server that is killed or crashes touches no agent: the next one goes on with them.
"""
KEEPER = """
The parent of all agents: it starts them, writes their output to files and knows how they end.
It has no network and takes orders from the daemon alone, over its socket.
A crash, a restart or an upgrade of the daemon touches neither it nor any agent.
It is started by `descartesd` or by `descartes-keeper.service`, never by hand.

On `SIGTERM` it ends its agents in order, then itself.
"""


def pages() -> dict[str, str]:
    """The text of each manual page by the name of its file."""
    # argparse would else take the width of the terminal.
    os.environ["COLUMNS"] = "80"
    return {
        "descartesctl.1": _page("descartesctl", 1, "control agents and their server", _client()),
        "descartesd.8": _page(
            "descartesd", 8, _lowered(daemon.build_parser().description), _daemon()
        ),
        "descartes-keeper.8": _page(
            "descartes-keeper", 8, "parent of the agents of descartesd", _keeper()
        ),
        "descartesd.toml.5": _page(
            "descartesd.toml", 5, "configuration of descartesd", _configuration()
        ),
    }


def _page(name: str, section: int, summary: str, chapters: dict[str, str]) -> str:
    others = [f"{each}({number})" for each, number in _ALL if each != name]
    seen = {**chapters, "SEE ALSO": ", ".join(f"`{each}`" for each in others)}
    version = f"descartesd {metadata.version('descartesd')}"
    heading = (name, str(section), source_date().strftime("%Y-%m-%d"), version, "descartesd")
    return manual(heading, summary, seen)


_ALL = (("descartesctl", 1), ("descartesd.toml", 5), ("descartes-keeper", 8), ("descartesd", 8))


def _lowered(sentence: str | None) -> str:
    text = (sentence or "").removesuffix(".")
    return text[:1].lower() + text[1:]


def _client() -> dict[str, str]:
    about, _, anywhere = CLI_INTRO.partition("## Global options")
    nouns = ((f"`{name}`", each.summary) for name, each in (NOUNS | SINGLE).items())
    return {
        "SYNOPSIS": f"`descartesctl` {GLOBALS_USAGE} NOUN VERB …",
        "DESCRIPTION": f"{about}\n\n{table(('noun', 'meaning'), nouns)}",
        "OPTIONS": f"{anywhere}\n\n{global_options()}",
        "COMMANDS": commands(),
        "EXIT STATUS": f"```text\n{exit_codes()}\n```",
    }


def _daemon() -> dict[str, str]:
    parser = daemon.build_parser()
    usage = parser.format_usage().removeprefix("usage: ")
    variables = [
        (f"`{CONFIG_FILE}`", "names the configuration where `--config` does not"),
        (f"`{ENVIRONMENT}`", "chooses `[environments.NAME]` of it"),
    ]
    return {
        "SYNOPSIS": f"```text\n{usage}```\n\n```text\ndescartesd init DIR [--endpoint tcp://HOST:PORT]\n```",
        "DESCRIPTION": f"{parser.description}\nAgents are children of `descartes-keeper(8)`.",
        "OPTIONS": options(parser),
        "SIGNALS": SIGNALS,
        "ENVIRONMENT": table(("variable", "meaning"), variables),
        "FILES": _files(),
        "EXAMPLES": f"```text\n{daemon.EPILOG.partition(':')[2].strip(chr(10))}\n```",
    }


def _files() -> str:
    """Where the package has the server put things, and what the schema says of each."""
    known = leaves()
    server = tomllib.loads(SERVICE.read_text(encoding="utf-8"))["server"]
    named = {key: value for key, value in server.items() if str(value).startswith("/")}
    rows = [(f"`{value}`", known[f"server.{key}"].description) for key, value in named.items()]
    first = (f"`{CONFIG}`", "The configuration, described in `descartesd.toml(5)`.")
    return table(("file", "meaning"), [first, *rows])


def _keeper() -> dict[str, str]:
    return {
        "SYNOPSIS": f"```text\n{USAGE.removeprefix('usage: ')}\n```",
        "DESCRIPTION": KEEPER,
        "OPTIONS": keeper_options(),
    }


def _configuration() -> dict[str, str]:
    about, heading, rest = reference().partition("## [")
    return {
        "DESCRIPTION": about.partition("-->")[2].strip(),
        "SETTINGS": heading + rest,
        "FILES": f"`{CONFIG}`: of the service that the package brings.",
    }


def main(out: Path) -> None:
    """Write them into a directory."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (out / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
