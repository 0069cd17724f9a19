"""Plugins of third parties in a real server: loaded by name, told of agents, listed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.wire.plugin import PluginInfo
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.plugins import PluggedServer, install
from tests.support.server import BIN

WITNESS = """
    import asyncio
    from msgspec.structs import replace
    from descartesd.api import Action, Empty, InvalidArgumentError, Struct, hookimpl

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
        def register_actions(self):
            return [Action(name="witness.ping", summary="Answer.", run=lambda c, p: "here")]
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


def test_facts_about_agents_are_told(server: PluggedServer, book: Path) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=spec("sh", "-c", "exit 3", name="brief"))
        client.agent.wait(id=agent.id)

    has(book, "daemon_started True")
    has(book, "agent_started brief True")
    has(book, "agent_state_changed starting running")
    has(book, "agent_exited failed 3")
    has(book, "agent_state_changed running failed")
    has(book, "agent_event error")


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


def test_a_plugin_changes_or_refuses_what_is_about_to_be_started(server: PluggedServer) -> None:
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


def test_the_last_fact_is_told_before_the_server_is_gone(server: PluggedServer, book: Path) -> None:
    assert server.stop() == 0

    assert "daemon_stopping" in book.read_text().splitlines()
