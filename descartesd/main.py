"""The program `descartesd`: runs the server, checks a configuration, makes a directory."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from descartesd.errors import DescartesError, InvalidArgumentError
from descartesd.wire.printable import shown

if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from descartesd.config.load import Loaded
    from descartesd.plugins import Contributions
    from descartesd.systemd.service import Service

# Seconds for what is left at the end.
_LEFT_S = 1.0
_GARBAGE_LOOKED_FOR_AFTER = 20_000
EPILOG = """examples:
  descartesd init /srv/descartes
  descartesd --config /srv/descartes/descartesd.toml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status."""
    parser = build_parser()
    try:
        _refuse_unknown(parser, sys.argv[1:] if arguments is None else arguments)
    except InvalidArgumentError as exc:
        return _failed(exc)
    options = parser.parse_args(arguments)
    try:
        if options.command == "init":
            return _init(options.directory, options.endpoint)
        return _serve(options.config, check=options.check_config)
    except KeyboardInterrupt:
        return 130
    except DescartesError as exc:
        status = _failed(exc)
        return 2 if options.check_config else status


def _failed(error: DescartesError) -> int:
    print(f"error: {_lines(error.message)}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"hint: {_lines(error.hint)}", file=sys.stderr)  # noqa: T201
    return error.exit_status


def _lines(text: str) -> str:
    """Every fault of a configuration has a line of its own; nothing else moves a cursor."""
    return "\n".join(map(shown, text.split("\n")))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the program's words."""
    parser = argparse.ArgumentParser(
        prog="descartesd",
        description="Spawn, supervise and control agent processes for many clients.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"descartesd {_version()}")
    parser.add_argument("--config", metavar="FILE", help="the configuration; or set"
                        " DESCARTES_CONFIG_FILE")  # fmt: skip
    parser.add_argument(
        "--check-config", action="store_true", help="say what is wrong with it, and end"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    init = commands.add_parser("init", help="make a self-contained server directory")
    init.add_argument("directory", metavar="DIR")
    init.add_argument("--endpoint", default="tcp://127.0.0.1:5555", metavar="tcp://HOST:PORT")
    return parser


def _refuse_unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Name the option nobody knows; argparse would rather tell that its value is no command."""
    known = ["--endpoint", *parser._option_string_actions]  # noqa: SLF001  # argparse tells its options nowhere else
    for word in words:
        if word == "--":
            return
        name = word.partition("=")[0]
        if name.startswith("-") and not any(option.startswith(name) for option in known):
            from difflib import get_close_matches  # noqa: PLC0415  # only errors need it

            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'" if near else "see: descartesd --help"
            raise InvalidArgumentError(f"unknown option '{name}'", hint=hint)


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415  # costs more than the parser

    return metadata.version("descartesd")


def _init(directory: str, endpoint: str) -> int:
    if not directory:
        raise InvalidArgumentError("the directory's name is empty", hint="descartesd init DIR")
    from descartesd.init import init_directory  # noqa: PLC0415  # only this command needs keys

    summary = init_directory(directory, endpoint)
    lines = [
        f"made {summary.directory}",
        f"server key {summary.server_fingerprint}",
        "start the server, then ask it:",
        *(f"  {command}" for command in summary.next_commands),
    ]
    print("\n".join(lines))  # noqa: T201
    return 0


def _serve(path: str | None, *, check: bool) -> int:
    if check:
        _configured(path)
        return 0
    from descartesd.systemd.service import Service  # noqa: PLC0415  # only for the server itself

    service = Service.from_environment()
    with service.telling():
        _run(path, service)
    return 0


def _load(path: str | None) -> Loaded:
    from descartesd.config.load import load  # noqa: PLC0415  # not for `init`

    return load(path, environ=os.environ)


def _configured(path: str | None) -> tuple[Loaded, Contributions]:
    loaded = _load(path)
    from descartesd.plugins import contributions  # noqa: PLC0415

    return loaded, contributions(loaded)


def _run(path: str | None, service: Service) -> None:
    loaded, contributed = _configured(path)
    import asyncio  # noqa: PLC0415  # only the server itself needs all this

    import uvloop  # noqa: PLC0415

    from descartesd.daemon import Daemon  # noqa: PLC0415
    from descartesd.observe.logs import set_up  # noqa: PLC0415

    os.umask(0o077)
    monitoring = loaded.config.monitoring
    set_up(monitoring.log_level, monitoring.log_format)

    async def serve() -> None:
        await Daemon(loaded, contributed, service, partial(_load, path)).run()
        await _leave_behind(asyncio.all_tasks() - {asyncio.current_task()})

    # Requests leave hardly any cycles: looking for them as often as usual costs a spawn 4 %.
    gc.set_threshold(_GARBAGE_LOOKED_FOR_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def _leave_behind(tasks: set[asyncio.Task[Any]]) -> None:
    """End a process in which something of a plugin does not let itself be ended."""
    import asyncio  # noqa: PLC0415  # only the server itself needs it
    import logging  # noqa: PLC0415

    for task in tasks:
        task.cancel()
    if tasks and (await asyncio.wait(tasks, timeout=_LEFT_S))[1]:
        # Everything of the server's own is closed; the loop would wait for them for ever.
        logging.getLogger(__name__).warning("server.left_tasks_behind")
        logging.shutdown()
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
