"""Secrets reach the agent, and nobody and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import ConflictError, InvalidArgumentError
from descartesd.wire.agent import AgentInfo, AgentSpawn, AgentSpec
from descartesd.wire.batch import BatchSpawn
from descartesd.wire.talk import AgentRespawn
from tests.support.agents import left_empty, output, sh, until_state
from tests.support.chatter import with_chatter
from tests.support.server import Server

PLANTED = "pl4nted-value"
SECRETS = {"A_TOKEN": PLANTED}
# Tells only that it was there.
TELL = 'echo "${#A_TOKEN} ${#API_KEY} ${#FROM_FILE} $WHO"'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with with_chatter() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as connected, left_empty(connected):
        yield connected


def told(client: Client, agent: AgentInfo) -> str:
    """What the agent's last attempt has said."""
    client.agent.wait(id=agent.id)
    return output(client, agent.id).decode().splitlines()[-1]


def holders(server: Server) -> list[str]:
    """The files of the server in which the planted value is found."""
    found = []
    for path in server.root.rglob("*"):
        # What is gone by now holds nothing.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and PLANTED.encode() in path.read_bytes():
                found.append(str(path))
    return found


def all_events(client: Client, server: Server) -> str:
    last = client.server.hello().last_event
    with server.client() as following:
        stream = following.event.follow(since=0)
        return "".join(repr(event) for event, _ in zip(stream, range(last), strict=False))


def test_a_secret_given_with_the_request_is_found_by_the_agent_alone(
    server: Server, client: Client
) -> None:
    wanted = sh(TELL, secret_env=["A_TOKEN"])
    agent = client.agent.spawn(spec=wanted, secrets=SECRETS)
    batch = client.batch.spawn(specs=[wanted, sh(TELL)], secrets=SECRETS)

    assert told(client, agent).split()[0] == str(len(PLANTED))
    first, second = (item.agent for item in batch.results)
    assert first is not None
    assert second is not None
    assert told(client, first).split()[0] == str(len(PLANTED))
    assert told(client, second).split()[0] == "0"
    client.agent.respawn(id=agent.id)
    assert told(client, agent).split()[0] == str(len(PLANTED))
    replies = [agent, batch, client.agent.get(id=agent.id), client.agent.list()]
    assert PLANTED not in "".join(map(repr, replies))
    assert PLANTED not in all_events(client, server)
    assert client.agent.get(id=agent.id).spec.secret_env == ["A_TOKEN"]
    shown = (
        server.ctl("--json", "agent", "list").stdout + server.ctl("agent", "show", agent.id).stdout
    )
    assert PLANTED.encode() not in shown
    assert holders(server) == []


def test_after_a_restart_of_the_server_a_secret_has_to_be_given_again(
    server: Server, client: Client
) -> None:
    agent = client.agent.spawn(spec=sh(TELL, secret_env=["A_TOKEN"], name="one"), secrets=SECRETS)
    told(client, agent)
    server.crash_and_restart()

    with pytest.raises(ConflictError, match="agent 'one' needs A_TOKEN") as refused:
        client.agent.respawn(id=agent.id)
    assert refused.value.hint is not None
    assert "agent respawn one --secret-env A_TOKEN" in refused.value.hint
    with pytest.raises(InvalidArgumentError, match=r"OTHER is given .* which has A_TOKEN"):
        client.agent.respawn(id=agent.id, secrets={"OTHER": "x"})
    assert client.agent.get(id=agent.id).attempt == 1
    client.agent.respawn(id=agent.id, secrets={"A_TOKEN": "another"})
    assert told(client, agent).split()[0] == "7"


@pytest.mark.parametrize(
    ("named", "given", "message"),
    [
        (["A_TOKEN"], {}, "A_TOKEN is named in spec.secret_env and not given"),
        ([], SECRETS, "A_TOKEN is given and not named in spec.secret_env"),
        (["ONE"], SECRETS, "A_TOKEN is given and not named in spec.secret_env, which has ONE"),
        (["A_TOKEN"], {"A_TOKEN": "a\0b"}, "secrets.A_TOKEN: a NUL character cannot be passed"),
        (["DESCARTES_AGENT_ID"], {"DESCARTES_AGENT_ID": "x"}, "this name is set by the server"),
    ],
)
def test_secrets_are_those_the_spec_names(
    client: Client, named: list[str], given: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        client.agent.spawn(spec=sh(TELL, secret_env=named), secrets=given)

    assert message in refused.value.message
    with pytest.raises(InvalidArgumentError, match="A_TOKEN is given and named in no spec"):
        client.batch.spawn(specs=[sh(TELL)], secrets=SECRETS)
    assert client.agent.list().total == 0


def test_a_variable_whose_name_is_a_secrets_is_masked_wherever_it_is_shown(
    server: Server, client: Client
) -> None:
    planted = "k3pt-for-restarts"  # in the registry, for the next start
    env = {"API_KEY": planted, "WHO": "me"}
    agent = client.agent.spawn(spec=sh(TELL, env=env, name="keyed"))
    batch = client.batch.spawn(specs=[sh(TELL, env=env)])
    asked = client.action.run(name="get_env", agent=agent.id)

    assert told(client, agent).split()[1] == str(len(planted))
    client.agent.respawn(id=agent.id)
    assert told(client, agent).split()[1] == str(len(planted))
    found = client.agent.get(id=agent.id)
    assert found.spec.env == {"API_KEY": "***", "WHO": "me"}
    assert asked.result["env"] == ["API_KEY", "WHO"]
    item = batch.results[0].agent
    assert item is not None
    shown = [agent, item, *client.agent.list().agents, found]
    assert {each.spec.env["API_KEY"] for each in shown} == {"***"}
    assert planted not in f"{asked}{batch}" + all_events(client, server)
    assert planted not in server.log_text()
    document = json.loads(server.ctl("--json", "agent", "show", "keyed").stdout)
    assert document["spec"]["env"]["API_KEY"] == "***"


def test_a_file_of_variables_is_read_at_each_start(
    server: Server, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text(f"FROM_FILE={PLANTED}\nWHO=file\n")
    agent = client.agent.spawn(spec=sh(TELL, env_file=str(file), name="filed"))
    assert told(client, agent).split()[2:] == [str(len(PLANTED)), "file"]
    over = client.agent.spawn(spec=sh(TELL, env_file=str(file), env={"WHO": "spec"}))
    assert told(client, over).split()[3] == "spec"

    file.write_text("FROM_FILE=1\n")
    client.agent.respawn(id=agent.id)
    assert told(client, agent).split()[2] == "1"
    file.write_text(f"{PLANTED}\n")
    with pytest.raises(InvalidArgumentError, match="line 1 is not NAME=VALUE") as refused:
        client.agent.respawn(id=agent.id)

    assert PLANTED not in f"{refused.value.message}{refused.value.hint}"
    assert until_state(client, agent.id, "failed").outcome is not None
    assert holders(server) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("relative", "is not an absolute path"),
        ("/no/such/file", "env_file '/no/such/file': No such"),
    ],
)
def test_a_file_that_cannot_be_read_leaves_no_agent(
    client: Client, path: str, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        client.agent.spawn(spec=sh(TELL, env_file=path))

    assert client.agent.list().total == 0


def test_the_command_line_takes_secrets_from_its_own_environment(server: Server) -> None:
    server.environ["A_TOKEN"] = PLANTED
    server.environ.pop("B_TOKEN", None)
    words = ("--quiet", "agent", "spawn", "--follow", "--secret-env", "A_TOKEN", "--", "sh", "-c")

    done = server.ctl(*words, TELL)
    missing = server.ctl(*(word.replace("A_TOKEN", "B_TOKEN") for word in words), TELL)

    assert done.stdout.split()[0] == str(len(PLANTED)).encode(), done.stderr
    assert missing.returncode == 2
    assert b"B_TOKEN is not in the environment" in missing.stderr


def test_no_message_shows_its_secrets() -> None:
    spec = AgentSpec(command=["x"], env={"API_KEY": PLANTED})
    messages = [
        AgentSpawn(spec=spec, secrets=SECRETS),
        BatchSpawn(specs=[spec], secrets=SECRETS),
        AgentRespawn(id="one", secrets=SECRETS),
    ]

    for message in messages:
        assert PLANTED not in f"{message!r}{message}"
        assert "A_TOKEN" in repr(message)
