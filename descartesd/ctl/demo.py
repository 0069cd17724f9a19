"""`demo`: plays ten scenarios on a server of its own, checks each, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

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
from descartesd.ctl.scenarios.findings import CheckError, Findings
from descartesd.ctl.scenarios.stage import Stage
from descartesd.ctl.text import safe
from descartesd.ctl.values import count
from descartesd.errors import DescartesError

_FAILED = 1
# What the answers of a server that is not well may lead to.
_UNFORESEEN = (OSError, LookupError, ValueError, subprocess.SubprocessError)


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
        if args.keep:
            out.progress(_where(root))
        else:
            shutil.rmtree(root)
    return _tell(played, root if args.keep else None, out)


def _where(root: str) -> str:
    config = shlex.quote(os.path.join(root, "server", "descartesd.toml"))
    return f"kept in {root}; serve it again with: descartesd --config {config}"


def _on_endings(handler: signal.Handlers | Callable[[int, FrameType | None], Any]) -> None:
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, handler)


def _play(number: int, stage: Stage) -> Played:
    scenario, findings = SCENARIOS[number - 1], Findings()
    began = time.monotonic()
    try:
        scenario.play(stage, findings)
        ok = True
    except (CheckError, DescartesError, *_UNFORESEEN) as cause:
        findings.broke(cause)
        ok = False
    return Played(number, scenario.name, ok, round(time.monotonic() - began, 3), findings)


def _lines(played: Played) -> Iterator[str]:
    mark = "✓" if played.ok else "✗"
    checks = played.findings.checks
    title = f"{mark} {played.number:>2}  {played.name:<22}"
    yield f"{title}{played.seconds:5.1f} s  {len(checks)} checks"
    for sentence in played.findings.shown:
        yield f"      {sentence}"
    for check in checks:
        if not check.ok:
            yield f"    ✗ {safe(check.sentence)}: {safe(check.found)}"


def _tell(played: list[Played], kept: str | None, out: Output) -> int:
    passed = sum(each.ok for each in played)
    told: dict[str, Any] = {"scenarios": [_item(each) for each in played], "passed": passed}
    if kept is not None:
        told["kept"] = kept
    out.document(told, ids=[], lines=[f"{passed} of {len(played)} scenarios passed"])
    return 0 if passed == len(played) else _FAILED


def _item(played: Played) -> dict[str, Any]:
    checks = [check.item() for check in played.findings.checks]
    item = played._asdict() | {"shown": played.findings.shown, "checks": checks}
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
