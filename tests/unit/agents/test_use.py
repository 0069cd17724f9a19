"""What agents use: asked for a few at a time, told of those that run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from descartesd.agents import record as records
from descartesd.agents.record import Agent
from descartesd.agents.use import AT_ONCE, Use
from descartesd.wire.agent import Outcome, Usage
from tests.support.scriptedkeeper import record, status
from tests.unit.agents.test_list_beside_requests import Scene, run

USED = Usage(memory_bytes=4096, cpu_seconds=0.5, tasks=2)


def ids(agents: Iterable[Agent]) -> list[str]:
    return [agent.id for agent in agents]


def test_many_are_asked_about_in_turns(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        agents = [record(number) for number in range(1, 2 * AT_ONCE)]
        scene.load(*agents, record(99, "completed", eof=True, outcome=Outcome(reason="exit")))
        use = Use(scene.book, scene.link)

        for _ in range(3):
            use.tick()
            await scene.link.request("hello")

        asked = [request["agent_ids"] for request in scene.keeper.of("usage")]
        assert asked == [ids(agents[:AT_ONCE]), ids(agents[AT_ONCE:]), ids(agents[:AT_ONCE])]
        assert all(agent.info("s").usage == USED for agent in agents)
        assert scene.book.roster.resolve("a99").usage is None

    run(tmp_path, test)


def test_output_that_waits_in_the_keeper_is_told_until_it_is_written(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        ended = record(2, "completed", outcome=Outcome(reason="exit"))
        scene.load(running := record(1), ended)
        use = Use(scene.book, scene.link)
        told = []
        for scene.keeper.output_errors in ({running.id: "full", ended.id: "full"}, {}):
            use.tick()
            await scene.link.request("hello")
            told.append([agent.info("s").output_error for agent in (running, ended)])

        assert told == [["full", "full"], [None, None]]

    run(tmp_path, test)


def test_nothing_is_asked_while_an_answer_is_due_or_nobody_runs(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        use = Use(scene.book, scene.link)
        use.tick()
        scene.load(record(1))
        use.tick()
        use.tick()
        await scene.link.request("hello")

        assert len(scene.keeper.of("usage")) == 1

    run(tmp_path, test)


def test_refusal_or_loss_of_the_keeper_is_no_end_of_it(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        scene.load(agent := record(1))
        use = Use(scene.book, scene.link)
        scene.keeper.refusals["usage"] = ("internal", "no")
        use.tick()
        await scene.link.request("hello")
        assert agent.usage is None
        scene.keeper.refusals.clear()
        use.tick()
        scene.link.close()
        use.tick()
        await scene.link.connect(scene.path)
        use.tick()
        await scene.link.request("hello")

        assert agent.usage == USED

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        ({"ended_by": "run_time", "signal": 15}, "terminated", "run_time_limit"),
        ({"signal": 9, "out_of_memory": True}, "failed", "out_of_memory"),
        ({"exit_code": 1, "out_of_memory": True}, "failed", "exit"),
        ({"signal": 9, "out_of_memory": True, "ended_by": "kill"}, "terminated", "killed"),
        ({"signal": 9}, "failed", "signal"),
    ],
)
def test_limits_are_among_the_reasons_of_an_end(
    facts: dict[str, object], state: str, reason: str
) -> None:
    told = status(record(1), "exited", exit_code=None) | facts  # type: ignore[operator]

    ended, outcome = records.ending(told, stopping=False)

    assert (ended, outcome.reason) == (state, reason)
