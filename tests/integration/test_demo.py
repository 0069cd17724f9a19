"""The demo: it passes, it can fail, and it leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from descartesd.ctl import demo, scenes
from descartesd.ctl.output import Output

BIN = Path(sys.executable).parent


def demo_directories() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("descartes-demo-")}


def test_every_scene_passes_and_nothing_is_left() -> None:
    before = demo_directories()

    done = subprocess.run(
        [BIN / "descartesctl", "demo", "--json"], capture_output=True, timeout=60, check=False
    )

    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr.decode()
    assert [scene["number"] for scene in told["scenarios"]] == list(range(1, 10))
    assert all(scene["ok"] for scene in told["scenarios"])
    assert told["passed"] == 9
    assert sum(scene["seconds"] for scene in told["scenarios"]) < 20
    assert demo_directories() <= before


def test_a_failing_scene_is_told_and_everything_is_cleaned_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper_sockets: list[str] = []

    def crash_and_fail(stage: scenes.Stage) -> str:
        keeper_sockets.append(os.path.join(stage.directory, "run", "keeper.sock"))
        stage.kill_daemon()
        raise scenes.CheckError("the sum is wrong")

    monkeypatch.setattr(demo, "SCENES", (scenes.SCENES[0], ("a lie", crash_and_fail)))
    stdout, stderr = TextIOWrapper(BytesIO()), TextIOWrapper(BytesIO())

    status = demo.COMMANDS["demo"].run(Namespace(), Output(stdout=stdout, stderr=stderr))

    shown, complaint = (_text(stream) for stream in (stdout, stderr))
    assert status == 1
    assert "✗ 2  a lie" in shown
    assert "the sum is wrong" in shown
    assert "scene 2 failed: the sum is wrong" in complaint
    assert "1 of 2 scenes passed" in shown
    assert not os.path.exists(keeper_sockets[0])


def _text(stream: TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_a_demo_ended_from_outside_cleans_up() -> None:
    before = demo_directories()
    with subprocess.Popen([BIN / "descartesctl", "demo"], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("✓ 1".encode())
        running.terminate()
        status = running.wait(timeout=30)

    assert status == 130
    assert demo_directories() <= before
