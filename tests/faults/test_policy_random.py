"""No operation succeeds that the model of the policy denies, whatever the roles (I6)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from descartesd.config.role import Role
from descartesd.methods.explaining import acts_on_agents
from descartesd.methods.grants import NamedRole
from descartesd.wire.agent import AgentInfo, AgentSpec
from descartesd.wire.methods import METHODS
from tests.faults.peers import Peers, keys_of
from tests.support.roles import ON_ENDED, params_on, refusal_of, running_with
from tests.support.server import Server
from tests.unit.methods.test_policy_model import scope

COUNT = 6
PATTERNS = ("*", "agent.*", "agent.s*", "agent.p*", "batch.*", "*.follow", "*.run")


def definition(seed: int) -> Role:
    """Some role; the same for the same number."""
    chance = random.Random(seed)
    pool = [*PATTERNS, *(name for name in METHODS if acts_on_agents(name))]
    methods = {each: chance.choice(["own", "any"]) for each in chance.sample(pool, 8)}
    if seed % 2:
        methods["agent.get"] = "any"
    return Role(
        methods=methods,  # type: ignore[arg-type]
        deny=tuple(chance.sample(pool, seed % 3)),
        commands=("**",),
        actions=("*",),
    )


ROLES = {f"r{seed}": definition(seed) for seed in range(COUNT)}


def text(name: str, role: Role) -> str:
    lines = [f"[policy.roles.{name}]", f"deny = {list(role.deny)}", 'actions = ["*"]']
    lines += [f"[policy.roles.{name}.methods]"]
    return "\n".join(lines + [f'"{each}" = "{of}"' for each, of in role.methods.items()]) + "\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_with("\n" + "\n".join(text(*each) for each in ROLES.items())) as server:
        yield server


@pytest.fixture(scope="module")
def agents(server: Server) -> dict[str, AgentInfo]:
    """An agent of the administrator's that runs, and one that has ended."""
    found = {}
    with server.client() as admin:
        for kind, command in (("running", ["sleep", "600"]), ("ended", ["true"])):
            found[kind] = admin.agent.spawn(spec=AgentSpec(name=kind, command=command))
        admin.agent.wait(id="ended")
    return found


@pytest.mark.parametrize("name", ROLES)
def test_no_operation_succeeds_that_the_model_denies(
    server: Server, agents: dict[str, AgentInfo], name: str
) -> None:
    role = [NamedRole(name, ROLES[name])]
    sees = scope(role, "agent.get") == "any"
    keys = keys_of(server.issue(f"of-{name}", name))
    with Peers(server) as peers:
        peer = peers.connect(keys, timeout=10)
        for method in METHODS:
            if not acts_on_agents(method):
                continue
            agent = agents["ended" if method in ON_ENDED else "running"]
            refused = refusal_of(
                peer.ask(method, params_on(method, agent.id), idem=f"{method}{name}")
            )
            if METHODS[method].stream:
                # What it sends on would be taken for the next answer.
                peer = peers.connect(keys, timeout=10)

            needed = [method] + (["agent.get"] if method == "batch.run" else [])
            if any(scope(role, each) is None for each in needed):
                expected: str | None = "permission_denied"
            elif not sees:
                expected = "not_found"
            elif any(scope(role, each) == "own" for each in needed):
                expected = "permission_denied"
            else:
                expected = None
            assert refused == expected, (method, ROLES[name])
