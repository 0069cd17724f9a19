"""File systems that hang: who needs one waits for it, the keeper and the others do not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.errors import (
    DeadlineExceededError,
    DescartesError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from descartesd.keeper import lookups
from descartesd.keeper.agent import Agents
from descartesd.keeper.launch import Launch
from descartesd.keeper.lookups import Lookups
from descartesd.keeper.loop import Loop, Steps
from descartesd.keeper.mounts import Mounts
from tests.support.eventually import eventually
from tests.support.hangingfs import HangingFs, hanging
from tests.unit.keeper.harness import Client, Keeper, spawn_request


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HangingFs]:
    with hanging(tmp_path / "hung") as mounted:
        yield mounted


def launch(**fields: Any) -> Launch:
    plain = Launch(["/bin/true"], "/", {}, ["/usr/bin"], has_stdin=False, rlimits={})
    return plain._replace(**fields)


WAYS = {
    "cwd": {"cwd": "HUNG"},
    "below": {"cwd": "HUNG/below"},
    "over a link": {"cwd": "LINK"},
    "env_file": {"env_file": "HUNG/env"},
    "program": {"argv": ["HUNG/program"]},
    "path": {"argv": ["program"], "path": ["/usr/bin", "HUNG"]},
    "trial": {"cwd": "HUNG", "trial": True},
}


def placed(way: str, hung: HangingFs) -> dict[str, Any]:
    link = hung.path.parent / "link"
    if not link.is_symlink():
        link.symlink_to(hung.path)

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(each) for each in value]
        if isinstance(value, str):
            return value.replace("HUNG", str(hung.path)).replace("LINK", str(link))
        return value

    return {name: named(value) for name, value in WAYS[way].items()}


@pytest.mark.parametrize("way", WAYS)
def test_keeper_goes_on_while_a_start_waits_for_its_file_system(
    keeper: Keeper, hung: HangingFs, way: str
) -> None:
    request = {**spawn_request("true"), **placed(way, hung)}
    waiting = keeper.client.begin("spawn", **request)
    began = time.monotonic()

    other = keeper.spawn("sh", "-c", "exit 3")
    assert keeper.exited(other)["exit_code"] == 3
    assert keeper.status(request["agent_id"]) is None

    assert time.monotonic() - began < 2
    assert waiting not in keeper.client.replies
    hung.die()
    with pytest.raises(InvalidArgumentError):
        keeper.client.end(waiting)


def test_start_that_waits_for_its_file_system_is_none_once_nobody_wants_it(
    keeper: Keeper, hung: HangingFs
) -> None:
    request = spawn_request("true", env_file=str(hung.path / "env"))
    keeper.client.begin("spawn", **request)
    eventually(keeper.children)

    keeper.client.close()
    keeper.client = Client(keeper.socket)
    assert keeper.ask("list")["agents"] == []
    hung.die()

    eventually(lambda: not keeper.children())
    assert keeper.ask("list")["agents"] == []


class Looking:
    """Lookups on a loop of their own, and how each ended."""

    def __init__(self) -> None:
        self.loop, self.agents = Loop(), Agents()
        self.lookups = Lookups(self.loop, self.agents)
        self.ends: list[DescartesError | None] = []

    def look(self, wanted: Launch) -> DescartesError | None:
        # A stop, of this first step even, holds until the next one begins.
        self.loop._is_stopped = False
        self.loop.start(self._looking(wanted))
        self.loop.run()
        return self.ends[-1]

    def _looking(self, wanted: Launch) -> Steps:
        try:
            yield from self.lookups.looking(wanted)
        except DescartesError as error:
            self.ends.append(error)
        else:
            self.ends.append(None)
        self.loop.stop()
        yield 0.0


@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("cwd", "cwd 'HUNG'"),
        ("env_file", "env_file 'HUNG/env'"),
        ("program", "program 'HUNG/program'"),
        ("path", "program 'HUNG/program'"),
        ("over a link", "cwd 'LINK'"),
    ],
)
def test_what_does_not_answer_in_time_is_named(
    monkeypatch: pytest.MonkeyPatch, hung: HangingFs, way: str, named: str
) -> None:
    monkeypatch.setattr(lookups, "LIMIT_S", 0.1)

    error = Looking().look(launch(**placed(way, hung)))

    assert isinstance(error, DeadlineExceededError)
    named = named.replace("HUNG", str(hung.path)).replace("LINK", f"{hung.path.parent}/link")
    assert error.message == f"{named}: its file system has not answered within 0.1 s"


def test_of_many_that_wait_no_more_are_made(
    monkeypatch: pytest.MonkeyPatch, hung: HangingFs
) -> None:
    monkeypatch.setattr(lookups, "LIMIT_S", 0.02)
    monkeypatch.setattr(lookups, "STUCK_MAX", 1)
    looking = Looking()
    looking.lookups._stuck.add(0)

    assert isinstance(looking.look(launch(cwd=str(hung.path))), ResourceExhaustedError)
    assert looking.agents.helpers == set()


def test_what_is_there_or_is_not_is_found_out_by_the_start(hung: HangingFs) -> None:
    looking = Looking()

    for wanted in (launch(), launch(cwd="/nowhere", argv=["nothing"]), launch(env_file="/etc")):
        assert looking.look(wanted) is None
    assert looking.agents.helpers == set()


def test_only_a_mount_somebody_else_serves_may_make_wait(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    before = Mounts()
    known = before.doubtful
    with hanging(tmp_path / "hung") as hung:
        [added] = before.doubtful - known
        link = tmp_path / "link"
        link.symlink_to(hung.path)

        assert before.may_wait(str(hung.path))
        assert before.may_wait(str(hung.path / "below"))
        assert before.may_wait(str(link))
        assert not before.may_wait(str(plain))
        assert not before.may_wait("/nowhere")
        assert added == max(before.doubtful)
    eventually(lambda: before.doubtful == known)
    before.close()
