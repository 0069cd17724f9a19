"""`demo`: runs the main job before your eyes, on a server of its own that is cleaned up after."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from descartesd.ctl.command import Command
from descartesd.ctl.output import Output
from descartesd.ctl.scenes import SCENES, CheckError, Stage
from descartesd.errors import AbortedError, DescartesError

_FAILED = 1


class Scene(NamedTuple):
    """How one scene went."""

    number: int
    name: str
    ok: bool
    seconds: float
    detail: str


def _demo(_args: Namespace, out: Output) -> int:
    # Ended from outside it cleans up as it does after Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    # A short path: a Unix socket's is limited to 107 bytes.
    root = tempfile.mkdtemp(prefix="descartes-demo-", dir="/tmp")
    stage = Stage(root)
    try:
        played = []
        for number, (name, play) in enumerate(SCENES, 1):
            scene = _play(number, name, play, stage)
            played.append(scene)
            out.progress(_line(scene))
            if not scene.ok:
                out.error(AbortedError(f"scene {number} failed: {scene.detail}"))
                break
    finally:
        stage.close()
        shutil.rmtree(root)
    passed = sum(scene.ok for scene in played)
    shown = ("number", "name", "ok", "seconds")
    out.document(
        {
            "scenarios": [{key: getattr(scene, key) for key in shown} for scene in played],
            "passed": passed,
        },
        ids=[],
        lines=[f"{passed} of {len(SCENES)} scenes passed"],
    )
    return 0 if passed == len(SCENES) else _FAILED


def _play(number: int, name: str, play: Callable[[Stage], str], stage: Stage) -> Scene:
    began = time.monotonic()
    try:
        detail, ok = play(stage), True
    except (CheckError, DescartesError, OSError) as exc:
        detail, ok = str(exc), False
    return Scene(number, name, ok, round(time.monotonic() - began, 3), detail)


def _line(scene: Scene) -> str:
    mark = "✓" if scene.ok else "✗"
    return f"{mark} {scene.number}  {scene.name:<34} {scene.seconds:5.1f} s  {scene.detail}"


COMMANDS = {
    "demo": Command(
        "start a server, run agents through every turn of their life, kill the daemon, clean up",
        ("demo", "demo --json"),
        _demo,
    )
}
