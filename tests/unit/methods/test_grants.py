"""What roles grant, by themselves and together."""

from __future__ import annotations

import pytest

from descartesd.config.role import Quotas, Role
from descartesd.methods.grants import BUILTIN, Grants, NamedRole, Roles, Verdict, grants_of
from descartesd.wire.methods import METHODS, ROLES


def of(*definitions: Role) -> Grants:
    return grants_of([NamedRole(f"r{n}", each) for n, each in enumerate(definitions)])


def test_what_a_role_does_not_list_it_does_not_grant() -> None:
    grants = of(Role(methods={"agent.get": "own"}))

    assert grants.methods == {"agent.get": "own"}
    assert grants.verdict("agent.kill") == Verdict(None, "is not listed in policy.roles.r0.methods")


def test_a_name_goes_before_a_pattern_and_a_longer_pattern_before_a_shorter() -> None:
    methods = {"agent.kill": "own", "*": "own", "agent.*": "any", "server.*": "own"}
    grants = of(Role(methods=methods))  # type: ignore[arg-type]

    assert grants.methods["agent.kill"] == "own"
    assert grants.methods["agent.get"] == "any"
    assert grants.methods["server.stats"] == "own"


def test_own_grants_nothing_that_is_about_the_whole_server() -> None:
    grants = of(Role(methods={"*": "own"}))
    administrators = {name for name, each in METHODS.items() if each.permission == "admin"}

    assert administrators & grants.methods.keys() == {"policy.explain"}
    assert grants.methods.keys() | administrators == METHODS.keys()
    assert grants.verdict("cert.sign").rule == (
        "is about the whole server, which 'own' by '*' in policy.roles.r0.methods does not grant"
    )
    assert of(Role(methods={"*": "own", "cert.list": "any"})).methods["cert.list"] == "any"


def test_several_roles_grant_what_one_of_them_does_in_the_widest_scope() -> None:
    grants = of(
        Role(methods={"agent.*": "own"}), Role(methods={"agent.get": "any", "server.stats": "any"})
    )

    assert grants.methods["agent.get"] == grants.methods["server.stats"] == "any"
    assert grants.methods["agent.kill"] == "own"


def test_a_denial_of_one_role_holds_against_every_other() -> None:
    operator = NamedRole("operator", Role(), rank=1)
    grants = grants_of([operator, NamedRole("calm", Role(deny=("agent.k*",)))])

    assert "agent.kill" not in grants.methods
    assert grants.methods["agent.stop"] == "any"
    assert grants.verdict("agent.kill").rule == "is denied by 'agent.k*' in policy.roles.calm.deny"


def test_who_is_denied_to_run_an_action_may_not_follow_one_either() -> None:
    grants = grants_of([NamedRole("operator", Role(deny=("action.run",)), rank=1)])

    assert "action.follow" not in grants.methods
    assert grants.verdict("action.follow").rule == (
        "needs action.run as well, which is denied by 'action.run' in policy.roles.operator.deny"
    )


def test_starting_many_needs_the_right_to_start_one() -> None:
    grants = of(Role(methods={"batch.spawn": "any"}))

    assert "batch.spawn" not in grants.methods
    assert "needs agent.spawn as well" in grants.verdict("batch.spawn").rule


def test_credit_comes_with_streams_unless_it_is_denied() -> None:
    assert of(Role(methods={"agent.follow": "own"})).methods["stream.credit"] == "any"
    assert "stream.credit" not in of(Role(methods={"agent.get": "own"})).methods
    denied = of(Role(methods={"agent.follow": "own"}, deny=("stream.credit",)))
    assert "stream.credit" not in denied.methods


def test_the_loosest_quota_counts_and_none_is_the_loosest() -> None:
    grants = of(
        Role(quotas=Quotas(agents=2, streams=1, queued=0)),
        Role(quotas=Quotas(agents=5, queued=0)),
    )

    assert grants.quotas == Quotas(agents=5, streams=None, queued=0)


def test_an_administrator_has_no_quota_whatever_else_it_is() -> None:
    admin = NamedRole("admin", Role(), rank=2)

    assert grants_of([admin, NamedRole("x", Role(quotas=Quotas(agents=1)))]).quotas == Quotas()


@pytest.mark.parametrize("role", ROLES)
def test_built_in_roles_act_on_everybodys_agents(role: str) -> None:
    assert set(BUILTIN[role].methods.values()) == {"any"}
    assert BUILTIN[role].sees == "any"


def test_every_method_has_a_verdict_for_every_role() -> None:
    roles = Roles({"none": Role()})

    for name in roles.names:
        grants = roles.grants((name,))
        assert all(grants.verdict(method).rule for method in METHODS)


def test_undefined_roles_are_left_out_and_the_greatest_comes_first() -> None:
    roles = Roles({"ci": Role()})

    assert roles.defined(("gone", "ci", "observer", "operator", "ci")) == (
        "operator",
        "observer",
        "ci",
    )
    assert roles.grants(("ci",)) is roles.grants(("ci",))


@pytest.mark.parametrize("grants", [Grants({"cert.enroll": "any"})], ids=["enrolling"])
def test_who_is_being_taken_in_has_verdicts_too(grants: Grants) -> None:
    assert grants.verdict("cert.enroll").scope == "any"
    assert grants.verdict("agent.get").scope is None
