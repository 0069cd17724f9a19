"""Twenty lines say what a policy allows; nothing else may be allowed (I6)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.agents.record import Agent
from descartesd.config.role import Quotas, Role, Scope
from descartesd.methods.grants import RANKS, NamedRole, grants_of
from descartesd.methods.sight import judge, reach
from descartesd.wire.agent import AgentSpec
from descartesd.wire.methods import METHODS

ME, OTHER = "uid:1", "uid:2"
Decision = Literal["granted", "denied", "unseen"]


# The model.
def scope(roles: list[NamedRole], method: str) -> Scope | None:
    if any(fnmatchcase(method, each) for role in roles for each in role.definition.deny):
        return None
    needed = {"batch.spawn": "agent.spawn", "action.follow": "action.run"}.get(method)
    if needed is not None and scope(roles, needed) is None:
        return None
    found = {_of_one(role, method) for role in roles}
    if method in ("stream.credit", "stream.cancel"):
        streams = [name for name, each in METHODS.items() if each.stream]
        found |= {"any" for name in streams if scope(roles, name)}
    return "any" if "any" in found else "own" if "own" in found else None


def _of_one(role: NamedRole, method: str) -> Scope | None:
    if role.rank >= 0:
        return "any" if RANKS[METHODS[method].permission] <= role.rank else None
    listed = role.definition.methods
    fitting = sorted(listed, key=lambda each: (each == method, len(each)))
    found = next((listed[each] for each in reversed(fitting) if fnmatchcase(method, each)), None)
    is_about_all = METHODS[method].permission == "admin" and method != "policy.explain"
    return None if found == "own" and is_about_all else found


def decide(roles: list[NamedRole], method: str, owner: str) -> Decision:
    if scope(roles, method) is None:
        return "denied"
    if owner == ME:
        return "granted"
    if scope(roles, "agent.get") != "any":
        return "unseen"
    return "granted" if scope(roles, method) == "any" else "denied"


# Any roles whatever.
PATTERNS = st.sampled_from(
    [*METHODS, "*", "agent.*", "agent.s*", "batch.*", "server.*", "*.list", "stream.*", "cert.*"]
)
QUOTA = st.none() | st.integers(1, 9)
DEFINITIONS = st.builds(
    Role,
    methods=st.dictionaries(PATTERNS, st.sampled_from(["own", "any"]), max_size=6),
    deny=st.lists(PATTERNS, max_size=2).map(tuple),
    quotas=st.builds(Quotas, agents=QUOTA, streams=QUOTA, requests_per_second=QUOTA),
)
ROLES = DEFINITIONS.map(lambda definition: NamedRole("own", definition)) | st.builds(
    lambda name, deny: NamedRole(name, Role(deny=deny), RANKS[name]),
    st.sampled_from(sorted(RANKS)),
    st.lists(PATTERNS, max_size=1).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ROLES, min_size=1, max_size=3), st.sampled_from(sorted(METHODS)))
def test_what_the_model_denies_is_denied_and_what_it_grants_is_granted(
    roles: list[NamedRole], method: str
) -> None:
    grants = grants_of(roles)

    assert grants.methods.get(method) == scope(roles, method)
    assert grants.verdict(method).scope == scope(roles, method)
    if method in grants.methods:
        for owner in (ME, OTHER):
            agent = Agent(id="a", name="a", owner=owner, spec=AgentSpec(), created_at=0.0)
            decided = judge(grants, ME, method, agent)
            assert decided == decide(roles, method, owner), (method, owner)
        assert (reach(grants, method) == "any") == (decide(roles, method, OTHER) == "granted")


@given(st.lists(ROLES, min_size=1, max_size=3))
def test_quotas_are_those_of_the_loosest_role_and_never_an_administrator_s(
    roles: list[NamedRole],
) -> None:
    quotas: Any = grants_of(roles).quotas

    for name in ("agents", "streams", "requests_per_second"):
        values = [getattr(role.definition.quotas, name) for role in roles]
        is_admin = any(role.name == "admin" for role in roles)
        expected = None if is_admin or None in values else max(values)
        assert getattr(quotas, name) == expected
