from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from descartesd.ctl import main
from descartesd.init import init_directory

# What costs start-up time and no ordinary command needs.
HEAVY = {"asyncio", "nacl", "dynaconf", "pluggy", "rich", "sqlite3", "descartesd.init"}


def run(*words: str) -> int:
    return main.run(list(words))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DESCARTES_PROFILE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["agnt", "list"], "unknown noun 'agnt'", "did you mean 'agent'"),
        (["agent", "lst"], "unknown verb 'lst'", "did you mean 'list'"),
        (["zzz"], "unknown noun 'zzz'", "see: descartesctl --help"),
        (["server", "zzz"], "unknown verb 'zzz'", "see: descartesctl server --help"),
        (["agent", "chat", "x"], "unknown verb 'chat'", "see: descartesctl agent --help"),
        (["--josn", "ps"], "unknown option '--josn' in front of the noun", None),
        (["agent", "--state=x", "list"], "unknown option '--state' in front of the verb", None),
        (["agent", "spawn"], "the agent's command is missing", None),
        (["agent", "spawn", "--"], "the agent's command is missing", None),
        (["agent", "write", "a"], "nothing to write: expected TEXT, '-' or --eof", None),
        (
            ["agent", "list", "--state", "runing"],
            "there is no state 'runing'",
            "did you mean 'running'",
        ),
        (["help", "exit-code"], "there is no topic 'exit-code'", "did you mean 'exit-codes'"),
        (["agent", "show", "\udcff"], "an argument is not valid UTF-8", None),
        (["agent", "spawn", "--cwd", "x", "--", "y"], "no server is known here", None),
    ],
)
def test_usage_error_is_told_with_a_way_out(
    words: list[str], error: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[-1] == "\udcff":
        Path("p.toml").write_text('endpoints = ["ipc:///nowhere/x/control.sock"]\n')
        words = ["--profile", "./p.toml", *words]

    status = run(*words)

    out, err = capsys.readouterr()
    first, *others = err.splitlines()
    assert out == ""
    assert first.startswith(f"error: {error}")
    assert hint is None or others == [f"hint: {hint}"]
    assert status == (5 if error.startswith("no server") else 2)


def test_missing_noun_and_verb_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert run("--json") == 2
    assert run("cert") == 2

    assert "error: a verb is missing: expected issue" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "agent", "write", "a"],
        ["agent", "--json", "write", "a"],
        ["agent", "write", "--json", "a"],
        ["agent", "write", "a", "--json"],
    ],
)
def test_global_option_may_stand_anywhere(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(*words)

    out, err = capsys.readouterr()
    assert out == ""
    assert status == 2
    assert json.loads(err)["error"] == {
        "code": "invalid_argument",
        "message": "nothing to write: expected TEXT, '-' or --eof",
        "retryable": False,
    }


@pytest.mark.parametrize(
    "words", [["--profile", "x/p", "agent", "list"], ["agent", "list", "--profile=x/p"]]
)
def test_value_of_a_global_option_is_not_taken_for_a_noun(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 3

    assert capsys.readouterr().err.startswith("error: there is no profile 'x/p'")


def test_json_behind_the_dashes_is_the_agents_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("agent", "spawn", "--cwd", "x", "--", "echo", "--json") == 5

    assert capsys.readouterr().err.startswith("error: no server is known here")


def test_unknown_server_is_told_with_the_command_that_starts_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("agent", "list") == 5

    assert "descartesd --config" in capsys.readouterr().err


def test_helps_are_data_and_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--help"],
        ["agent", "--help"],
        ["agent", "spawn", "-h"],
        ["help"],
        ["ps", "--help"],
    ):
        assert run(*words) == 0
        out, err = capsys.readouterr()
        assert "examples:" in out
        assert err == ""


def test_exit_codes_have_a_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "exit-codes") == 0

    lines = capsys.readouterr().out.splitlines()
    assert "4    unauthenticated, permission_denied" in lines
    assert "130  interrupted" in lines


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version  # noqa: PLC0415

    assert run("--version") == 0
    assert capsys.readouterr().out == f"descartesctl {version('descartesd')}\n"


def imported_by(*words: str) -> set[str]:
    code = (
        "import sys\n"
        "from descartesd.ctl.main import run\n"
        f"run({list(words)!r})\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


def test_usage_error_loads_neither_zmq_nor_msgspec() -> None:
    loaded = imported_by("agent", "write", "a")

    assert not loaded & (HEAVY | {"zmq", "msgspec", "dataclasses", "inspect"})


def test_listing_agents_loads_nothing_heavy() -> None:
    Path("p.toml").write_text('endpoints = ["ipc:///nowhere/x/control.sock"]\n')

    loaded = imported_by("--profile", "./p.toml", "agent", "list")

    assert "zmq" in loaded
    assert not loaded & HEAVY
    assert not any(name.startswith(("asyncio.", "nacl.", "dynaconf.")) for name in loaded)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["--json=1", "ps"], "--json takes no value", "see: descartesctl --help"),
        (["agent", "--json=1", "list"], "--json takes no value", "see: descartesctl agent --help"),
        (["ps", "--json=1"], "--json takes no value", "see: descartesctl ps --help"),
        (
            ["--jsn", "ps"],
            "unknown option '--jsn' in front of the noun",
            "did you mean '--json'",
        ),
        (["agent", "logs", "-n", "5", "a"], "unknown option '-n'", "did you mean '--tail'"),
        (["help", "agnt"], "there is no topic 'agnt'", "did you mean 'agent'"),
        (
            ["agent", "signal", "w3", "hup"],
            "'w3' is no signal; the signal comes first: agent signal hup w3",
            None,
        ),
        (
            ["agent", "spawn", "--label", "team=x y", "--", "true"],
            (
                "label 'team': its value is not possible: "
                "expected up to 255 letters, digits and any of . _ / : @ + -"
            ),
            None,
        ),
        (
            ["agent", "spawn", "--env", "Ü=hunter2", "--", "true"],
            (
                "env 'Ü': its name is not possible: "
                "expected letters, digits and '_', not beginning with a digit"
            ),
            None,
        ),
    ],
)
def test_slip_is_named_and_nothing_of_the_wire_is_said(
    words: list[str], error: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2

    told = [f"error: {error}", *([f"hint: {hint}"] if hint else [])]
    assert capsys.readouterr().err.splitlines() == told


def test_noun_is_a_topic_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "agent") == 0
    of_topic = capsys.readouterr().out

    assert run("agent", "--help") == 0
    assert capsys.readouterr().out == of_topic


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        ("import descartesd.ctl", (130, "")),
        ("from descartesd.ctl import be_interruptible; be_interruptible()", (130, "interrupted")),
    ],
)
def test_interrupt_while_the_program_loads_ends_it_quietly(
    begin: str, expected: tuple[int, str]
) -> None:
    code = (
        "import os, signal, sys\n"
        "sys.argv = ['/usr/bin/descartesctl']\n"
        f"{begin}\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', end='')\n"
        "    sys.exit(130)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout) == expected
    assert done.stderr == ""


def test_ignored_interrupt_stays_ignored() -> None:
    code = (
        "import os, signal, sys\n"
        "sys.argv = ['descartesctl']\n"
        "import descartesd.ctl\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        ["sh", "-c", 'trap \'\' INT; exec "$0" -c "$1"', sys.executable, code],
        timeout=30,
        check=False,
    )

    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["ci", "--out", ""], 2, "--out is empty: expected a path"),
        (["ci", "--dir", ""], 2, "--dir is empty: expected a path"),
        (["ci", "--out", "there"], 2, "'{}/there' is a directory: name a file in it with --out"),
        (["ci", "--out", "none/x"], 3, "there is no directory '{}/none'"),
        (["ci", "--out", "/sys/x"], 4, "cannot write into '/sys'"),
        (["ci", "--out", "none/x", "--dir", "there"], 3, "there is no directory '{}/none'"),
        (["ci", "--dir", "none"], 3, "cannot read the configuration 'none/descartesd.toml': No "),
        (["ci", "--dir", "there"], 3, "cannot read the configuration 'there/descartesd.toml': No "),
        (["ci", "--dir", "/etc/passwd"], 3, "cannot read the configuration '/etc/passwd/"),
    ],
)
def test_certificate_has_nowhere_to_go(
    words: list[str],
    status: int,
    error: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "/sys/x" in words and os.access("/sys", os.W_OK):
        pytest.skip("nothing is closed to this user")
    (tmp_path / "there").mkdir()

    assert run("cert", "issue", "--role", "admin", *words) == status
    assert capsys.readouterr().err.startswith(f"error: {error.format(tmp_path)}")


def test_certificate_without_its_keys_is_not_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_directory(str(tmp_path / "d"))
    (tmp_path / "d/keys/authority.key").unlink()

    assert run("cert", "issue", "--role", "admin", "ci", "--dir", "d") == 3
    assert "authority.key': No such file" in capsys.readouterr().err


def test_certificate_of_a_broken_configuration_is_refused_as_by_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_directory(str(tmp_path / "d"))
    (tmp_path / "d/descartesd.toml").write_text("nonsense")

    assert run("cert", "issue", "--role", "admin", "ci", "--dir", "d") == 78
    assert "is not valid TOML" in capsys.readouterr().err
