"""Ended agents are kept as long as is configured."""

from __future__ import annotations

from pathlib import Path

from descartesd.client import Client
from descartesd.errors import NotFoundError
from descartesd.wire.agent import Restart
from tests.support.agents import sh, spec, until_state
from tests.support.eventually import eventually
from tests.support.server import running

KEPT = {"limits.keep_ended_secs": 2}


def is_gone(client: Client, agent_id: str) -> bool:
    try:
        client.agent.get(id=agent_id)
    except NotFoundError:
        return True
    return False


def files(directory: Path, agent_id: str) -> list[str]:
    return [each.name for each in (directory / "state" / "output").glob(f"{agent_id}.*")]


def test_ended_agent_goes_with_its_output_and_others_stay() -> None:
    with running(KEPT) as server, server.client() as client:
        lives = client.agent.spawn(spec=spec("sleep", "60"))
        waits = client.agent.spawn(
            spec=sh("exit 1", restart=Restart(policy="on-failure", delay_s=60.0))
        )
        until_state(client, waits.id, "backoff")
        agent = client.agent.spawn(spec=sh("echo kept", name="old"))
        ended = client.agent.wait(id=agent.id)
        eventually(lambda: files(server.directory, agent.id))
        assert ended.ended_at is not None

        eventually(lambda: is_gone(client, agent.id), timeout=10)

        gone = next(
            event
            for event in client.event.follow(since=0)
            if (event.kind, event.agent_id) == ("removed", agent.id)
        )
        assert 2 <= gone.time - ended.ended_at < 9
        assert not files(server.directory, agent.id)
        assert client.agent.get(id=lives.id).state == "running"
        assert client.agent.get(id=waits.id).state == "backoff"
        assert client.agent.spawn(spec=sh("true", name="old")).id != agent.id
        client.batch.run(verb="kill", ids=[lives.id, waits.id])
