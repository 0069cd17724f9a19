"""Specs: what no type can refuse, and what becomes of one for the keeper."""

from __future__ import annotations

import dataclasses
import os
import pwd
import signal
from typing import Any

import pytest

from descartesd.agents.accounts import account_for
from descartesd.agents.backend import Backends
from descartesd.agents.spec import Given, RunnerDefaults, check, launch_fields, signal_number
from descartesd.api import Backend
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentSpec, Limits, Signal, StopSpec, Tty

DEFAULTS = RunnerDefaults(
    working_dir=None, path=("~/.local/bin", "/usr/bin"), output_bytes=1_000_000
)
HOME = pwd.getpwuid(os.getuid()).pw_dir


def spec(*command: str, **fields: Any) -> AgentSpec:
    return AgentSpec(command=list(command) or ["true"], **fields)


def fields_of(wanted: AgentSpec, defaults: RunnerDefaults = DEFAULTS) -> dict[str, Any]:
    return launch_fields(wanted, "0" * 20, "worker", defaults, Given())


@pytest.mark.parametrize(
    "good",
    [
        spec("sh", "-c", ""),
        spec("true", cwd="/"),
        spec("true", env={"PATH": "/bin", "EMPTY": ""}),
        spec("true", stop=StopSpec(signal="usr1")),
        spec("é" * 1000),
    ],
)
def test_good_spec_passes(good: AgentSpec) -> None:
    check(good, Backends())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spec("", "x"), "spec.command[0]: the program's name is empty"),
        (spec("a", "b\0c"), "spec.command[1]: a NUL character"),
        (spec("a", env={"A": "b\0c"}), "spec.env.A: a NUL character"),
        (spec("a", env={"API_KEY": "***"}), "spec.env.API_KEY: '***' stands for a value"),
        (spec("a", env={"DESCARTES_AGENT_ID": "x"}), "spec.env.DESCARTES_AGENT_ID: this name"),
        (spec("a", env={"DESCARTES_AGENT_NAME": "x"}), "spec.env.DESCARTES_AGENT_NAME: this name"),
        (spec("a", cwd="relative/dir"), "spec.cwd: 'relative/dir' is not an absolute path"),
        (spec("a", cwd="/a\0b"), "spec.cwd: a NUL character"),
        (spec("a", tty=Tty(), events=True), "spec.tty and spec.events: what a program writes"),
        (spec("a", stop=StopSpec(signal="NOPE")), "spec.stop.signal: 'NOPE' is no signal"),
        (spec("a", *["x" * 131_000] * 17), "spec: command and env have 2227001 characters"),
    ],
)
def test_bad_spec_is_refused_naming_the_field(bad: AgentSpec, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check(bad, Backends())

    assert caught.value.message.startswith(message)


def test_refusal_shows_no_value_of_the_environment() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check(spec("a", env={"TOKEN": "secret\0"}), Backends())

    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("15", 15), (15, 15), ("usr1", 10),
        ("RTMIN", int(signal.SIGRTMIN)), ("64", 64),
    ],
)  # fmt: skip
def test_signal_is_known_by_name_or_number(given: Signal, number: int) -> None:
    assert signal_number(given) == number


@pytest.mark.parametrize("given", ["0", "65", "TERMINATE", "SIG", "-9", "SIGSIGTERM"])
def test_anything_else_is_no_signal(given: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is no signal"):
        signal_number(given)


def test_environment_is_the_agents_own_and_complete() -> None:
    account = pwd.getpwuid(os.getuid())

    fields = fields_of(spec("true", env={"LANG": "de_DE.UTF-8", "MINE": "1"}))

    assert {**fields["env"], **fields.get("env_over", {})} == {
        "HOME": HOME,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "LANG": "de_DE.UTF-8",
        "PATH": f"{HOME}/.local/bin:/usr/bin",
        "MINE": "1",
        "DESCARTES_AGENT_ID": "0" * 20,
        "DESCARTES_AGENT_NAME": "worker",
    }


def test_program_is_sought_where_the_agent_itself_would() -> None:
    assert fields_of(spec())["path"] == [f"{HOME}/.local/bin", "/usr/bin"]
    assert fields_of(spec("x", env={"PATH": "/opt/a:/opt/b"}))["path"] == ["/opt/a", "/opt/b"]


@pytest.mark.parametrize(
    ("own", "default", "wanted"),
    [("/own", "/default", "/own"), (None, "/default", "/default"), (None, None, HOME)],
)
def test_cwd_is_the_specs_the_configured_or_home(
    own: str | None, default: str | None, wanted: str
) -> None:
    defaults = RunnerDefaults(working_dir=default, path=(), output_bytes=1)

    assert fields_of(spec("true", cwd=own), defaults)["cwd"] == wanted


def test_limits_and_stop_are_passed_on() -> None:
    plain = fields_of(spec())
    own = fields_of(
        spec(
            "true",
            stdin="pipe",
            limits=Limits(open_files=99, output_bytes=70_000),
            stop=StopSpec(signal="INT", grace_s=2.5),
        )
    )

    assert (plain["stdin"], plain["output_bytes"]) == ("null", 1_000_000)
    assert plain["stop"] == {"signal": 15, "grace_s": 10.0}
    assert "rlimits" not in plain
    assert (own["stdin"], own["output_bytes"], own["rlimits"]) == ("pipe", 70_000, {"nofile": 99})
    assert own["stop"] == {"signal": 2, "grace_s": 2.5}


def test_what_the_keeper_enforces_is_told_to_it() -> None:
    limits = Limits(
        memory_bytes=1 << 30, cpu_percent=50, run_seconds=60, tokens=5, best_effort=True
    )

    assert "limits" not in fields_of(spec())
    assert fields_of(spec(limits=limits))["limits"] == {
        "memory_bytes": 1 << 30,
        "cpu_percent": 50,
        "run_seconds": 60,
        "best_effort": True,
    }


def test_agent_of_a_backend_gets_a_private_directory_unless_it_names_one() -> None:
    coder = Backend(name="coder", start=("coder", "--", "{task}"))
    defaults = dataclasses.replace(DEFAULTS, backends=Backends([coder]))
    tidies = AgentSpec(backend="coder", task="tidy up")
    elsewhere = AgentSpec(backend="coder", task="tidy up", env={"TMPDIR": "/var/tmp"})
    assert fields_of(tidies, defaults)["private_tmp"] is True
    assert fields_of(elsewhere, defaults)["private_tmp"] is False
    assert fields_of(spec())["private_tmp"] is False


@pytest.mark.skipif(os.getuid() != 0, reason="only root may start agents as others")
def test_agent_of_another_user_has_that_users_home_and_name() -> None:
    nobody = account_for("nobody", "uid:0")
    fields = launch_fields(spec(), "0" * 20, "worker", DEFAULTS, Given(account=nobody))

    assert fields["user"]["uid"] == nobody.pw_uid
    assert fields["private_tmp"] is True
    assert fields["cwd"] == fields["env"]["HOME"] == nobody.pw_dir
    assert fields["env"]["USER"] == fields["env"]["LOGNAME"] == "nobody"
    assert fields["path"][0] == f"{nobody.pw_dir}/.local/bin"
    assert "user" not in fields_of(spec())
