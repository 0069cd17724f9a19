from __future__ import annotations

import json
from pathlib import Path

import pytest

from descartesd.ctl.doctor import Check, is_this_host
from descartesd.ctl.main import run


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_address_of_this_host_is_known(host: str, expected: bool) -> None:
    assert is_this_host(host) is expected


def test_check_without_a_hint_has_none_in_json() -> None:
    assert Check("a", ok=True, detail="b").item() == {"name": "a", "ok": True, "detail": "b"}
    assert Check("a", ok=False, detail="b", hint="c").item()["hint"] == "c"


def test_default_profile_is_named_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DESCARTES_PROFILE", raising=False)
    profile = tmp_path / ".config" / "descartes" / "default.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text(f'endpoints = ["ipc://{tmp_path}/control.sock"]\n')

    status = run(["--json", "doctor"])

    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert status == 1
    assert checks["profile"]["detail"] == f"{profile}: ipc://{tmp_path}/control.sock"
    assert checks["modes"]["ok"]
    assert not checks["server"]["ok"]


def test_profile_in_this_directory_is_judged_with_its_server_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("profiles", "state", "keys"):
        (tmp_path / name).mkdir(mode=0o755 if name == "state" else 0o700)
    (tmp_path / "profiles" / "local.toml").write_text(
        f'endpoints = ["ipc://{tmp_path}/run/control.sock"]\n'
    )
    monkeypatch.chdir(tmp_path / "profiles")

    run(["--json", "--profile", "local.toml", "doctor"])

    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["modes"]["hint"] == f"chmod 700 {tmp_path}/state"
    assert "port" not in checks
