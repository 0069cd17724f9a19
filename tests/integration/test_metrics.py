"""What a server measures of itself, as an exporter in its daemon would see it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from descartesd.client import Client
from descartesd.errors import InvalidArgumentError, NotFoundError
from descartesd.observe.declared import DECLARED
from tests.faults.peers import Peers, unknown_keys
from tests.support.agents import SLEEP, left_empty, sh, spec, until_state
from tests.support.eventually import eventually
from tests.support.plugins import PluggedServer

# An exporter: it writes all metrics to a file whenever its process gets SIGUSR1.
LOOKER = """
import asyncio, json, os, signal
from dataclasses import asdict
from descartesd.api import Exporter, Struct, hookimpl

# The server serves a moment before its exporters run.
signal.signal(signal.SIGUSR1, lambda *_: None)

class Plugin:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        path: str

    def __init__(self, config):
        self.path = config.path

    @hookimpl
    def register_exporters(self):
        return [Exporter(name="looker", run=self.run)]

    async def run(self, source):
        def write():
            with open(self.path + ".new", "w") as file:
                json.dump([asdict(family) for family in source.collect()], file)
            os.rename(self.path + ".new", self.path)

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write)
        await asyncio.Event().wait()
"""


class Measured(PluggedServer):
    """A server whose metrics can be looked at."""

    def __init__(self, settings: Mapping[str, object] | None = None, **sources: str) -> None:
        super().__init__(
            {"looker": LOOKER, **sources}, targets={"looker": "Plugin"}, settings=settings
        )
        self.metrics = self.root / "metrics.json"
        with self.config.open("a") as file:
            file.write(f'[plugins.looker]\npath = "{self.metrics}"\n')

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """Everything as it is now: the samples by metric."""
        assert self.process is not None
        # What is read again at once would be what it was before.
        self.metrics.unlink(missing_ok=True)
        eventually(self._is_told)
        return {
            each["name"]: each["samples"] for each in msgspec.json.decode(self.metrics.read_bytes())
        }

    def _is_told(self) -> bool:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGUSR1)
        return self.metrics.exists()

    def value(self, name: str, **labels: str) -> float | None:
        """One value; None where there is none under these labels."""
        found = [each["value"] for each in self.read().get(name, ()) if each["labels"] == labels]
        return found[0] if found else None

    def reaches(self, wanted: float, name: str, **labels: str) -> bool:
        return bool(eventually(lambda: self.value(name, **labels) == wanted))


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    with Measured({"server.max_agents": 3}) as server:
        server.start()
        yield server


@pytest.fixture
def client(measured: Measured) -> Iterator[Client]:
    with measured.client() as made, left_empty(made):
        yield made


def test_every_sample_has_the_labels_that_are_declared(measured: Measured, client: Client) -> None:
    until_state(client, client.agent.spawn(spec=sh("exit 3")).id, "failed")
    found = measured.read()

    labels = {each.name: set(each.labels) for group in DECLARED.values() for each in group}
    assert found.keys() == labels.keys()
    for name, samples in found.items():
        for sample in samples:
            assert set(sample["labels"]) == labels[name], name


def test_nothing_is_broken_in_a_server_that_is_well(measured: Measured, client: Client) -> None:
    assert measured.reaches(1, "descartesd_healthy")
    found = measured.read()

    assert {each["value"] for each in found["descartesd_part_healthy"]} == {1}
    assert found["descartesd_metric_failures_total"] == []
    assert found["descartesd_keeper_up"] == [{"value": 1.0, "labels": {}}]
    assert found["descartesd_watchdog_ping_age_seconds"] == []
    (info,) = found["descartesd_build_info"]
    assert info["labels"] == {
        "version": client.server.hello().version,
        "server_id": client.server.hello().server_id,
    }


def test_requests_are_counted_by_method_and_the_code_of_their_answer(
    measured: Measured, client: Client
) -> None:
    before = measured.value("descartesd_requests_total", method="agent.get", code="not_found") or 0
    for _ in range(3):
        with pytest.raises(NotFoundError):
            client.agent.get(id="nobody")
    with Peers(measured) as peers:
        assert peers.connect().refusal("agent.fly") == "unimplemented"

    name = "descartesd_requests_total"
    assert measured.reaches(before + 3, name, method="agent.get", code="not_found")
    assert measured.reaches(1, name, method="unknown", code="unimplemented")


def test_all_answers_are_counted_once_and_their_lengths_too(
    measured: Measured, client: Client
) -> None:
    for _ in range(20):
        client.server.hello()
    stats = client.server.stats().methods["server.hello"]

    def of_hello(name: str) -> list[dict[str, Any]]:
        return [
            each
            for each in measured.read().get(name, ())
            if each["labels"]["method"] == "server.hello"
        ]

    def lengths() -> dict[str, Any] | None:
        (found,) = of_hello("descartesd_request_duration_seconds")
        return found if sum(found["counts"]) == stats.requests else None

    found = eventually(lengths)
    assert found is not None
    assert sum(each["value"] for each in of_hello("descartesd_requests_total")) == stats.requests
    assert found["sum"] == pytest.approx(stats.latency.sum_s, rel=0.01)
    assert found["bounds"] == sorted(found["bounds"])


def test_agents_are_counted_by_state_and_their_ends_by_reason(
    measured: Measured, client: Client
) -> None:
    exits = "descartesd_agent_exits_total"
    failed = measured.value(exits, state="failed", reason="exit") or 0
    stopped = measured.value(exits, state="terminated", reason="stopped") or 0
    until_state(client, client.agent.spawn(spec=sh("exit 3")).id, "failed")
    running = [client.agent.spawn(spec=spec(*SLEEP)) for _ in range(4)]

    assert measured.reaches(3, "descartesd_agents", state="running")
    assert measured.reaches(3, "descartesd_agents_alive")
    assert measured.value("descartesd_agents_limit") == 3
    assert measured.reaches(1, "descartesd_agents_queued")
    assert measured.reaches(failed + 1, exits, state="failed", reason="exit")

    client.agent.stop(id=running[0].id)
    assert measured.reaches(stopped + 1, exits, state="terminated", reason="stopped")


def test_spawns_that_fail_are_told_from_those_that_do_not(
    measured: Measured, client: Client
) -> None:
    name = "descartesd_spawns_total"
    succeeded = measured.value(name, outcome="succeeded") or 0
    failed = measured.value(name, outcome="failed") or 0
    client.agent.spawn(spec=spec("true"))
    with pytest.raises(InvalidArgumentError):
        client.agent.spawn(spec=spec("/nonexistent"))

    assert measured.reaches(succeeded + 1, name, outcome="succeeded")
    assert measured.reaches(failed + 1, name, outcome="failed")


def test_what_agents_spend_stays_counted_when_they_are_removed(
    measured: Measured, client: Client
) -> None:
    tokens = measured.value("descartesd_agent_tokens_total") or 0
    line = '{"type":"turn.completed","usage":{"input_tokens":70,"output_tokens":30}}'
    agent = client.agent.spawn(spec=sh(f"echo '{line}'", events=True))
    client.agent.wait(id=agent.id)
    eventually(lambda: client.agent.get(id=agent.id).tokens)
    client.agent.remove(id=agent.id)

    assert measured.reaches(tokens + 100, "descartesd_agent_tokens_total")


def test_stranger_is_counted_as_a_refused_handshake(measured: Measured) -> None:
    name = "descartesd_handshakes_refused_total"
    before = measured.value(name, cause="auth") or 0
    with Peers(measured) as peers:
        peers.connect(unknown_keys(measured))
        eventually(lambda: (measured.value(name, cause="auth") or 0) > before)


def test_processes_use_what_the_kernel_says(measured: Measured) -> None:
    for process in ("daemon", "keeper"):
        assert (measured.value("descartesd_process_cpu_seconds_total", process=process) or 0) > 0
        memory = measured.value("descartesd_process_resident_memory_bytes", process=process) or 0
        assert 5 << 20 < memory < 1 << 30
        open_fds = measured.value("descartesd_process_open_fds", process=process) or 0
        assert 3 < open_fds < (measured.value("descartesd_process_max_fds", process=process) or 0)
    used = measured.value("descartesd_memory_used_bytes") or 0
    assert 0 < used < (measured.value("descartesd_memory_limit_bytes") or 0)


def test_certificates_are_counted_by_their_standing(measured: Measured) -> None:
    valid = measured.value("descartesd_certificates", state="valid") or 0
    measured.issue("another", "observer")

    assert measured.reaches(valid + 1, "descartesd_certificates", state="valid")
    assert measured.value("descartesd_certificates", state="expired") == 0


def test_limits_are_those_of_the_configuration_as_it_was_taken_over(
    measured: Measured, client: Client
) -> None:
    text = measured.config.read_text()
    try:
        measured.config.write_text(text.replace("max_queued = 1000", "max_queued = 7"))
        assert client.server.reload().changed == ["limits.max_queued"]
        assert measured.reaches(7, "descartesd_agents_queued_limit")
    finally:
        measured.config.write_text(text)
        client.server.reload()


def test_fault_45_certificate_that_is_malformed_is_counted_and_keeps_nobody_out(
    measured: Measured,
) -> None:
    name = "descartesd_trust_store_problems"
    assert measured.reaches(0, name)
    junk = measured.directory / "state" / "trust" / "junk.cert"
    junk.write_text("no certificate")
    try:
        assert measured.reaches(1, name)
        with measured.client() as client:
            assert client.server.hello()
    finally:
        junk.unlink()
    assert measured.reaches(0, name)


def test_keeper_that_is_gone_is_seen_and_so_is_the_next_one() -> None:
    with Measured() as server:
        server.start()
        assert server.keeper_pid is not None
        connections = server.value("descartesd_keeper_connections_total") or 0
        os.kill(server.keeper_pid, signal.SIGKILL)

        eventually(lambda: (server.value("descartesd_keeper_connections_total") or 0) > connections)
        assert server.reaches(1, "descartesd_keeper_up")


METERED = """
from descartesd.api import Metric, Sample, hookimpl

@hookimpl
def register_metrics():
    yield Metric(name="metered_trees_total", kind="counter", help="Trees.", read=lambda: 7)
    yield Metric(name="metered_broken", kind="gauge", help="Broken.", read=lambda: 1 / 0)
"""
LISTENER = """
from descartesd.api import hookimpl

@hookimpl
def metrics_collected(metrics):
    open(__file__ + ".told", "w").write(" ".join(family.name for family in metrics))
"""
BROKEN = """
from descartesd.api import Exporter, hookimpl

async def run(source):
    raise RuntimeError("no room")

@hookimpl
def register_exporters():
    yield Exporter(name="broken", run=run)
"""
STUBBORN = """
import asyncio
from descartesd.api import Exporter, hookimpl

async def run(source):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue

@hookimpl
def register_exporters():
    yield Exporter(name="stubborn", run=run)
"""
TAKEN = """
from descartesd.api import Metric, hookimpl

@hookimpl
def register_metrics():
    yield Metric(name="descartesd_healthy", kind="gauge", help="Mine.", read=lambda: 1)
"""


def test_plugins_add_metrics_and_a_broken_one_is_named_by_another() -> None:
    with Measured(metered=METERED, listener=LISTENER) as server:
        server.start()

        assert server.reaches(7, "metered_trees_total")
        assert server.reaches(1, "descartesd_metric_failures_total", metric="metered_broken")
        assert server.value("descartesd_healthy") == 1
        told = server.packages / "descartesd_listener_module.py.told"
        eventually(lambda: told.exists() and "metered_trees_total" in told.read_text())
        assert server.value("descartesd_plugins", state="loaded") == 5
        assert (server.value("descartesd_plugin_calls_total", plugin="listener") or 0) > 0


def test_exporter_that_fails_is_named_and_harms_no_other() -> None:
    with Measured(broken=BROKEN, stubborn=STUBBORN) as server:
        server.start()

        assert server.reaches(1, "descartesd_plugins", state="failed")
        assert server.value("descartesd_plugin_failures_total", plugin="broken") == 1
        assert server.plugin("broken").state == "failed"
        assert "no room" in str(server.plugin("broken").last_error)
        assert server.stop() == 0


def test_plugin_with_a_metric_of_the_servers_own_is_refused() -> None:
    with Measured(taken=TAKEN) as server:
        server.start(wait=False)
        assert server.process is not None

        assert server.process.wait(timeout=20) == 78
        assert "plugin 'taken' registers the metric 'descartesd_healthy'" in server.log_text()
