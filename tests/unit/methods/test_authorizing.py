"""Decisions of plugins are kept for a while, asked for once, and fail closed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from descartesd.agents.record import Agent
from descartesd.agents.roster import Roster
from descartesd.api import Identity, KeyHolder, PermissionDeniedError, hookimpl
from descartesd.config.role import Role
from descartesd.hooks.record import Options
from descartesd.hooks.relay import Relay
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.revoked import RevocationList
from descartesd.methods.authorizing import FREE, Authorizer, authorizer
from descartesd.methods.grants import BUILTIN, NamedRole, grants_of
from descartesd.methods.outsiders import Outsiders, outsiders
from descartesd.methods.policy import Caller
from descartesd.wire.agent import AgentRef, AgentSpec
from descartesd.wire.server import Empty

WHO = Caller("uid:7", "operator", BUILTIN["operator"])
WEB = AgentRef(id="web")
TENANT = Role(methods={"agent.*": "own"})
KEY, OTHER = bytes(32), bytes([1]) * 32


class Plugin:
    """Answers what the test says, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: Any = None

    @hookimpl
    async def authorize_request(
        self, identity: Identity, method: str, target: str | None
    ) -> bool | None:
        self.asked.append((identity.id, method, target))
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    @hookimpl
    async def authenticate_key(self, key: str, address: str) -> KeyHolder | None:
        self.asked.append((key, address))
        await asyncio.sleep(0)
        return self.answer  # type: ignore[no-any-return]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def relay(plugin: object) -> Relay:
    made = Relay(Options(hook_timeout_s=1, bench_failures=100, bench_calls=100))
    made.register(plugin, "police")
    return made


@pytest.fixture
def decides(plugin: Plugin, clock: Clock) -> Authorizer:
    return Authorizer(relay(plugin), 5.0, Roster(), clock=clock)


@pytest.fixture
def door(plugin: Plugin, clock: Clock, tmp_path: Path) -> Outsiders:
    return Outsiders(relay(plugin), 5.0, RevocationList(str(tmp_path / "revoked")), clock=clock)


def test_a_decision_is_asked_for_once_and_kept_for_its_time(
    decides: Authorizer, plugin: Plugin, clock: Clock
) -> None:
    async def scenario() -> None:
        assert not decides.is_allowed(WHO, "agent.get", WEB)
        await asyncio.gather(*(decides.allow(WHO, "agent.get", WEB) for _ in range(50)))
        assert decides.is_allowed(WHO, "agent.get", WEB)
        clock.now += 4.9
        assert decides.is_allowed(WHO, "agent.get", WEB)
        clock.now += 0.2
        assert not decides.is_allowed(WHO, "agent.get", WEB)

    asyncio.run(scenario())

    assert plugin.asked == [("uid:7", "agent.get", "web")]


def test_a_prefix_is_asked_about_as_the_agent_it_means_to_the_caller(
    plugin: Plugin, clock: Clock
) -> None:
    roster = Roster()
    for number, owner in enumerate(("uid:7", "uid:8")):
        agent_id = f"06h30b{number:014}"
        facts = {"id": agent_id, "name": f"a{number}", "owner": owner}
        roster.add(Agent(**facts, spec=AgentSpec(), created_at=0.0))
    decides = Authorizer(relay(plugin), 5.0, roster, clock=clock)
    tenant = Caller("uid:7", "tenant", grants_of([NamedRole("tenant", TENANT)]))

    # Another's agent begins alike: to the tenant it is not there, nor by its name.
    asyncio.run(decides.allow(tenant, "agent.kill", AgentRef(id="06h30b")))
    asyncio.run(decides.allow(tenant, "agent.kill", AgentRef(id="a1")))

    assert [target for _, _, target in plugin.asked] == ["06h30b00000000000000", "a1"]


def test_a_refusal_is_kept_too_and_another_role_is_another_question(
    decides: Authorizer, plugin: Plugin
) -> None:
    plugin.answer = False
    admin = Caller("uid:7", "admin", BUILTIN["admin"])

    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(PermissionDeniedError, match="plugin 'police' does not allow"):
                await decides.allow(WHO, "agent.get", WEB)
        plugin.answer = True
        await decides.allow(admin, "agent.get", WEB)

    asyncio.run(scenario())

    assert len(plugin.asked) == 2


def test_what_is_junk_or_raises_is_refused(decides: Authorizer, plugin: Plugin) -> None:
    async def scenario() -> None:
        for number, answer in enumerate(("yes", 1.5, OSError("down"), asyncio.CancelledError())):
            plugin.answer = answer
            with pytest.raises(PermissionDeniedError, match="plugin 'police' has to allow it"):
                await decides.allow(WHO, "agent.get", AgentRef(id=f"web-{number}"))

    asyncio.run(scenario())


def test_what_tells_of_a_dead_plugin_is_never_asked_for(
    decides: Authorizer, plugin: Plugin
) -> None:
    plugin.answer = False

    async def scenario() -> None:
        for method in FREE:
            assert decides.is_allowed(WHO, method, Empty())
            await decides.allow(WHO, method, Empty())

    asyncio.run(scenario())

    assert plugin.asked == []


def test_what_stays_open_is_held_against_new_decisions(
    decides: Authorizer, plugin: Plugin, clock: Clock
) -> None:
    async def scenario() -> None:
        await decides.allow(WHO, "agent.follow", WEB)
        plugin.answer = False
        decides.recheck(WHO, "agent.follow", WEB)
        clock.now += 6
        decides.recheck(WHO, "agent.follow", WEB)
        await asyncio.sleep(0.05)
        with pytest.raises(PermissionDeniedError):
            decides.recheck(WHO, "agent.follow", WEB)

    asyncio.run(scenario())

    assert len(plugin.asked) == 2


def test_without_an_implementation_nobody_decides(tmp_path: Path) -> None:
    idle = relay(object())

    assert authorizer(idle, 5, Roster()) is None
    assert outsiders(idle, 5, RevocationList(str(tmp_path / "revoked"))) is None


def test_who_is_vouched_for_stays_the_same_until_the_plugin_forgets_him(
    door: Outsiders, plugin: Plugin, clock: Clock
) -> None:
    async def scenario() -> None:
        plugin.answer = KeyHolder(name="ann", role="observer")
        first = await door.enter("10.0.0.1", KEY)
        plugin.answer = KeyHolder(name="ann", role="observer")
        assert await door.enter("10.0.0.1", KEY) is first
        clock.now += 6
        # Asked anew, and good until that is answered.
        assert door.holder(KEY) is first
        await asyncio.sleep(0.05)
        assert door.holder(KEY) is first
        plugin.answer = None
        clock.now += 6
        assert door.holder(KEY) is first
        await asyncio.sleep(0.05)
        assert door.holder(KEY) is None
        assert await door.enter("10.0.0.1", KEY) is None

    asyncio.run(scenario())

    assert len(plugin.asked) == 3
    assert {address for _, address in plugin.asked} == {"10.0.0.1"}


def test_strangers_in_numbers_displace_nobody_who_is_known(
    door: Outsiders, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descartesd.methods.outsiders._MOST_KEPT", 10)

    async def scenario() -> KeyHolder | None:
        plugin.answer = KeyHolder(name="ann", role="observer")
        await door.enter("10.0.0.1", KEY)
        plugin.answer = None
        for number in range(2, 40):
            assert await door.enter("10.0.0.9", bytes([number]) * 32) is None
        return door.holder(KEY)

    assert asyncio.run(scenario()) is not None


def test_a_revoked_key_stays_out_whatever_a_plugin_says(plugin: Plugin, tmp_path: Path) -> None:
    revoked = RevocationList(str(tmp_path / "revoked"))
    door = Outsiders(relay(plugin), 5.0, revoked)
    plugin.answer = KeyHolder(name="ann", role="admin")

    async def scenario() -> None:
        assert await door.enter("10.0.0.1", KEY) is not None
        revoked.append(1.0, "", fingerprint(KEY), "ann")
        assert door.holder(KEY) is None
        assert await door.enter("10.0.0.1", KEY) is None
        assert await door.enter("10.0.0.1", OTHER) is not None

    asyncio.run(scenario())
