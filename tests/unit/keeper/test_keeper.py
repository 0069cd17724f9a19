"""The operations on the whole keeper: hello, list, forget, remove, strays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from descartesd.errors import ConflictError, InvalidArgumentError, UnimplementedError
from descartesd.keeper import procfs, protocol
from tests.support.eventually import eventually
from tests.unit.keeper.harness import Keeper


def test_hello_says_who_this_keeper_is(keeper: Keeper) -> None:
    about = keeper.ask("hello", version="1.7")

    assert set(about) == {
        "version", "build", "features", "pid", "boot_id", "started_at", "output_dir",
        "reexecutions",
    }  # fmt: skip
    assert about["version"] == protocol.VERSION
    assert about["pid"] == keeper.process.pid
    assert about["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < time.time() - about["started_at"] < 600
    assert about["output_dir"] == keeper.output
    assert set(about["features"]) <= set(protocol.FEATURES)
    assert {"tree", "fence", "writer-offsets", "time-index"} <= set(about["features"])
    assert int(about["build"], 16) >= 0


def test_build_is_the_same_for_the_same_code(
    keeper: Keeper, make_keeper: Callable[..., Keeper]
) -> None:
    other = make_keeper()

    assert other.ask("hello", version="1.0")["build"] == keeper.ask("hello", version="1.0")["build"]


def test_another_major_version_is_unimplemented(keeper: Keeper) -> None:
    with pytest.raises(UnimplementedError, match=r"this keeper speaks 1\.3"):
        keeper.ask("hello", version="2.0")
    with pytest.raises(InvalidArgumentError, match="version: expected a text"):
        keeper.ask("hello")


def test_list_comes_in_pages_in_the_order_of_ids(keeper: Keeper) -> None:
    ids = sorted(keeper.spawn("true", agent_id=f"page{number:03}") for number in range(7))
    for agent_id in ids:
        keeper.eof(agent_id)

    pages, cursor = [], None
    while True:
        reply = keeper.ask("list", cursor=cursor, limit=3)
        pages.append([agent["agent_id"] for agent in reply["agents"]])
        cursor = reply["next"]
        if cursor is None:
            break

    assert pages == [ids[:3], ids[3:6], ids[6:]]


def test_page_stays_moderate_whatever_is_asked_for(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    for number in range(120):
        keeper.spawn("true", agent_id=f"p{number:019}", name="n" * 63)

    reply = keeper.ask("list", limit=100_000)

    assert len(reply["agents"]) == 100
    assert len(protocol.pack(reply)) < protocol.INLINE_MAX
    assert len(keeper.ask("list", cursor=reply["next"])["agents"]) == 20


def test_status_has_every_key(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60", stdin="pipe")

    status = keeper.status(agent_id)

    assert status is not None
    assert set(status) == set(protocol.Status.__annotations__)
    assert status["stdin_open"] is True
    for key in ("paused_at", "ended_at", "exit_code", "signal", "ended_by", "output_error"):
        assert status[key] is None


def test_forget_keeps_the_output_and_remove_does_not(keeper: Keeper) -> None:
    forgotten = keeper.run("echo", "x")["agent_id"]
    removed = keeper.run("echo", "x")["agent_id"]

    keeper.ask("forget", agent_id=forgotten)
    keeper.ask("remove", agent_id=removed)

    assert keeper.status(forgotten) is keeper.status(removed) is None
    assert keeper.out(forgotten) == b"x\n"
    assert not os.path.exists(protocol.data_path(keeper.output, removed, "stdout"))
    keeper.ask("remove", agent_id=forgotten)
    assert not os.path.exists(protocol.data_path(keeper.output, forgotten, "stdout"))


def test_forget_and_remove_need_an_exited_agent_and_take_an_unknown_one(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60")

    for verb in ("forget", "remove"):
        with pytest.raises(ConflictError, match=f"is running: {verb} needs it exited"):
            keeper.ask(verb, agent_id=agent_id)
        assert keeper.ask(verb, agent_id="nobody") == {}
        with pytest.raises(InvalidArgumentError):
            keeper.ask(verb, agent_id="../etc")


def test_of_several_to_forget_those_that_run_are_left_out(keeper: Keeper) -> None:
    ended = [keeper.run("true")["agent_id"] for _ in range(2)]
    running = keeper.spawn("sleep", "60")

    keeper.ask("forget", agent_ids=[ended[0], running, "nobody", ended[1]])

    assert [keeper.status(agent_id) for agent_id in ended] == [None, None]
    assert keeper.status(running) is not None


def test_agent_forgotten_before_its_output_ended_tells_nothing_more(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("sh", "-c", "env -i setsid sh -c '(sleep 60) & echo early'; exit 0")
    keeper.exited(agent_id)
    descriptors = keeper.descriptors()

    keeper.ask("forget", agent_id=agent_id)

    assert keeper.descriptors() < descriptors
    assert keeper.out(agent_id) == b"early\n"
    assert keeper.ask("strays")["strays"]
    assert not keeper.client.events


def test_strays_are_named(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    keeper.run(
        "sh", "-c", "env -i setsid sh -c '(exec sleep 61) & exit' >/dev/null 2>&1; sleep 0.1"
    )

    (stray,) = eventually(lambda: keeper.ask("strays")["strays"])

    process = procfs.read(stray["pid"])
    assert process is not None
    assert stray["start_time"] == process.start_time
    assert process.ppid == keeper.process.pid
    assert stray["command"] == "sleep 61"
