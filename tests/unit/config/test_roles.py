"""Roles of a server's own are read whole, or refused with what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.config.load import load_config
from descartesd.config.role import Quotas, Role
from descartesd.errors import StartupRefusedError

WHOLE = """
[policy.local_uids]
1000 = "ci"

[policy.roles.ci]
deny = ["cert.*"]
backends = ["claude"]
commands = ["git", "/usr/bin/*"]
users = ["build"]
cwd = ["/srv/ci"]
env = ["CI_*"]
extra_args = ["--fast"]
actions = ["ping"]
quotas = { agents = 3, queued = 0 }

[policy.roles.ci.methods]
"agent.*" = "own"
"server.hello" = "any"
"""


def write(directory: Path, text: str) -> str:
    path = directory / "descartesd.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_role_is_read_with_everything_it_lists(tmp_path: Path) -> None:
    policy = load_config(write(tmp_path, WHOLE), environ={}).policy

    assert policy.local_uids == {"1000": "ci"}
    assert policy.roles["ci"] == Role(
        methods={"agent.*": "own", "server.hello": "any"},
        deny=("cert.*",),
        backends=("claude",),
        commands=("git", "/usr/bin/*"),
        users=("build",),
        cwd=("/srv/ci",),
        env=("CI_*",),
        extra_args=("--fast",),
        actions=("ping",),
        quotas=Quotas(agents=3, queued=0),
    )


def test_a_role_that_lists_nothing_allows_and_limits_nothing(tmp_path: Path) -> None:
    policy = load_config(write(tmp_path, "[policy.roles.idle]\n"), environ={}).policy

    assert policy.roles["idle"] == Role()
    assert policy.roles["idle"].quotas == Quotas()


def test_a_single_quota_is_set_from_the_environment(tmp_path: Path) -> None:
    environ = {"DESCARTES_POLICY__ROLES__ci__quotas__agents": "5"}

    policy = load_config(write(tmp_path, WHOLE), environ=environ).policy

    assert policy.roles["ci"].quotas == Quotas(agents=5, queued=0)
    assert policy.roles["ci"].backends == ("claude",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[policy.local_uids]\n7 = "cj"\n', "local_uids.7: no role 'cj', there are observer,"),
        ('[policy.local_groups]\nx = "cj"\n', "local_groups.x: no role 'cj', there are observer,"),
        ('[policy.roles.a.methods]\n"agent.lits" = "own"\n', "did you mean 'agent.list'?"),
        ("[policy.roles.a.methods]\nagent.list = 1\n", 'in quotes: "agent.get", "agent.*", got'),
        ('[policy.roles.a.methods]\n"agent.get" = "mine"\n', "expected one of 'own', 'any'"),
        ('[policy.roles.a]\ndeny = ["no.*"]\n', "policy.roles.a.deny: no method is 'no.*'"),
        ('[policy.roles.a]\ncwd = ["srv"]\n', "policy.roles.a.cwd: expected absolute paths"),
        ('[policy.roles.a]\ncwd = ["/srv/.."]\n', "policy.roles.a.cwd: expected absolute paths"),
        ('[policy.roles.a]\nuser = ["x"]\n', "policy.roles.a.user: unknown key (did you mean"),
        ('[policy.roles.A]\ncwd = ["/"]\n', "policy.roles.A: expected a lower-case letter"),
        ("[policy.roles.a.quotas]\nagents = 0\n", "quotas.agents: expected an integer from 1"),
        ("[policy.roles.a.quotas]\nagent = 1\n", "quotas.agent: unknown key (did you mean"),
        ('[policy.roles.operator]\nenv = ["*"]\n', "operator.env: 'operator' is a built-in role"),
        ("[policy.roles.admin.quotas]\nagents = 1\n", "admin.quotas: administrators are never"),
    ],
)
def test_what_is_wrong_with_a_role_is_told(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(StartupRefusedError) as caught:
        load_config(write(tmp_path, text), environ={})

    assert fault in caught.value.message


def test_quotas_and_denials_of_built_in_roles_may_be_set(tmp_path: Path) -> None:
    text = '[policy.roles.operator]\ndeny = ["agent.kill"]\nquotas = { agents = 2 }\n'

    policy = load_config(write(tmp_path, text), environ={}).policy

    assert policy.roles["operator"] == Role(deny=("agent.kill",), quotas=Quotas(agents=2))
