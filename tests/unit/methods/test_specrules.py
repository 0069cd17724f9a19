"""What a role allows of a spec, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from descartesd.agents.bounds import Bounds
from descartesd.config.role import Role
from descartesd.errors import PermissionDeniedError
from descartesd.methods.grants import BUILTIN, Grants, NamedRole, grants_of
from descartesd.methods.specrules import check_spec
from descartesd.wire.agent import AgentSpec

SPAWN = "agent.spawn"
METHODS: Any = {SPAWN: "own"}


def of(**lists: Any) -> Grants:
    return grants_of([NamedRole("r", Role(methods=METHODS, **lists))])


def refused(grants: Grants, **spec: Any) -> str:
    with pytest.raises(PermissionDeniedError) as caught:
        check_spec(grants, SPAWN, AgentSpec(**spec))
    return caught.value.message


@pytest.mark.parametrize(
    ("patterns", "program"),
    [
        (("git",), "git"),
        (("g*",), "git"),
        (("/usr/bin/*",), "/usr/bin/git"),
        (("/opt/*/bin/run",), "/opt/x/bin/run"),
        (("**",), "/any/../thing"),
        (("./run",), "./run"),
    ],
)
def test_a_program_that_is_listed_is_allowed(patterns: tuple[str, ...], program: str) -> None:
    assert check_spec(of(commands=patterns), SPAWN, AgentSpec(command=[program])) == Bounds()


@pytest.mark.parametrize(
    ("patterns", "program"),
    [
        ((), "git"),
        (("git",), "/usr/bin/git"),
        (("git",), "./git"),
        (("*",), "/bin/sh"),
        (("/usr/bin/*",), "/usr/bin/x/evil"),
        (("/usr/bin/*",), "/usr/bin/.."),
        (("/*/*/*",), "/usr/../evil"),
        (("/usr/bin/*",), "/usr//bin"),
        (("/usr/*/git",), "/usr/./git"),
        (("/usr/bin/git",), "/usr/bin/GIT"),
        (("*/run",), "./run"),
    ],
)
def test_any_other_program_is_denied(patterns: tuple[str, ...], program: str) -> None:
    message = refused(of(commands=patterns), command=[program])

    assert message == f"spec.command[0]: '{program}' is not listed in policy.roles.r.commands"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"backend": "claude"}, "spec.backend: 'claude' is not listed in policy.roles.r.backends"),
        ({"user": "nobody"}, "spec.user: 'nobody' is not listed"),
        ({"cwd": "/srv"}, "spec.cwd: '/srv' is not below a directory listed"),
        ({"env": {"LD_PRELOAD": "x"}}, "spec.env: 'LD_PRELOAD' is not listed"),
        ({"env": {"PATH": "/tmp"}}, "spec.env: 'PATH' is not listed"),
        ({"secret_env": ["TOKEN"]}, "spec.secret_env: 'TOKEN' is not listed"),
        ({"env_file": "/srv/env"}, "spec.env_file: it may set any variable"),
        ({"extra_args": ["--x"]}, "spec.extra_args[0]: it is not listed"),
    ],
)
def test_what_no_list_has_is_denied_by_its_field(spec: dict[str, Any], message: str) -> None:
    program = {} if "backend" in spec else {"command": ["git"]}

    assert message in refused(of(commands=("git",)), **program, **spec)


def test_what_the_lists_have_is_allowed() -> None:
    grants = of(
        backends=("cl*",), cwd=("/srv",), env=("CI_*", "*"), extra_args=("--fast",), users=("no*",)
    )
    spec = AgentSpec(
        backend="claude",
        cwd="/srv/x/../y",
        env={"CI_JOB": "1"},
        secret_env=["ANY"],
        env_file="/srv/env",
        extra_args=["--fast"],
        user="nobody",
    )

    assert check_spec(grants, SPAWN, spec) == Bounds(cwd=("/srv",))


@pytest.mark.parametrize("cwd", ["/srvx", "/srv/../etc", "/"])
def test_a_directory_beside_the_listed_one_is_denied(cwd: str) -> None:
    assert "spec.cwd" in refused(of(commands=("**",), cwd=("/srv",)), command=["x"], cwd=cwd)


@pytest.mark.parametrize("user", ["root", "0", "00"])
def test_root_is_handed_out_by_its_name_only(user: str) -> None:
    spec = AgentSpec(command=["x"], user=user)

    assert "spec.user" in refused(of(commands=("**",), users=("*",)), command=["x"], user=user)
    assert check_spec(of(commands=("**",), users=("root",)), SPAWN, spec) is not None


def test_roles_do_not_add_up_to_what_none_of_them_allows() -> None:
    one = NamedRole("one", Role(methods=METHODS, commands=("a",), cwd=("/a",)))
    two = NamedRole("two", Role(methods=METHODS, commands=("b",), cwd=("/b",)))
    grants = grants_of([one, two])

    assert check_spec(grants, SPAWN, AgentSpec(command=["b"], cwd="/b")) == Bounds(cwd=("/b",))
    assert "spec.cwd" in refused(grants, command=["a"], cwd="/b")


def test_a_built_in_role_allows_every_spec() -> None:
    assert check_spec(BUILTIN["operator"], SPAWN, AgentSpec(command=["x"], user="root")) is None


def test_a_role_that_does_not_grant_the_method_allows_nothing_by_its_lists() -> None:
    starter = NamedRole("starter", Role(methods=METHODS, commands=("a",)))
    other = NamedRole("other", Role(commands=("**",)))

    assert "spec.command[0]" in refused(grants_of([starter, other]), command=["b"])
