"""A configuration is loaded completely or refused with everything that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.config.load import load_config, resolved
from descartesd.config.schema import Config
from descartesd.errors import StartupRefusedError


def write(directory: Path, text: str, name: str = "descartesd.toml") -> str:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def faults(path: str | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(StartupRefusedError) as caught:
        load_config(path, environ=environ or {})
    assert caught.value.exit_status == 78
    assert caught.value.details is not None
    assert caught.value.message == "\n".join(caught.value.details["faults"])
    return list(caught.value.details["faults"])


def test_an_empty_file_is_the_defaults_with_paths_beside_it(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""), environ={})

    assert config == resolved(Config(), str(tmp_path))
    assert config.server.local_socket == f"{tmp_path}/run/control.sock"
    assert config.server.public_key_file == f"{tmp_path}/run/server.pub"
    assert config.server.trust_dir == f"{tmp_path}/state/trust"
    assert config.server.host_key_file == f"{tmp_path}/keys/host.key"
    assert config.server.authority_key_file == f"{tmp_path}/keys/authority.key"
    assert config.server.run_dir == f"{tmp_path}/run"
    assert config.server.server_id
    assert config.server.max_agents == 100


def test_paths_are_relative_to_the_file_and_not_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    text = '[server]\nstate_dir = "../var"\nkeys_dir = "/k"\n[server.runner]\nworking_dir = "w"\n'
    write(tmp_path / "etc", text)
    monkeypatch.chdir(tmp_path)

    server = load_config("etc/descartesd.toml", environ={}).server

    assert server.state_dir == f"{tmp_path}/var"
    assert server.keys_dir == "/k"
    assert server.runner.working_dir == f"{tmp_path}/etc/w"


def test_every_fault_of_every_layer_is_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[server]\nmax_agnts = 5\nmax_agents = "lots"\nlocal_socket = "@format {env[HOME]}"\n'
        "[network]\nsend_hwm = 0\n"
        "[environments.staging]\nmax_agents = -1\n",
    )

    bounds = "max_agents: expected an integer from 1 to 1000000"
    choices = "expected one of 'trace', 'debug', 'info', 'warn', 'error'"
    assert faults(path, {"DESCARTES_LOG_LEVEL": "loud", "DESCARTES_SERVER__X": "1"}) == [
        "descartesd.toml: server.max_agnts: unknown key (did you mean 'max_agents'?)",
        "descartesd.toml: server.max_agents: expected an integer, got 'lots'",
        "descartesd.toml: server.local_socket: expected a value that does not begin with '@'",
        "descartesd.toml: network.send_hwm: expected an integer from 1 to 1000000, got 0",
        f"descartesd.toml: environments.staging.{bounds}, got -1",
        f"DESCARTES_LOG_LEVEL: monitoring.log_level: {choices}, got 'loud'",
        "DESCARTES_SERVER__X: server.x: unknown key",
    ]


def test_lists_replace_and_tables_merge(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[server.runner]\npath = ["/a", "/b"]\n'
        '[policy.local_groups]\nStaff = "admin"\nstaff = "observer"\n'
        '[environments.production.server.runner]\npath = ["/c"]\n'
        '[environments.production.policy.local_groups]\nstaff = "operator"\n',
    )

    config = load_config(path, environ={"DESCARTES_POLICY__LOCAL_GROUPS__Dev": "admin"})

    assert config.server.runner.path == ("/c",)
    assert config.policy.local_groups == {"Staff": "admin", "staff": "operator", "Dev": "admin"}


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("false", False)])
def test_a_variable_switches_on_and_off(tmp_path: Path, text: str, expected: bool) -> None:
    name = "DESCARTES_SERVER__ENABLE_STATUS_UPDATES"

    config = load_config(write(tmp_path, ""), environ={name: text})

    assert config.server.enable_status_updates is expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 200),
        ({"DESCARTES_ENV": ""}, 200),
        ({"DESCARTES_ENV": "staging"}, 50),
        ({"DESCARTES_ENV": "x"}, 5),
    ],
)
def test_the_environment_is_chosen_by_name_and_production_when_unset(
    tmp_path: Path, environment: dict[str, str], expected: int
) -> None:
    path = write(
        tmp_path,
        "[server]\nmax_agents = 5\n"
        "[environments.production]\nmax_agents = 200\n[environments.staging]\nmax_agents = 50\n",
    )

    assert load_config(path, environ=environment).server.max_agents == expected


@settings(database=None, max_examples=24, deadline=None)
@given(st.sets(st.sampled_from(["file", "environment", "alias", "variable", "flag"])))
def test_the_later_layer_wins(present: set[str]) -> None:
    values = {"file": 2, "environment": 3, "alias": 4, "variable": 5, "flag": 6}
    lines = {
        "file": "[server]\nmax_agents = 2\n",
        "environment": "[environments.production]\nmax_agents = 3\n",
    }
    environ = {
        "alias": ("DESCARTES_MAX_AGENTS", "4"),
        "variable": ("DESCARTES_SERVER__MAX_AGENTS", "5"),
    }

    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), "".join(lines[each] for each in lines if each in present))
        config = load_config(
            path,
            environ=dict(environ[each] for each in environ if each in present),
            flags={"server.max_agents": "6"} if "flag" in present else {},
        )

    assert config.server.max_agents == max([values[each] for each in present], default=100)


def test_the_file_is_named_by_the_environment_when_not_given(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nmax_agents = 9\n", "other name.conf")

    assert load_config(environ={"DESCARTES_CONFIG_FILE": path}).server.max_agents == 9


def test_no_file_named_is_refused_with_the_next_step() -> None:
    with pytest.raises(StartupRefusedError, match="DESCARTES_CONFIG_FILE") as caught:
        load_config(environ={"DESCARTES_CONFIG_FILE": ""})

    assert caught.value.hint is not None
    assert "descartesd init" in caught.value.hint


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StartupRefusedError, match="No such file or directory"):
        load_config(str(tmp_path / "none.toml"), environ={})
    with pytest.raises(StartupRefusedError, match="Is a directory"):
        load_config(str(tmp_path), environ={})


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(StartupRefusedError, match=r"is not valid TOML: .*line 2"):
        load_config(write(tmp_path, "[server]\nmax_agents =\n"), environ={})

    (tmp_path / "latin.toml").write_bytes(b'[server]\nserver_id = "caf\xe9"\n')
    with pytest.raises(StartupRefusedError, match="not valid UTF-8"):
        load_config(str(tmp_path / "latin.toml"), environ={})


def test_a_socket_path_over_the_kernel_s_limit_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    path = write(deep, "")

    (fault,) = faults(path)
    assert fault.startswith("descartesd.toml: server.local_socket: ")
    assert "at most 107" in fault
    short = {"DESCARTES_SERVER__LOCAL_SOCKET": "/tmp/x.sock"}
    assert load_config(path, environ=short).server.local_socket == "/tmp/x.sock"
    long = {"DESCARTES_SERVER__LOCAL_SOCKET": "/" + "x" * 107}
    assert faults(path, long)[0].startswith("DESCARTES_SERVER__LOCAL_SOCKET: server.local_socket:")


def test_nothing_but_the_file_and_our_variables_is_taken_in(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nmax_agents = 5\n")
    write(tmp_path, "[server]\nmax_agents = 6\n", "descartesd.local.toml")
    write(tmp_path, "[server]\nmax_agents = 7\n", ".secrets.toml")
    write(tmp_path, "DESCARTES_MAX_AGENTS=8\nDYNACONF_SERVER__MAX_AGENTS=8\n", ".env")
    evil = write(tmp_path, "raise SystemExit(9)\n", "evil.py")
    environ = {
        **os.environ,
        "DYNACONF_SERVER__MAX_AGENTS": "9",
        "SETTINGS_FILE_FOR_DYNACONF": evil,
        "PRELOAD_FOR_DYNACONF": evil,
        "INCLUDES_FOR_DYNACONF": evil,
        "MERGE_ENABLED_FOR_DYNACONF": "true",
        "DESCARTES_PROFILE": "@jinja {{ 1 }}",
        "DESCARTES_AGENT_ID": "@format {env[HOME]}",
    }
    code = (
        "import os; from descartesd.config.load import load_config\n"
        f"print(load_config({path!r}, environ=os.environ).server.max_agents)"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("5\n", "")


def test_dynaconf_is_imported_only_when_a_configuration_is_loaded() -> None:
    code = "import sys, descartesd.config.load; print('dynaconf' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("build-7.example.org", "build-7.example.org"),
        ("-x y-", "x-y"),
        ("...", "localhost"),
        ("h" * 64, "h" * 63),
    ],
)
def test_a_server_without_a_name_is_named_after_its_host(
    monkeypatch: pytest.MonkeyPatch, host: str, expected: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)

    assert resolved(Config(), "/d").server.server_id == expected
