"""Role by method: what `policy.explain` says is what the server does, in every cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from descartesd.client import Client
from descartesd.methods.explaining import acts_on_agents
from descartesd.wire.agent import AgentInfo, AgentSpec
from descartesd.wire.methods import METHODS, ROLES
from descartesd.wire.policy import PolicyExplained
from tests.faults.peers import Peer, Peers, keys_of
from tests.support.roles import ON_ENDED, params_on, refusal_of, running_with
from tests.support.server import Server

CUSTOM = """
[policy.roles.tenant]
commands = ["**"]
actions = ["get_env"]
[policy.roles.tenant.methods]
"agent.*" = "own"
"batch.*" = "own"
"action.*" = "own"
"event.*" = "own"
"server.*" = "own"
"policy.*" = "own"

[policy.roles.calm]
deny = ["agent.k*", "agent.s*", "cert.*", "stream.cancel"]
commands = ["**"]
actions = ["get_env"]
[policy.roles.calm.methods]
"*" = "any"
"agent.pause" = "own"

[policy.roles.idle]
"""
TESTED = (*ROLES, "tenant", "calm", "idle")


class Cast(NamedTuple):
    """A server with an agent of every role, of the kinds `running` and `ended`."""

    server: Server
    peers: Peers
    admin: Client
    agents: dict[tuple[str, str], AgentInfo]
    known: dict[str, Peer]

    def peer(self, role: str) -> Peer:
        """A connection of its own."""
        return self.peers.connect(keys_of(self.profile(role)), timeout=10)

    def answer(self, role: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """What a role is answered first."""
        if METHODS[method].stream or role not in self.known:
            # What a stream sends on would be taken for the next answer.
            self.known[role] = self.peer(role)
        return self.known[role].ask(method, params, idem=f"{role} {method} {params}"[:64])

    def profile(self, role: str) -> Any:
        return self.server.directory / "profiles" / f"of-{role}.toml"

    def explain(self, role: str, method: str, agent: str | None = None) -> PolicyExplained:
        return self.admin.policy.explain(identity=f"of-{role}", method=method, id=agent)


@pytest.fixture(scope="module")
def cast() -> Iterator[Cast]:
    with running_with(CUSTOM) as server, server.client() as admin, Peers(server) as peers:
        found = Cast(server, peers, admin, {}, {})
        for role in TESTED:
            server.issue(f"of-{role}", role)
        for role in ("operator", "tenant"):
            with server.client(found.profile(role)) as client:
                for kind, command in (("running", ["sleep", "600"]), ("ended", ["true"])):
                    spec = AgentSpec(name=f"{role}-{kind}", command=command)
                    agent = client.agent.spawn(spec=spec)
                    found.agents[role, kind] = agent
                    if kind == "ended":
                        client.agent.wait(id=agent.id)
        yield found


@pytest.mark.parametrize("method", METHODS)
def test_fault_23_a_method_is_let_through_exactly_where_explain_says_so(
    cast: Cast, method: str
) -> None:
    for role in TESTED:
        told = cast.explain(role, method)
        # A key no request has: what is let through is refused for it, and does nothing.
        answer = cast.answer(role, method, {"no such key": 1})

        code = answer["error"]["code"]
        assert code == ("invalid_argument" if told.allowed else "permission_denied"), (role, told)
        assert told.method == method
        assert told.rule.startswith(method)
        assert told.reason
        if not told.allowed:
            assert told.reason == answer["error"]["message"]


@pytest.mark.parametrize("method", [name for name in METHODS if acts_on_agents(name)])
@pytest.mark.parametrize("owner", ["operator", "tenant"])
def test_fault_23_on_an_agent_it_is_let_through_exactly_where_explain_says_so(
    cast: Cast, method: str, owner: str
) -> None:
    kind = "ended" if method in ON_ENDED else "running"
    agent = cast.agents[owner, kind]
    for role in TESTED:
        told = cast.explain(role, method, agent.id)
        answer = cast.answer(role, method, params_on(method, agent.id))
        if METHODS[method].stream:
            del cast.known[role]

        assert answer.get("error", {}).get("code") != "invalid_argument", answer
        refused = refusal_of(answer)
        assert told.allowed == (refused is None), (role, told, answer)
        if refused == "not_found":
            assert told.rule.startswith("agent.get")
            assert "does not see" in told.reason


def test_every_method_has_a_permission_and_is_in_every_role_s_verdicts(cast: Cast) -> None:
    for name, method in METHODS.items():
        assert method.permission in ROLES, name
        assert cast.explain("admin", name).allowed, name
        assert not cast.explain("idle", name).allowed, name


@pytest.mark.parametrize(
    ("identity", "method", "rule"),
    [
        ("nobody", "agent.get", "identity"),
        ("key:SHA256:none", "agent.get", "identity"),
        ("uid:4000000000", "agent.get", "identity"),
        ("uid:x", "agent.get", "identity"),
        ("of-tenant", "agent.gte", "method"),
    ],
)
def test_what_is_not_there_is_explained_as_well(
    cast: Cast, identity: str, method: str, rule: str
) -> None:
    told = cast.admin.policy.explain(identity=identity, method=method)

    assert (told.allowed, told.rule) == (False, rule)
    done = cast.server.ctl("--json", "policy", "explain", identity, method)
    assert done.returncode == 0


def test_identities_are_known_by_name_fingerprint_and_uid(cast: Cast) -> None:
    by_name = cast.explain("tenant", "agent.get")

    assert by_name.identity == cast.agents["tenant", "ended"].owner
    assert cast.admin.policy.explain(identity=by_name.identity, method="agent.get") == by_name
    root = cast.admin.policy.explain(identity="uid:0", method="cert.sign")
    assert (root.allowed, root.rule) == (True, "cert.sign is one of the role admin")


def test_an_agent_that_is_not_there_is_told_apart_from_one_that_is_not_seen(cast: Cast) -> None:
    hidden = cast.explain("tenant", "agent.stop", cast.agents["operator", "running"].name)
    missing = cast.explain("tenant", "agent.stop", "no-such-agent")

    assert (hidden.allowed, missing.allowed) == (False, False)
    assert "which it does not see" in hidden.reason
    assert (missing.rule, missing.reason) == ("agent", "no agent 'no-such-agent'")


def test_who_may_explain_its_own_only_asks_about_itself(cast: Cast) -> None:
    peer = cast.peer("tenant")

    own = peer.ask("policy.explain", {"identity": "of-tenant", "method": "agent.get"})
    other = peer.ask("policy.explain", {"identity": "of-idle", "method": "agent.get"})

    assert own["result"]["allowed"]
    assert other["error"]["code"] == "permission_denied"


def test_the_command_line_says_why_and_ends_with_success(cast: Cast) -> None:
    agent = cast.agents["operator", "running"].name

    done = cast.server.ctl("policy", "explain", "of-calm", "agent.kill", agent)
    quiet = cast.server.ctl("--quiet", "policy", "explain", "of-admin", "agent.kill", agent)

    assert done.returncode == 0
    text = done.stdout.decode()
    assert "agent.kill is denied by 'agent.k*' in policy.roles.calm.deny" in text
    assert quiet.stdout == b"allowed\n"
