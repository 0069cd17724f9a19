"""Agents of others are not there: row 24, and what row 30 says of other people's news."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import (
    AlreadyExistsError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from descartesd.wire.agent import AgentFollow, AgentInfo, AgentSpec
from descartesd.wire.attach import AgentAttach
from descartesd.wire.batch import Selector
from descartesd.wire.event import Event, EventFollow
from descartesd.wire.methods import AGENT_ATTACH, AGENT_FOLLOW, EVENT_FOLLOW
from tests.support.eventually import eventually
from tests.support.roles import OWN, client_of, running_with
from tests.support.server import Server

WATCHER = """
[policy.roles.watcher.methods]
"agent.get" = "any"
"agent.list" = "any"
"agent.stop" = "own"
"agent.kill" = "any"
"batch.run" = "any"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_with(OWN + WATCHER) as server:
        yield server


@pytest.fixture(scope="module")
def alice(server: Server) -> Iterator[Client]:
    with client_of(server, "alice", "tenant") as client:
        yield client


@pytest.fixture(scope="module")
def bob(server: Server) -> Iterator[Client]:
    with client_of(server, "bob", "tenant") as client:
        yield client


@pytest.fixture(scope="module")
def hers(alice: Client) -> AgentInfo:
    """An agent of Alice's that runs as long as the server."""
    spec = AgentSpec(name="hers", command=["sleep", "600"], stdin="pipe")
    return alice.agent.spawn(spec=spec)


def refusal(ask: Callable[[], object]) -> DescartesError:
    with pytest.raises(DescartesError) as caught:
        ask()
    return caught.value


VERBS: dict[str, dict[str, Any]] = {
    "get": {},
    "wait": {},
    "pause": {},
    "resume": {},
    "stop": {},
    "kill": {},
    "remove": {},
    "respawn": {},
    "close_stdin": {},
    "output": {"stream": "stdout"},
    "signal": {"signal": "CONT"},
    "write": {"data": b"x"},
    "say": {"text": "x"},
    "answer": {"decision": "allow"},
    "resize": {"rows": 1, "cols": 1},
}


def told(error: DescartesError, *names: str) -> tuple[Any, ...]:
    """Everything an error tells, less the word the agent was asked for by."""
    message = error.message
    for name in names:
        message = message.replace(f"'{name}'", "''")
    return error.code, message, error.hint, error.retryable, error.details


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("by", ["name", "id", "prefix"])
def test_fault_24_an_agent_of_another_owner_is_not_found_like_one_that_is_not(
    bob: Client, hers: AgentInfo, verb: str, by: str
) -> None:
    word = {"name": hers.name, "id": hers.id, "prefix": hers.id[:12]}[by]
    ask = getattr(bob.agent, verb)

    foreign = refusal(lambda: ask(id=word, **VERBS[verb]))
    missing = refusal(lambda: ask(id="nobody", **VERBS[verb]))

    assert isinstance(foreign, NotFoundError)
    assert told(foreign, word) == told(missing, "nobody")


def test_fault_24_its_streams_are_not_found_either(bob: Client, hers: AgentInfo) -> None:
    for method, params in (
        (AGENT_FOLLOW, AgentFollow(id=hers.id)),
        (AGENT_ATTACH, AgentAttach(id=hers.id)),
    ):
        with pytest.raises(NotFoundError), bob.stream(method, params) as items:  # type: ignore[var-annotated]
            list(islice(items, 1))


def test_fault_24_lists_counts_and_selections_leave_it_out(bob: Client, hers: AgentInfo) -> None:
    page = bob.agent.list()
    every = bob.batch.run(verb="get", select=Selector(all=True))
    owned = bob.agent.list(owner=hers.owner)

    assert (page.agents, page.total, page.next) == ([], 0, None)
    assert owned.total == 0
    assert every.results == []
    assert bob.server.health().agents == {}
    assert bob.server.health().keeper.strays == []
    assert bob.server.stats().agents == {}


def test_fault_24_in_a_batch_it_is_an_item_that_is_not_found(bob: Client, hers: AgentInfo) -> None:
    done = bob.batch.run(verb="stop", ids=[hers.id, "nobody"])

    errors = [item.error for item in done.results]
    assert [error.code for error in errors if error] == ["not_found", "not_found"]
    assert done.failed == 2


def test_fault_24_an_action_does_not_find_it(bob: Client, hers: AgentInfo) -> None:
    foreign = refusal(lambda: bob.action.run(name="get_env", agent=hers.id))
    missing = refusal(lambda: bob.action.run(name="get_env", agent="nobody"))

    assert isinstance(foreign, NotFoundError)
    assert told(foreign, hers.id) == told(missing, "nobody")


def test_fault_24_an_action_that_is_not_listed_is_denied(bob: Client) -> None:
    assert isinstance(refusal(lambda: bob.action.run(name="ping")), PermissionDeniedError)


def test_fault_24_a_taken_name_tells_nothing_of_its_holder(bob: Client, hers: AgentInfo) -> None:
    spec = AgentSpec(name="hers", command=["true"])

    plain = refusal(lambda: bob.agent.spawn(spec=spec))
    replacing = refusal(lambda: bob.agent.spawn(spec=spec, replace=True))
    item = bob.batch.spawn(specs=[spec]).results[0].error

    assert isinstance(plain, AlreadyExistsError)
    assert told(plain) == told(replacing)
    assert item is not None
    assert item.message == plain.message == "the name 'hers' is taken"
    assert hers.id not in f"{plain.message}{plain.hint}"


def test_fault_24_a_prefix_counts_only_the_agents_one_sees(
    alice: Client, bob: Client, hers: AgentInfo
) -> None:
    # Ids begin with their time: those of one server have their first characters in common.
    his = bob.agent.spawn(spec=AgentSpec(command=["sleep", "600"]))

    assert bob.agent.get(id=his.id[:4]).id == his.id
    assert alice.agent.get(id=hers.id[:4]).id == hers.id
    bob.agent.kill(id=his.id)
    bob.agent.remove(id=his.id)


def test_fault_24_the_owner_still_has_it(alice: Client, hers: AgentInfo) -> None:
    assert alice.agent.get(id="hers").state == "running"
    assert alice.agent.list().total == 1


def test_fault_24_what_one_sees_and_may_not_touch_is_denied(
    server: Server, hers: AgentInfo
) -> None:
    with client_of(server, "carol", "watcher") as carol:
        assert carol.agent.get(id="hers").id == hers.id
        refused = refusal(lambda: carol.agent.stop(id="hers"))
        unlisted = refusal(lambda: carol.agent.pause(id="hers"))
        batch = carol.batch.run(verb="stop", select=Selector(all=True), dry_run=True)

    assert isinstance(refused, PermissionDeniedError)
    assert "is 'own' by 'agent.stop' in policy.roles.watcher.methods" in refused.message
    assert isinstance(unlisted, PermissionDeniedError)
    assert "is not listed in policy.roles.watcher.methods" in unlisted.message
    assert [item.error.code for item in batch.results if item.error] == ["permission_denied"]


def test_fault_24_a_visible_holder_is_replaced_only_by_who_may_end_it(
    server: Server, hers: AgentInfo
) -> None:
    role = '\n[policy.roles.x]\ncommands = ["**"]\n[policy.roles.x.methods]\n"agent.*" = "own"\n'
    role += '"agent.get" = "any"\n'
    with running_with(role) as other, other.client() as admin:
        admin.agent.spawn(spec=AgentSpec(name="held", command=["sleep", "600"]))
        with client_of(other, "dora", "x") as dora:
            spec = AgentSpec(name="held", command=["true"])
            refused = refusal(lambda: dora.agent.spawn(spec=spec, replace=True))
        assert admin.agent.get(id="held").state == "running"

    assert isinstance(refused, PermissionDeniedError)
    assert refused.message.startswith("agent.kill is 'own'")


def test_fault_30_a_follower_hears_of_its_own_agents_and_of_the_server_only(
    alice: Client, bob: Client, hers: AgentInfo
) -> None:
    one = alice.agent.spawn(spec=AgentSpec(name="one", command=["true"]))
    alice.agent.wait(id=one.id)
    his = bob.agent.spawn(spec=AgentSpec(name="two", command=["true"]))
    bob.agent.wait(id=his.id)
    alice.agent.remove(id=one.id)

    heard: list[Event] = []
    with bob.stream(EVENT_FOLLOW, EventFollow(since=0)) as events:
        for event in events:
            heard.append(event)
            if event.agent_id == his.id and event.state == "completed":
                break
    bob.agent.remove(id=his.id)

    assert {event.owner for event in heard if event.agent_id} == {his.owner}
    assert hers.id not in {event.agent_id for event in heard}
    assert one.id not in {event.agent_id for event in heard}
    assert "server_started" in {event.kind for event in heard}


def test_fault_30_its_removal_is_told_to_its_owner(alice: Client, hers: AgentInfo) -> None:
    one = alice.agent.spawn(spec=AgentSpec(name="gone", command=["true"]))
    alice.agent.wait(id=one.id)
    alice.agent.remove(id=one.id)

    with alice.stream(EVENT_FOLLOW, EventFollow(since=0)) as events:
        last = next(e for e in events if e.agent_id == one.id and e.kind == "removed")

    assert last.owner == hers.owner


def test_a_prefix_of_several_own_agents_names_only_those(bob: Client, hers: AgentInfo) -> None:
    made = [bob.agent.spawn(spec=AgentSpec(command=["true"])) for _ in range(2)]

    error = refusal(lambda: bob.agent.get(id=made[0].id[:4]))
    for each in made:
        bob.agent.wait(id=each.id)
        bob.agent.remove(id=each.id)

    assert isinstance(error, InvalidArgumentError)
    assert "2 agents" in error.message
    assert hers.name not in f"{error.hint}"
    eventually(lambda: bob.agent.list().total == 0)


def test_fault_24_a_stream_opened_with_more_rights_ends_when_they_are_taken(
    server: Server,
) -> None:
    watcher = server.issue("erin", "observer")
    with (
        server.client(watcher) as erin,
        server.client() as admin,
        pytest.raises(PermissionDeniedError, match=r"event\.follow is 'own'"),
    ):
        _follow_while(erin, lambda: _exchange_role(server, admin, watcher))


def _follow_while(client: Client, change: Callable[[], None]) -> None:
    with client.stream(EVENT_FOLLOW, EventFollow(since=0)) as events:
        next(iter(events))
        change()
        for _ in events:
            continue


def _exchange_role(server: Server, admin: Client, profile: Path) -> None:
    """Give the same key another certificate, under the same name."""
    key = tomllib.loads(profile.read_text())["public_key"]
    (server.directory / "state" / "trust" / "erin.cert").unlink()
    admin.cert.sign(public_key=key, name="erin", role="tenant")
