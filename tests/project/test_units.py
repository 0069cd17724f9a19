"""The units are well-formed and as closed as they promise, by systemd's own word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
# systemd's score, in tenths: agents inherit what the keeper has, and so it is open to them.
PROMISED = {"descartesd.service": 18, "descartes-keeper.service": 65}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt install systemd"
)


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


@needs_systemd
def test_every_unit_is_understood(tmp_path: Path) -> None:
    paths = []
    for source in UNITS.glob("descartes*.*"):
        if source.suffix in (".service", ".socket", ".slice"):
            path = tmp_path / source.name
            # Nothing is installed here.
            path.write_text(
                re.sub(r"(?m)^(Exec\w+=\+?)/usr/bin/\S+", r"\1/bin/true", source.read_text())
            )
            paths.append(path)

    done = analyze("verify", "--man=no", *paths)

    assert len(paths) == 4
    ours = [line for line in done.stderr.splitlines() if "descartes" in line]
    assert ours == []


@needs_systemd
@pytest.mark.parametrize(
    "drop_in", sorted((UNITS / "drop-ins").glob("*.conf")), ids=lambda p: p.name
)
def test_every_drop_in_is_understood(tmp_path: Path, drop_in: Path) -> None:
    text = drop_in.read_text()
    unit = re.search(r"/etc/systemd/system/(\S+)\.d/", text)
    assert unit is not None
    path = tmp_path / unit[1]
    base = re.sub(r"(?m)^(Exec\w+=\+?)/usr/bin/\S+", r"\1/bin/true", (UNITS / unit[1]).read_text())
    path.write_text(f"{base}\n{text}")

    assert [
        line
        for line in analyze("verify", "--man=no", path).stderr.splitlines()
        if "descartes" in line
    ] == []


@needs_systemd
@pytest.mark.parametrize("unit", PROMISED)
def test_unit_is_as_closed_as_promised(unit: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={PROMISED[unit]}", UNITS / unit)

    assert done.returncode == 0, done.stdout[-200:]


def test_what_libzmq_and_local_callers_need_is_left_open() -> None:
    text = (UNITS / "descartesd.service").read_text()

    assert "\nSystemCallFilter=sched_setscheduler\n" in text
    assert "\nPrivateUsers=" not in text
    assert "AF_NETLINK" not in text
