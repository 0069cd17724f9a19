"""A spec beyond its role is refused, at its start and at every later one: row 26."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import DescartesError, PermissionDeniedError
from descartesd.wire.agent import AgentSpec, Restart
from tests.support.eventually import eventually
from tests.support.roles import client_of, running_with
from tests.support.server import PREFIX, Server

ROLE = """
[policy.roles.ci]
commands = ["true", "pwd", "sleep", "mytool"]
cwd = ["{root}/in"]
env = ["CI_*", "PATH"]
[policy.roles.ci.methods]
"agent.*" = "own"
"batch.spawn" = "own"
"server.hello" = "any"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(PREFIX).resolve()
    for name in ("in", "in/work", "out"):
        (root / name).mkdir()
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with running_with(ROLE.format(root=root)) as server:
        yield server


@pytest.fixture(scope="module")
def ci(server: Server) -> Iterator[Client]:
    with client_of(server, "ci", "ci") as client:
        yield client


def output(client: Client, agent_id: str) -> str:
    client.agent.wait(id=agent_id)
    return client.agent.output(id=agent_id, stream="stdout").data.decode()


@pytest.mark.parametrize(
    "spec",
    [
        {"command": ["sh", "-c", "true"]},
        {"command": ["true; id"]},
        {"command": ["/bin/true"]},
        {"command": ["../../bin/true"]},
        {"command": ["true"], "env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"command": ["true"], "env_file": "/etc/environment"},
        {"command": ["true"], "user": "root"},
        {"command": ["true"], "cwd": "/etc"},
        {"backend": "claude", "task": "x"},
    ],
    ids=str,
)
def test_fault_26_a_spec_beyond_the_role_is_denied_with_its_field(
    ci: Client, spec: dict[str, Any]
) -> None:
    for ask in (
        lambda: ci.agent.spawn(spec=AgentSpec(**spec)),
        lambda: ci.agent.spawn(spec=AgentSpec(name="new", **spec), replace=True),
    ):
        with pytest.raises(PermissionDeniedError, match=r"spec\..* policy\.roles\.ci\."):
            ask()
    item = ci.batch.spawn(specs=[AgentSpec(**spec)]).results[0]

    assert item.error is not None
    assert item.error.code == "permission_denied"
    assert ci.agent.list().total == 0


def test_fault_26_an_argument_vector_is_no_shell_line(ci: Client) -> None:
    with pytest.raises(DescartesError, match="command"):
        ci.agent.spawn(spec=AgentSpec(command="sleep 1"))  # type: ignore[arg-type]


def test_fault_26_a_path_of_ones_own_does_not_lead_to_another_program(
    ci: Client, root: Path
) -> None:
    tool = root / "in" / "mytool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    spec = AgentSpec(command=["mytool"], env={"PATH": f"{root}/in"})

    with pytest.raises(DescartesError, match="program 'mytool': not in any of"):
        ci.agent.spawn(spec=spec)


def test_fault_26_a_link_out_of_the_directory_is_denied(ci: Client, root: Path) -> None:
    (root / "in" / "away").symlink_to(root / "out")

    inside = ci.agent.spawn(spec=AgentSpec(command=["pwd", "-P"], cwd=f"{root}/in/work"))
    with pytest.raises(PermissionDeniedError, match="it is really in none of"):
        ci.agent.spawn(spec=AgentSpec(command=["pwd"], cwd=f"{root}/in/away"))

    assert output(ci, inside.id).strip() == f"{root}/in/work"
    ci.agent.remove(id=inside.id)
    assert ci.agent.list().total == 0


def test_fault_26_a_directory_exchanged_for_a_link_is_denied_at_the_next_start(
    ci: Client, root: Path
) -> None:
    place = root / "in" / "place"
    place.mkdir()
    spec = AgentSpec(
        command=["true"], cwd=str(place), restart=Restart(policy="always", delay_s=0.5, factor=1)
    )
    agent = ci.agent.spawn(spec=spec)
    place.rmdir()
    place.symlink_to(root / "out")

    ended = eventually(
        lambda: (found := ci.agent.get(id=agent.id)).state == "failed" and found, timeout=15
    )
    with pytest.raises(PermissionDeniedError, match="it is really in none of"):
        ci.agent.respawn(id=agent.id)
    ci.agent.remove(id=agent.id)

    assert ended.outcome is not None
    assert ended.outcome.reason == "spawn_error"
    assert "it is really in none of" in f"{ended.outcome.message}"


def test_fault_26_bounds_survive_a_crash_of_the_server(
    ci: Client, server: Server, root: Path
) -> None:
    place = root / "in" / "kept"
    place.mkdir()
    agent = ci.agent.spawn(spec=AgentSpec(command=["true"], cwd=str(place)))
    ci.agent.wait(id=agent.id)
    server.crash_and_restart()
    place.rmdir()
    place.symlink_to(root / "out")

    with pytest.raises(PermissionDeniedError, match="it is really in none of"):
        ci.agent.respawn(id=agent.id)
    ci.agent.remove(id=agent.id)


REVIVER = """
[policy.roles.reviver]
commands = ["true"]
cwd = ["{root}/in"]
[policy.roles.reviver.methods]
"agent.*" = "any"
"batch.*" = "any"
"""


def test_fault_26_a_respawn_starts_nothing_beyond_the_role_of_who_asks(root: Path) -> None:
    (root / "in" / "led-away").symlink_to(root / "out")
    with running_with(REVIVER.format(root=root)) as server, server.client() as admin:
        shell = admin.agent.spawn(spec=AgentSpec(command=["sh", "-c", "true"]))
        away = admin.agent.spawn(spec=AgentSpec(command=["true"], cwd=f"{root}/in/led-away"))
        fine = admin.agent.spawn(spec=AgentSpec(command=["true"], cwd=f"{root}/in"))
        for agent in (shell, away, fine):
            admin.agent.wait(id=agent.id)
        with client_of(server, "reviver", "reviver") as client:
            with pytest.raises(PermissionDeniedError, match=r"command.* policy\.roles\.reviver\."):
                client.agent.respawn(id=shell.id)
            item = client.batch.run(verb="respawn", ids=[shell.id]).results[0]
            with pytest.raises(PermissionDeniedError, match="it is really in none of"):
                client.agent.respawn(id=away.id)
            again = client.agent.respawn(id=fine.id)

        assert item.error is not None
        assert item.error.code == "permission_denied"
        assert admin.agent.get(id=shell.id).attempt == 1
        assert admin.agent.get(id=away.id).outcome.reason == "spawn_error"  # type: ignore[union-attr]
        assert admin.agent.respawn(id=away.id).attempt == 3
        assert again.attempt == 2


def test_fault_26_a_role_made_narrower_does_not_start_what_it_had_started(root: Path) -> None:
    wide = REVIVER.format(root=root).replace('["true"]', '["**"]').replace('"any"', '"own"')
    with running_with(wide) as server:
        profile = server.issue("changed", "reviver")
        with server.client(profile) as client:
            shell = client.agent.spawn(spec=AgentSpec(command=["sh", "-c", "true"]))
            client.agent.wait(id=shell.id)
        server.stop()
        server.config.write_text(server.config.read_text().replace('["**"]', '["true"]'))
        server.start()
        with (
            server.client(profile) as client,
            pytest.raises(PermissionDeniedError, match=r"spec\.command\[0\]: 'sh' is not listed"),
        ):
            client.agent.respawn(id=shell.id)
