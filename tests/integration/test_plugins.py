"""Plugins of third parties in a real server: loaded by name, told of agents, listed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec
from descartesd.wire.plugin import PluginInfo
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.plugins import PluggedServer, install
from tests.support.server import BIN

WITNESS = """
    import asyncio
    from msgspec.structs import replace
    from descartesd.api import (
        Action, Backend, Exporter, InvalidArgumentError, Metric, Struct, hookimpl,
    )

    class Witness:
        class Config(Struct, frozen=True):
            book: str
            password: str = "hidden"

        def __init__(self, config):
            self.book = open(config.book, "a", buffering=1)

        def note(self, *words):
            print(*words, file=self.book)

        @hookimpl
        def daemon_started(self, server):
            self.note("daemon_started", server.server_id != "")

        @hookimpl
        def agent_started(self, agent):
            self.note("agent_started", agent.name, agent.pid is not None)

        @hookimpl
        def agent_state_changed(self, agent, previous):
            self.note("agent_state_changed", previous, agent.state)

        @hookimpl
        async def agent_event(self, event):
            await asyncio.sleep(0)
            self.note("agent_event", event.kind)

        @hookimpl
        def agent_spawning(self, spec, identity):
            if "refused" in spec.labels:
                raise InvalidArgumentError(f"labels: not for {identity.role}")
            if "changed" in spec.labels:
                return replace(spec, env={"CHANGED": spec.labels["changed"]})

        @hookimpl
        def agent_exited(self, agent):
            self.note("agent_exited", agent.state, agent.outcome.exit_code)

        @hookimpl
        def daemon_stopping(self, server):
            self.note("daemon_stopping")

        @hookimpl
        def metrics_collected(self, metrics):
            names = [family.name for family in metrics]
            self.note("metrics_collected", "witness_notes" in names, len(names) > 10)

        @hookimpl
        def register_actions(self):
            return [Action(name="witness.ping", summary="Answer.", run=lambda c, p: "here")]

        @hookimpl
        def register_backends(self):
            yield Backend(name="witness", start=("true", "--", "{task}"))

        @hookimpl
        def register_metrics(self):
            return [Metric(name="witness_notes", kind="gauge", help="Nothing.", read=lambda: 7)]

        @hookimpl
        def register_exporters(self):
            return [Exporter(name="witness", run=self.export)]

        async def export(self, source):
            for family in source.collect():
                if family.name == "witness_notes":
                    self.note("exported", family.samples[0].value)
            await asyncio.Event().wait()
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness") / "book"


@pytest.fixture(scope="module")
def server(book: Path) -> Iterator[PluggedServer]:
    with PluggedServer(
        {"witness": WITNESS},
        targets={"witness": "Witness"},
        configuration=f'[plugins.witness]\nbook = "{book}"\n',
    ) as made:
        made.start()
        yield made


def has(book: Path, line: str) -> None:
    eventually(lambda: line in book.read_text().splitlines())


@pytest.fixture(scope="module")
def brief(server: PluggedServer) -> None:
    """An agent that has come and gone."""
    with server.client() as client:
        agent = client.agent.spawn(spec=spec("sh", "-c", "exit 3", name="brief"))
        client.agent.wait(id=agent.id)


def test_hook_daemon_started(server: PluggedServer, book: Path) -> None:
    has(book, "daemon_started True")


@pytest.mark.usefixtures("brief")
def test_hook_agent_started(book: Path) -> None:
    has(book, "agent_started brief True")


@pytest.mark.usefixtures("brief")
def test_hook_agent_state_changed(book: Path) -> None:
    has(book, "agent_state_changed starting running")
    has(book, "agent_state_changed running failed")


@pytest.mark.usefixtures("brief")
def test_hook_agent_event(book: Path) -> None:
    has(book, "agent_event status_changed")
    has(book, "agent_event error")


@pytest.mark.usefixtures("brief")
def test_hook_agent_exited(book: Path) -> None:
    has(book, "agent_exited failed 3")


def test_hook_metrics_collected(server: PluggedServer, book: Path) -> None:
    has(book, "metrics_collected True True")


def test_hook_register_metrics_and_their_values(server: PluggedServer, book: Path) -> None:
    assert server.plugin("witness").metrics == ["witness_notes"]
    has(book, "exported 7")


def test_hook_register_exporters(server: PluggedServer, book: Path) -> None:
    assert server.plugin("witness").exporters == ["witness"]
    has(book, "exported 7")


def test_hook_register_backends(server: PluggedServer) -> None:
    with server.client() as client:
        assert "witness" in client.server.hello().backends
        agent = client.agent.spawn(spec=AgentSpec(backend="witness", task="nothing"))

        assert client.agent.wait(id=agent.id).state == "completed"


def test_hook_register_actions(server: PluggedServer) -> None:
    with server.client() as client:
        assert client.action.run(name="witness.ping").result == "here"


def test_a_plugin_is_listed_with_what_it_does(server: PluggedServer) -> None:
    with server.client() as client:
        done = client.action.run(name="witness.ping")
        client.agent.kill(id=client.agent.spawn(spec=spec(*SLEEP)).id)
    watcher = server.issue("watcher", "observer")
    with server.client(watcher) as client:
        (seen,) = [each for each in client.plugin.list().plugins if each.name == "witness"]

    listed = eventually(lambda: _called(server))
    assert listed is not None

    assert done.result == "here"
    assert (listed.distribution, listed.version) == ("descartesd-witness", "1.2.3")
    assert (listed.state, listed.errors, listed.actions) == ("loaded", 0, ["witness.ping"])
    assert "agent_exited" in listed.hooks
    assert listed.p99_s > 0
    assert listed.config is not None
    assert listed.config["password"] == "***"
    assert seen.config is None


def test_hook_agent_spawning_changes_or_refuses(server: PluggedServer) -> None:
    wanted = [spec(*SLEEP, labels={"changed": "yes"}), spec(*SLEEP, labels={"refused": ""})]
    with server.client() as client:
        alone = client.agent.spawn(spec=wanted[0])
        with pytest.raises(InvalidArgumentError, match="labels: not for admin"):
            client.agent.spawn(spec=wanted[1])
        many = client.batch.spawn(specs=wanted)
        for agent in client.agent.list().agents:
            client.agent.kill(id=agent.id)

    assert alone.spec.env == {"CHANGED": "yes"}
    assert [item.ok for item in many.results] == [True, False]
    assert many.results[0].agent is not None
    assert many.results[0].agent.spec.env == {"CHANGED": "yes"}


def test_a_plugin_is_listed_and_shown_on_the_command_line(server: PluggedServer) -> None:
    listed = server.ctl("plugin", "list").stdout.decode().splitlines()
    shown = server.ctl("plugin", "show", "witness").stdout.decode()
    missing = server.ctl("plugin", "show", "witnes")

    assert listed[0].split() == ["PLUGIN", "VERSION", "STATE", "CALLS", "ERRORS", "P99", "HOOKS"]
    assert [line.split()[0] for line in listed[1:]] == ["builtin", "builtin-backends", "witness"]
    assert "witness.ping" in shown
    assert "config password  ***" in shown
    assert missing.returncode == 3
    assert b"did you mean 'witness'" in missing.stderr


def test_an_author_checks_a_plugin_without_a_server(server: PluggedServer) -> None:
    source = """
        from descartesd.api import hookimpl

        @hookimpl
        def agent_started(agent): ...

        @hookimpl
        def agent_exited(agnet): ...
    """
    install(server.packages, "unfit", source)

    fine = server.ctl("plugin", "check", "witness", "--config", server.config)
    bare = server.ctl("plugin", "check", "witness")
    wrong = server.ctl("plugin", "check", "unfit")
    told = json.loads(server.ctl("--json", "plugin", "check", "unfit").stdout)
    gone = server.ctl("plugin", "check", "nothing")

    assert (fine.returncode, bare.returncode, wrong.returncode) == (0, 1, 1), fine.stderr
    assert "✓ agent_spawning" in fine.stdout.decode()
    assert "plugins.witness.book: a value is needed" in bare.stdout.decode()
    assert "✓ agent_started" in wrong.stdout.decode()
    assert "✗ agent_exited: it takes 'agnet', which it is not given" in wrong.stdout.decode()
    assert "did you mean 'agent'" in wrong.stdout.decode()
    assert [check["ok"] for check in told["checks"]] == [True, False, True]
    assert gone.returncode == 1
    assert "pip install descartesd-nothing" in gone.stdout.decode()


def _called(server: PluggedServer) -> PluginInfo | None:
    listed = server.plugin("witness")
    return listed if listed.calls else None


def check(server: PluggedServer) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "descartesd", "--config", server.config, "--check-config"],
        env=server.environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plugin_that_does_not_fit_stops_the_start_and_the_check() -> None:
    source = """
        from descartesd.api import hookimpl

        @hookimpl
        def agent_startd(agent): ...
    """
    with PluggedServer({"wrong": source}) as server:
        checked = check(server)
        server.start(wait=False)
        assert server.process is not None
        status = server.process.wait(timeout=20)
        said = server.log_text()

    assert (checked.returncode, status) == (2, 78)
    for text in (checked.stderr, said):
        assert "plugin 'wrong' does not fit: hook 'agent_startd': there is no such hook" in text
        assert "did you mean 'agent_started'" in text


def test_a_table_of_a_plugin_that_is_not_enabled_is_refused() -> None:
    with PluggedServer({}, configuration="[plugins.promethus]\nport = 1\n") as server:
        checked = check(server)

    assert checked.returncode == 2
    assert "plugins.promethus: no plugin of that name is enabled" in checked.stderr


def test_a_variable_is_a_setting_of_a_plugin(book: Path) -> None:
    settings = {"plugins.witness.colour": "red"}
    with PluggedServer(
        {"witness": WITNESS},
        settings=settings,
        targets={"witness": "Witness"},
        configuration=f'[plugins.witness]\nbook = "{book}"\n',
    ) as server:
        checked = check(server)

    fault = "DESCARTES_PLUGINS__WITNESS__COLOUR: plugins.witness.colour: unknown key"
    assert checked.returncode == 2
    assert fault in checked.stderr


def test_hook_daemon_stopping(server: PluggedServer, book: Path) -> None:
    assert server.stop() == 0

    assert "daemon_stopping" in book.read_text().splitlines()
