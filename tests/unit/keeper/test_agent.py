"""The table of agents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.errors import ConflictError, NotFoundError
from descartesd.keeper import protocol
from descartesd.keeper.agent import Agent, Agents
from descartesd.keeper.loop import Loop
from descartesd.keeper.output import Pump


@pytest.fixture
def pump(tmp_path: Path) -> Iterator[Pump]:
    loop = Loop()
    yield Pump(loop, str(tmp_path), pytest.fail)
    loop.close()


def running(pump: Pump, agent_id: str) -> Agent:
    """An agent whose leader is this very process."""
    agent = Agent(pump, agent_id)
    agent.begin(1, os.getpid(), os.pidfd_open(os.getpid()), 1)
    return agent


def test_agent_runs_until_it_finishes(pump: Pump) -> None:
    agent = running(pump, "a")
    assert (agent.runs, agent.eof, agent.state, agent.is_swept) == (True, False, "running", False)

    agent.finish(exit_code=None, signum=9)
    assert (agent.runs, agent.eof, agent.state) == (False, False, "running")

    agent.close()

    assert (agent.runs, agent.eof, agent.state, agent.signal) == (False, True, "exited", 9)
    agent.begin(2, os.getpid(), os.pidfd_open(os.getpid()), 1)
    assert (agent.attempt, agent.signal, agent.ended_at) == (2, None, None)
    agent.finish(exit_code=0, signum=None)


def test_status_is_complete(pump: Pump) -> None:
    assert set(Agent(pump, "a").status()) == set(protocol.Status.__annotations__)


def test_agents_are_found_by_id_and_told_apart_by_state(pump: Pump) -> None:
    agents, agent = Agents(), running(pump, "a")
    agents.add(agent)

    assert agents.get("a") is agents.get_running("a", "pause") is agents.find("a") is agent
    assert (len(agents), list(agents)) == (1, [agent])
    agent.finish(exit_code=0, signum=None)
    with pytest.raises(ConflictError, match="agent 'a' has exited: pause needs a running one"):
        agents.get_running("a", "pause")
    agents.drop(agent)
    agents.drop(agent)
    assert agents.find("a") is None
    with pytest.raises(NotFoundError, match="no agent 'a'"):
        agents.get("a")


def test_pages_follow_the_ids(pump: Pump) -> None:
    agents = Agents()
    for agent_id in ("c", "a", "d", "b"):
        agents.add(running(pump, agent_id))

    assert [agent.agent_id for agent in agents.page("", 2)] == ["a", "b"]
    assert [agent.agent_id for agent in agents.page("b", 9)] == ["c", "d"]
    for agent in agents:
        agent.finish(exit_code=0, signum=None)
