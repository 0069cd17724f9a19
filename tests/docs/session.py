"""Runs the commands of a page in one bash session and compares what they print."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.docs.pages import ROOT, Step
from tests.support.server import BIN, free_port

_MARK = re.compile(r"\n@@(\d+) (\d+)@@\n")
# What differs from run to run stands in a page as an example of its kind.
_KINDS = {
    r"…": r"[^\n]*",
    r"\b0[0-9a-v]{19}\b": r"[0-9a-v]{20}",
    r"SHA256:[A-Za-z0-9+/]{43}": r"SHA256:[A-Za-z0-9+/]{43}",
    r"\b\d+(?:s|m\d\ds|h\d\dm)\b": r"\d+(?:s|m\d\ds|h\d\dm)",
    r"\b\d{4,7}\b": r"\d+",
}
_KIND = re.compile("|".join(f"({each})" for each in _KINDS))
# bash tells of a job that was killed, at a moment of its own choosing.
_JOB_NOTICE = re.compile(r"^[^\n]*: line \d+: +\d+ Killed .*$\n?", re.MULTILINE)


def run(
    steps: Sequence[Step],
    directory: Path,
    port: int,
    environ: Mapping[str, str],
    programs: Path = BIN,
) -> list[str]:
    """Run the steps in `directory`; the faults found, each naming its line."""
    output = directory / ".output"
    with output.open("wb") as sink:
        shell = subprocess.Popen(
            ["bash", "-c", _script(steps, {"5555": port, "9464": free_port()})],
            cwd=directory,
            env={**environ, "HOME": str(directory), "PATH": f"{programs}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        shell.wait(timeout=50)
    finally:
        _end(shell, directory)
    said = output.read_text(encoding="utf-8", errors="replace")
    return list(_faults(steps, said))


def _script(steps: Sequence[Step], ports: Mapping[str, int]) -> str:
    lines = ["status=0"]
    for number, step in enumerate(steps):
        lines += [
            "(exit $status)",
            _adapted(step.command, ports),
            f"status=$?; printf '\\n@@%d %d@@\\n' {number} $status",
        ]
    lines += ["kill $(jobs -p) 2> /dev/null", "wait"]
    return "\n".join(lines)


def _adapted(command: str, ports: Mapping[str, int]) -> str:
    """The command as it can run here: on a free port, and without making what makes us."""
    if command.startswith("make "):
        target = command.removeprefix("make ")
        return f"make --dry-run --directory {shlex.quote(str(ROOT))} {target} > /dev/null"
    if command.startswith("descartesd init ") and "--endpoint" not in command:
        command += " --endpoint tcp://127.0.0.1:5555"
    for shown, real in ports.items():
        command = command.replace(f":{shown}", f":{real}")
    return command


def _end(shell: subprocess.Popen[bytes], directory: Path) -> None:
    """End what a page has left: the rest of its session, and keepers of crashed daemons."""
    if shell.poll() is None:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    family: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(str(directory)) for word in process.info["cmdline"] or ()):
            family += [process, *process.children(recursive=True)]
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=5)


def _faults(steps: Sequence[Step], said: str) -> list[str]:
    pieces = _MARK.split(said)
    outcomes = {
        int(number): (int(status), text)
        for text, number, status in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False)
    }
    faults = []
    for number, step in enumerate(steps):
        if number not in outcomes:
            return [*faults, f"line {step.line}: '{step.command}' did not end: {pieces[-1]}"]
        status, text = outcomes[number]
        fails = any(line.startswith("error:") for line in step.shown)
        asked = number + 1 < len(steps) and steps[number + 1].command == "echo $?"
        if status != 0 and not fails and not asked:
            faults.append(f"line {step.line}: '{step.command}' ends with {status}: {text}")
        elif not matches(step.shown, text):
            shown = "\n".join(step.shown)
            faults.append(f"line {step.line}: '{step.command}'\nshown:\n{shown}\nreal:\n{text}")
    return faults


def matches(shown: Sequence[str], real: str) -> bool:
    """Whether what was printed is what the page shows; a line of '…' alone is any lines."""
    if not shown:
        return True
    lines = [line for line in _JOB_NOTICE.sub("", real).splitlines() if line.strip()]
    text = "".join(f"{' '.join(line.split())}\n" for line in lines)
    wanted = "".join(map(_line, (line for line in shown if line.strip())))
    return re.fullmatch(wanted, text) is not None


def _line(line: str) -> str:
    if line == "…":
        return r"(?:[^\n]*\n)*"
    words = " ".join(line.split())
    pattern = ""
    at = 0
    for found in _KIND.finditer(words):
        kind = list(_KINDS.values())[(found.lastindex or 1) - 1]
        pattern += re.escape(words[at : found.start()]) + kind
        at = found.end()
    return f"{pattern}{re.escape(words[at:])}\n"
