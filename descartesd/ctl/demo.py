"""`demo`: plays ten scenarios on a server of its own, checks each, and leaves nothing behind."""

from __future__ import annotations

import gc
import shlex
import shutil
import signal
import tempfile
import textwrap
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from descartesd.ctl.command import Command
from descartesd.ctl.output import Output
from descartesd.ctl.scenarios import (
    batch,
    clients,
    control,
    errors,
    health,
    load,
    output,
    shutdown,
    spawning,
    startup,
)
from descartesd.ctl.text import safe
from descartesd.ctl.values import count
from descartesd.errors import DescartesError

if TYPE_CHECKING:
    from descartesd.ctl.scenarios.findings import Findings
    from descartesd.ctl.scenarios.stage import Stage

_FAILED = 1
_WIDTH = 100
_INDENT = " " * 6


class Scenario(NamedTuple):
    """One scenario: `play` notes what it does and raises at the first check that fails."""

    name: str
    play: Callable[[Stage, Findings], None]


SCENARIOS = (
    Scenario("server startup", startup.play),
    Scenario("multiple clients", clients.play),
    Scenario("agent spawning", spawning.play),
    Scenario("lifecycle control", control.play),
    Scenario("health and statistics", health.play),
    Scenario("error handling", errors.play),
    Scenario("load", load.play),
    Scenario("batch operations", batch.play),
    Scenario("output", output.play),
    Scenario("graceful shutdown", shutdown.play),
)


class Played(NamedTuple):
    """How a scenario went."""

    number: int
    name: str
    ok: bool
    seconds: float
    findings: Findings


def _number(word: str) -> int:
    number = count(word)
    if not 1 <= number <= len(SCENARIOS):
        raise ArgumentTypeError(f"'{word}' is no scenario: expected 1 to {len(SCENARIOS)}")
    return number


def _arguments(parser: ArgumentParser) -> None:
    names = ", ".join(f"{number} {each.name}" for number, each in enumerate(SCENARIOS, 1))
    parser.add_argument(
        "--scenario",
        metavar="N",
        type=_number,
        action="append",
        help=f"play this one, may be given again; default: all. {names}",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the server's directory and log; tell where"
    )


def _demo(args: Namespace, out: Output) -> int:
    from descartesd.ctl.scenarios.stage import Stage  # noqa: PLC0415  # start-up time

    gc.enable()
    # Ended from outside it cleans up as it does after Ctrl-C.
    _on_endings(signal.default_int_handler)
    wanted = sorted(set(args.scenario or range(1, len(SCENARIOS) + 1)))
    played = []
    # A short path: a Unix socket's is limited to 107 bytes.
    root = tempfile.mkdtemp(prefix="descartes-demo-", dir="/tmp")
    try:
        stage = Stage(root)
        try:
            for number in wanted:
                played.append(_play(number, stage))
                out.progress("\n".join(_lines(played[-1])))
        finally:
            # Half a cleaning would leave processes.
            _on_endings(signal.SIG_IGN)
            stage.close()
    finally:
        if not args.keep:
            shutil.rmtree(root)
    return _tell(played, stage if args.keep else None, out)


def _on_endings(handler: Any) -> None:
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, handler)


def _play(number: int, stage: Stage) -> Played:
    from descartesd.ctl.scenarios.findings import CheckError, Findings  # noqa: PLC0415

    scenario, findings = SCENARIOS[number - 1], Findings()
    began = time.monotonic()
    try:
        scenario.play(stage, findings)
        ok = True
    except (CheckError, DescartesError, OSError) as cause:
        findings.broke(cause)
        ok = False
    return Played(number, scenario.name, ok, round(time.monotonic() - began, 3), findings)


def _lines(played: Played) -> Iterator[str]:
    mark = "✓" if played.ok else "✗"
    yield f"{mark} {played.number:>2}  {played.name:<24}{played.seconds:5.1f} s"
    yield from _paragraph("did: ", played.findings.done)
    yield from _paragraph("saw: ", (each.sentence for each in played.findings.checks if each.ok))
    for check in played.findings.checks:
        if not check.ok:
            yield from _paragraph("✗ ", [f"{check.sentence}: {check.found}"])


def _paragraph(title: str, sentences: Iterable[str]) -> list[str]:
    text = safe("; ".join(sentences))
    indent = _INDENT + " " * len(title)
    return textwrap.wrap(text, _WIDTH, initial_indent=_INDENT + title, subsequent_indent=indent)


def _tell(played: list[Played], kept: Stage | None, out: Output) -> int:
    passed = sum(each.ok for each in played)
    lines = [f"{passed} of {len(played)} scenarios passed"]
    told: dict[str, Any] = {"scenarios": [_item(each) for each in played], "passed": passed}
    if kept is not None:
        told["kept"] = kept.root
        lines += [
            f"kept: {kept.root}",
            f"start the server again with: descartesd --config {shlex.quote(kept.config)}",
        ]
    out.document(told, ids=[], lines=lines)
    return 0 if passed == len(played) else _FAILED


def _item(played: Played) -> dict[str, Any]:
    checks = [check.item() for check in played.findings.checks]
    item = played._asdict() | {"did": played.findings.done, "checks": checks}
    del item["findings"]
    return item


COMMANDS = {
    "demo": Command(
        summary="Play ten scenarios on a server of its own; 1 if a check of any fails.",
        examples=("demo", "demo --scenario 7 --scenario 8 --json"),
        run=_demo,
        arguments=_arguments,
    )
}
