"""Where settings come from, and that nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest

from descartesd.config.layers import ALIASES, environ_layers, file_layers, flag_layers


def settings_of(environ: dict[str, str]) -> dict[str, Any]:
    layers = environ_layers(environ)

    assert [fault for layer in layers for fault in layer.faults] == []
    return {key: value for layer in layers for key, value in layer.values.items()}


def faults_of(environ: dict[str, str]) -> list[str]:
    return [fault for layer in environ_layers(environ) for fault in layer.faults]


def test_variables_without_a_section_are_not_configuration() -> None:
    others = ("PROFILE", "ENV", "AGENT_ID", "CONFIG_FILE", "AGENT_NAME")

    assert environ_layers({f"DESCARTES_{name}": "@format x" for name in others}) == []
    assert environ_layers({"PATH": "/bin", "X__Y": "1", "descartes_server__max_agents": "1"}) == []


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("DESCARTES_SERVER__MAX_AGENTS", "77", "server.max_agents", 77),
        ("DESCARTES_server__max_agents", "77", "server.max_agents", 77),
        ("DESCARTES_SERVER__SERVER_ID", "007", "server.server_id", "007"),
        ("DESCARTES_SERVER__RUNNER__WORKING_DIR", "/srv", "server.runner.working_dir", "/srv"),
        ("DESCARTES_SERVER__RUNNER__PATH", '["/a", "/b"]', "server.runner.path", ["/a", "/b"]),
        (
            "DESCARTES_POLICY__LOCAL_UIDS__1000",
            "operator",
            "policy.local_uids",
            {"1000": "operator"},
        ),
        (
            "DESCARTES_POLICY__LOCAL_GROUPS__Dev__Ops",
            "admin",
            "policy.local_groups",
            {"Dev__Ops": "admin"},
        ),
        ("DESCARTES_SERVER_ENDPOINT", "tcp://[::]:1", "server.endpoint", "tcp://[::]:1"),
        ("DESCARTES_MAX_AGENTS", "3", "server.max_agents", 3),
        ("DESCARTES_LOG_LEVEL", "warn", "monitoring.log_level", "warn"),
    ],
)
def test_a_variable_sets_a_key_with_the_key_s_type(
    name: str, text: str, key: str, value: object
) -> None:
    assert settings_of({name: text}) == {key: value}


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("DESCARTES_MAX_AGENTS", "lots", "server.max_agents: expected an integer, got 'lots'"),
        (
            "DESCARTES_MAX_AGENTS",
            "9" * 30,
            f"server.max_agents: expected an integer, got '{'9' * 30}'",
        ),
        (
            "DESCARTES_SERVER__MAX_AGNTS",
            "1",
            "server.max_agnts: unknown key (did you mean 'server.max_agents'?)",
        ),
        ("DESCARTES_SERVER__RUNNER__PATH", "/bin:/usr/bin", "server.runner.path: expected a list"),
        ("DESCARTES_FOO__BAR", "x", "foo.bar: unknown key"),
        ("DESCARTES_SERVER__", "x", "server.: unknown key"),
        (
            "DESCARTES_PLUGINS__HOOK_TIMEOUT_S",
            "soon",
            "plugins.hook_timeout_s: expected a number, got 'soon'",
        ),
        ("DESCARTES_POLICY__LOCAL_UIDS", "x", "policy.local_uids: expected a table, got 'x'"),
        ("DESCARTES_POLICY__LOCAL_UIDS__ann", "admin", "policy.local_uids.ann: expected a uid"),
        ("DESCARTES_POLICY__LOCAL_UIDS__7", "@int 3", "policy.local_uids.7: expected a value that"),
        (
            "DESCARTES_SERVER__STATE_DIR",
            "@format {env[HOME]}",
            "server.state_dir: expected a value that",
        ),
    ],
)
def test_a_wrong_variable_is_named_with_its_key(name: str, text: str, fault: str) -> None:
    (found,) = faults_of({name: text})

    assert found.startswith(f"{name}: {fault}")


def test_the_value_of_an_unknown_variable_is_not_repeated() -> None:
    (fault,) = faults_of({"DESCARTES_VAULT__TOKEN": "s3cret"})

    assert "s3cret" not in fault


def test_a_section_variable_is_later_than_the_short_name() -> None:
    layers = environ_layers({"DESCARTES_SERVER__MAX_AGENTS": "2", "DESCARTES_MAX_AGENTS": "1"})

    assert [layer.values["server.max_agents"] for layer in layers] == [1, 2]


def test_every_short_name_means_a_known_key() -> None:
    assert faults_of(dict.fromkeys(ALIASES, "")) != []
    assert not any("unknown" in fault for fault in faults_of(dict.fromkeys(ALIASES, "")))


def test_the_command_line_names_dotted_keys() -> None:
    layers = flag_layers({"server.endpoint": "tcp://h:1", "policy.local_uids.5": "admin", "x": "1"})

    assert layers[0].values == {"server.endpoint": "tcp://h:1"}
    assert layers[1].values == {"policy.local_uids": {"5": "admin"}}
    assert layers[2].faults == ["command line: x: unknown key"]


def test_a_file_yields_its_settings_and_those_of_the_chosen_environment() -> None:
    table = {
        "server": {"max_agents": 5, "runner": {"path": ["/a"]}},
        "environments": {
            "production": {"max_agents": 6, "log_level": "warn", "network": {"send_hwm": 2}},
            "staging": {"max_agents": 7},
        },
    }

    base, chosen = file_layers(table, "d.toml", "production")

    assert base.values == {"server.max_agents": 5, "server.runner.path": ["/a"]}
    assert chosen.values == {
        "server.max_agents": 6,
        "monitoring.log_level": "warn",
        "network.send_hwm": 2,
    }


def test_an_environment_that_is_not_there_changes_nothing() -> None:
    (base,) = file_layers({"server": {"max_agents": 5}}, "d.toml", "production")

    assert base.values == {"server.max_agents": 5}


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"server": 5}, "server: expected a table, got 5"),
        ({"server": {"runner": []}}, "server.runner: expected a table, got []"),
        (
            {"server": {"max_agnts": 5}},
            "server.max_agnts: unknown key (did you mean 'max_agents'?)",
        ),
        ({"sever": {}}, "sever: unknown key (did you mean 'server'?)"),
        ({"enviroments": {}}, "enviroments: unknown key (did you mean 'environments'?)"),
        ({"max_agents": 5}, "max_agents: unknown key (did you mean 'server.max_agents'?)"),
        ({"server.max_agents": 5}, "server.max_agents: unknown key"),
        ({"Server": {}}, "Server: unknown key (did you mean 'server'?)"),
        ({"dynaconf_include": ["/x.py"]}, "dynaconf_include: unknown key"),
        ({"plugins": {"enabled": ["A"]}}, "plugins.enabled: expected a list of names"),
        ({"plugins": {"enable": []}}, "plugins.enable: unknown key (did you mean 'enabled'?)"),
        ({"plugins": {"hook_timeout_s": 0}}, "plugins.hook_timeout_s: expected a number from"),
        ({"environments": 5}, "environments: expected a table, got 5"),
        ({"environments": {"x": 5}}, "environments.x: expected a table, got 5"),
        (
            {"environments": {"x": {"max_agents": 0}}},
            "environments.x.max_agents: expected an integer from",
        ),
        (
            {"environments": {"x": {"max_agnts": 1}}},
            "environments.x.max_agnts: unknown key (did you mean 'max_agents'?)",
        ),
        ({"environments": {"x": {"server": {"y": 1}}}}, "environments.x.server.y: unknown key"),
        (
            {"environments": {"x": {"policy": {"local_uids": {"a": "admin"}}}}},
            "environments.x.policy.local_uids.a: expected a uid",
        ),
        (
            {"policy": {"local_uids": {"1": "Root"}}},
            "policy.local_uids.1: expected a role's name, got 'Root'",
        ),
        (
            {"policy": {"local_groups": {"wheel": "@x"}}},
            "policy.local_groups.wheel: expected a value that does not",
        ),
        (
            {"policy": {"local_groups": "wheel"}},
            "policy.local_groups: expected a table, got 'wheel'",
        ),
    ],
)
def test_a_fault_of_the_file_is_named_with_its_key(table: dict[str, Any], fault: str) -> None:
    layers = file_layers(table, "d.toml", "production")

    (found,) = [each for layer in layers for each in layer.faults]
    assert found.startswith(f"d.toml: {fault}")
