"""`config` tells of a configuration what a server would, and needs none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from descartesd.ctl import config
from descartesd.ctl.main import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DESCARTES_CONFIG_FILE", "DESCARTES_PROFILE", "DESCARTES_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "SERVICE_CONFIG", str(tmp_path / "installed.toml"))
    path = tmp_path / "d.toml"
    path.write_text("[server]\nmax_agents = 5\n")
    return path


def test_one_that_fits_is_told_to(file: Path, capsys: Captured) -> None:
    assert run(["config", "check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: a server would take it\n", "")
    assert run(["--json", "config", "check", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "ok": True}


@pytest.mark.parametrize("verb", ["check", "show"])
def test_every_fault_has_a_line_and_the_status_is_2(
    file: Path, capsys: Captured, verb: str
) -> None:
    file.write_text("[server]\nmax_agent = 5\nendpoint = 'udp://x'\n")
    faults = [
        "d.toml: server.max_agent: unknown key (did you mean 'max_agents'?)",
        "d.toml: server.endpoint: expected tcp://HOST:PORT, got 'udp://x'",
    ]

    assert run(["config", verb, str(file)]) == 2
    assert capsys.readouterr() == ("", f"error: {faults[0]}\n       {faults[1]}\n")
    assert run(["--json", "config", verb, str(file)]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["details"]) == ("invalid_argument", {"faults": faults})


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("[plugins]\nenabled = ['absent']\n", "absent"),
        ("[backends.x]\ncommand = ['x']\nchat = ['x']\n", "backends.x.say"),
        ("[policy.local_uids]\n7 = 'nobody'\n", "policy.local_uids.7"),
    ],
    ids=["plugin", "backend", "role"],
)
def test_what_only_a_start_would_find_is_found(
    file: Path, capsys: Captured, lines: str, names: str
) -> None:
    file.write_text(lines)

    assert run(["config", "check", str(file)]) == 2
    assert names in capsys.readouterr().err


def test_file_is_the_named_one_then_the_variables_then_the_installed_one(
    file: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*words: str) -> str:
        assert run(["--json", "config", "show", *words]) == 0
        path: str = json.loads(capsys.readouterr().out)["file"]
        return path

    assert run(["config", "show"]) == 2
    assert "descartesctl config check FILE" in capsys.readouterr().err
    installed, by_variable = file.parent / "installed.toml", file.parent / "variable.toml"
    for path in (installed, by_variable):
        path.write_text("")
    assert shown() == str(installed)
    monkeypatch.setenv("DESCARTES_CONFIG_FILE", str(by_variable))
    assert shown() == str(by_variable)
    assert shown(str(file)) == str(file)


def test_settings_are_shown_as_toml_with_their_origin_where_asked(
    file: Path, capsys: Captured
) -> None:
    assert run(["config", "show", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "server.max_agents = 5" in lines
    assert run(["config", "show", "--origin", str(file)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "server.max_agents = 5 # d.toml" in lines
    assert "limits.max_queued = 1000 # default" in lines
    assert run(["--quiet", "config", "show", str(file)]) == 0
    assert "server.max_agents" in capsys.readouterr().out.splitlines()
    assert run(["--json", "config", "show", str(file)]) == 0
    told = json.loads(capsys.readouterr().out)["settings"]
    assert {"key": "server.max_agents", "value": 5, "origin": "d.toml"} in told
