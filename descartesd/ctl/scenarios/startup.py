"""Scenario 1: a server is made, configured and started, and what it says of itself is true."""

from __future__ import annotations

import os

from descartesd.ctl.ports import listening
from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import Findings
from descartesd.ctl.scenarios.stage import MAX_OUTPUT_BYTES, MAX_REQUEST_BYTES, Stage
from descartesd.wire.envelope import CURVE_OVERHEAD

_TALKER = "import os; os.write(2, os.getcwd().encode()); print('x' * 2_000_000)"


def play(stage: Stage, findings: Findings) -> None:
    """Play it."""
    stage.make()
    done = stage.run("descartesd.main", "--config", stage.config, "--check-config")
    findings.same((done.returncode, done.stderr), (0, ""), "the configuration is in order")
    stage.start()
    _health(stage, findings)
    findings.show(f"a server with keys of its own serves at {stage.endpoint}, all its parts well")
    _settings(stage, findings)
    findings.show("its limits and its working directory are those configured")


def _health(stage: Stage, findings: Findings) -> None:
    health = stage.admin.server.health()
    findings.same((health.status, health.reasons), ("ok", []), "its health is ok")
    findings.check(stage.endpoint in health.listeners, "it tells its endpoint", health.listeners)
    ports = [each.pid for each in listening(stage.port)]
    findings.same(ports, [stage.server_pid], "its process alone listens there")
    keeper = health.keeper.pid or 0
    socket = os.path.join(stage.directory, "run", "keeper.sock")
    findings.check(
        health.keeper.connected and socket in processes.command(keeper),
        "its keeper runs",
        processes.command(keeper),
    )
    modes = {name: os.stat(os.path.join(stage.directory, name)).st_mode & 0o077
             for name in ("keys", "state", "profiles")}  # fmt: skip
    findings.check(not any(modes.values()), "keys, state and profiles are closed to others", modes)


def _settings(stage: Stage, findings: Findings) -> None:
    limits = stage.admin.server.hello().limits
    expected = MAX_REQUEST_BYTES - CURVE_OVERHEAD
    findings.same(limits.max_request_bytes, expected, "requests are limited as configured")
    agent = stage.admin.agent.spawn(spec=stage.python(_TALKER, name="talker"))
    stage.admin.agent.wait(id=agent.id)
    place = stage.admin.agent.output(id=agent.id, stream="stderr").data.decode()
    findings.same(place, stage.work, "agents start in the configured directory")

    def is_bounded() -> bool:
        chunk = stage.admin.agent.output(id=agent.id, tail=0)
        return chunk.total - chunk.truncated_before <= MAX_OUTPUT_BYTES < chunk.total

    findings.until(is_bounded, "output is kept up to the configured 1 MiB")
