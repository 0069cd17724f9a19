"""Sessions with descartesctl: the server itself, certificates, and the doctor."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import BIN, Server, running


def document(done: subprocess.CompletedProcess[bytes], status: int = 0) -> Any:
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == b""
    return json.loads(done.stdout)


def test_health_tells_that_the_server_serves(shared_server: Server) -> None:
    health = document(shared_server.ctl("--json", "server", "health"))
    people = shared_server.ctl("server", "health")
    quiet = shared_server.ctl("--quiet", "server", "health")

    assert (health["status"], health["reasons"], health["keeper"]["connected"]) == ("ok", [], True)
    assert people.stdout.decode().splitlines()[0].split() == ["status", "ok"]
    assert quiet.stdout.decode() == f"{health['server_id']}\n"


def test_info_tells_who_the_server_takes_us_for(shared_server: Server) -> None:
    remote = document(shared_server.ctl("--json", "server", "info"))
    local = document(shared_server.ctl("--json", "server", "info", profile=shared_server.local))

    assert remote["identity"]["id"].startswith("key:SHA256:")
    assert (remote["identity"]["name"], remote["identity"]["role"]) == ("admin", "admin")
    assert local["identity"]["id"] == f"uid:{os.getuid()}"


def test_methods_are_listed_with_their_roles(shared_server: Server) -> None:
    table = document(shared_server.ctl("--json", "server", "methods"))
    lines = shared_server.ctl("server", "methods").stdout.decode().splitlines()

    assert {method["name"] for method in table["methods"]} >= {"agent.spawn", "server.hello"}
    assert lines[0].split() == ["METHOD", "ROLE", "STREAM", "SUMMARY"]
    assert len(lines) == 1 + len(table["methods"])


def test_stats_count_what_was_asked(shared_server: Server) -> None:
    shared_server.ctl("agent", "show", "nobody")

    stats = document(shared_server.ctl("--json", "server", "stats"))
    totals, _, methods = shared_server.ctl("server", "stats").stdout.decode().partition("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in methods.splitlines()}

    assert stats["methods"]["agent.get"]["failures"] >= 1
    assert stats["errors"]["not_found"] >= 1
    assert totals.splitlines()[0].split() == ["server", stats["server_id"]]
    assert rows["METHOD"] == ["REQUESTS", "FAILURES", "P50", "P99"]
    assert int(rows["agent.get"][0]) >= 1
    assert all(int(requests) for name, (requests, *_) in rows.items() if name != "METHOD")


def test_drained_server_takes_no_new_agents_until_it_is_undone(shared_server: Server) -> None:
    drained = document(shared_server.ctl("--json", "server", "drain"))
    refused = shared_server.ctl("agent", "spawn", "--", "true")
    health = shared_server.ctl("server", "health").stdout.decode().splitlines()
    undone = document(shared_server.ctl("--json", "server", "drain", "--undo"))
    spawned = shared_server.ctl("agent", "spawn", "--wait", "--", "true")

    assert drained == {"draining": True, "alive": 0, "queued": 0}
    assert refused.returncode == 5
    assert refused.stderr.endswith(b"end the drain with: descartesctl server drain --undo\n")
    assert ["draining", "takes", "no", "new", "agents"] in [line.split() for line in health]
    assert undone["draining"] is False
    assert spawned.returncode == 0


def test_drain_that_waits_ends_with_the_last_agent() -> None:
    with running() as server:
        server.ctl("agent", "spawn", "--name", "a", "--", "sleep", "60")
        late = server.ctl("server", "drain", "--wait", "--timeout", "1")
        words = ("--json", "server", "drain", "--wait", "--timeout", "20")
        with subprocess.Popen(
            [BIN / "descartesctl", "--profile", server.admin, *words],
            stdout=subprocess.PIPE,
            env=server.environ,
        ) as waiting:
            server.ctl("agent", "kill", "a")
            out, _ = waiting.communicate(timeout=25)

    assert late.returncode == 6
    assert late.stderr.startswith(b"waiting: 1 alive\nerror: agents are still alive: 1;")
    assert waiting.returncode == 0
    assert json.loads(out) == {"draining": True, "alive": 0, "queued": 0}


def test_certificate_issued_by_the_server_lets_its_holder_in(
    shared_server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "ci.toml"

    issued = document(
        shared_server.ctl("--json", "cert", "issue", "ci", "--role", "observer", "--out", out)
    )
    info = document(shared_server.ctl("--json", "server", "info", profile=out))
    spawn = shared_server.ctl("agent", "spawn", "--", "true", profile=out)
    again = shared_server.ctl("cert", "issue", "ci2", "--role", "observer", "--out", out)

    assert issued == {
        "name": "ci",
        "role": "observer",
        "fingerprint": issued["fingerprint"],
        "profile": str(out),
    }
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert info["identity"] == {
        "id": f"key:{issued['fingerprint']}",
        "name": "ci",
        "role": "observer",
    }
    assert spawn.returncode == 4
    assert again.returncode == 7


def test_certificate_issued_in_a_directory_needs_no_server(tmp_path: Path) -> None:
    with Server() as server:
        words = ("cert", "issue", "ci", "--role", "operator", "--days", "3", "--dir")

        done = server.ctl(*words, server.directory)
        lines = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
        profile = server.directory / "profiles" / "ci.toml"
        server.start()
        info = document(server.ctl("--json", "server", "info", profile=profile))

        assert lines["profile"] == str(profile)
        assert lines["next"] == f"descartesctl --profile {profile} server info"
        assert info["identity"]["id"] == f"key:{lines['fingerprint']}"
        assert info["identity"]["role"] == "operator"


@pytest.mark.parametrize(
    "words",
    [
        ["ci"],
        ["ci", "--role", "king"],
        ["Ci", "--role", "admin"],
        ["ci", "--role", "admin", "--days", "0"],
    ],
)
def test_certificate_that_cannot_be_is_a_usage_error(
    words: list[str], shared_server: Server, tmp_path: Path
) -> None:
    done = subprocess.run(
        [BIN / "descartesctl", "--profile", shared_server.admin, "cert", "issue", *words],
        cwd=tmp_path,
        env=shared_server.environ,
        capture_output=True,
        check=False,
        timeout=20,
    )

    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_unknown_key_and_wrong_server_key_are_exit_4(shared_server: Server, tmp_path: Path) -> None:
    with Server() as other:
        stranger = other.issue("stranger", "admin")
        text = stranger.read_text()
    unknown = tmp_path / "unknown.toml"
    unknown.write_text(text.replace(f":{other.port}", f":{shared_server.port}").replace(
        other_key(text), shared_server.public_key))  # fmt: skip
    unknown.chmod(0o600)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(
        shared_server.admin.read_text().replace(shared_server.public_key, other_key(text))
    )
    wrong.chmod(0o600)

    for profile, message in ((unknown, b"key not authorised"), (wrong, b"wrong server key")):
        done = shared_server.ctl("server", "health", profile=profile)

        assert done.returncode == 4
        assert done.stderr.startswith(b"error: " + message)
        assert b"hint: " in done.stderr


def other_key(profile: str) -> str:
    line = next(line for line in profile.splitlines() if line.startswith("server_keys"))
    return line.partition('"')[2].rpartition('"')[0]


def test_server_that_is_down_is_unavailable_with_a_hint(tmp_path: Path) -> None:
    with Server() as server:
        local = server.ctl("--json", "server", "health", profile=server.local)
        remote = server.ctl("server", "health")

    error = json.loads(local.stderr)["error"]
    assert (local.returncode, remote.returncode) == (5, 5)
    assert (error["code"], error["retryable"]) == ("unavailable", True)
    assert f"descartesd --config {server.config}" in error["hint"]
    assert remote.stderr.startswith(b"error: nobody answers at ")


def test_wait_for_server_bridges_its_start() -> None:
    with Server() as server:
        waiting = subprocess.Popen(
            [BIN / "descartesctl", "--profile", server.admin, "server", "health",
             "--wait-for-server", "20"],
            stdout=subprocess.PIPE,
            env=server.environ,
        )  # fmt: skip
        server.start()

        out, _ = waiting.communicate(timeout=20)

    assert waiting.returncode == 0
    assert out.startswith(b"status ")


def checks_of(done: subprocess.CompletedProcess[bytes], status: int) -> dict[str, Any]:
    found = document(done, status)
    assert found["ok"] is (status == 0)
    assert found["ok"] is all(check["ok"] for check in found["checks"])
    return {check["name"]: check for check in found["checks"]}


def test_doctor_finds_a_healthy_server_healthy(shared_server: Server) -> None:
    checks = checks_of(shared_server.ctl("--json", "doctor"), 0)
    local = checks_of(shared_server.ctl("--json", "doctor", profile=shared_server.local), 0)
    people = shared_server.ctl("doctor")

    assert local["port"] == checks["port"]
    # What another test had its agents leave is told for a while.
    assert set(checks) - {"strays"} == {
        "python", "programs", "profile", "modes", "certificate", "server", "port", "keeper",
        "keeper version", "isolation",
    }  # fmt: skip
    assert checks["keeper version"]["detail"].endswith(", as installed")
    assert f"{shared_server.port} is held by 'descartesd'" in checks["port"]["detail"]
    assert people.returncode == 0
    assert all(line.startswith("✓ ") for line in people.stdout.decode().splitlines())


def test_doctor_without_a_server_says_what_to_do() -> None:
    with Server() as server:
        remote = checks_of(server.ctl("--json", "doctor"), 1)
        local = checks_of(server.ctl("--json", "doctor", profile=server.local), 1)
        people = server.ctl("doctor", profile=server.local)

    assert [name for name, check in remote.items() if not check["ok"]] == ["server"]
    assert remote["port"] == local["port"]
    assert "is free" in remote["port"]["detail"]
    assert f"descartesd --config {server.config}" in local["server"]["hint"]
    assert "✗ server" in people.stdout.decode()
    assert people.stderr == b""


def test_doctor_without_a_profile_still_prints_a_document(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    done = subprocess.run(
        [BIN / "descartesctl", "--json", "--profile", "nobody", "doctor"],
        env=environ,
        capture_output=True,
        check=False,
        timeout=20,
    )

    assert not checks_of(done, 1)["profile"]["ok"]


def test_doctor_names_the_process_that_holds_the_port() -> None:
    with Server() as server, socket.create_server(("127.0.0.1", server.port)):
        checks = checks_of(server.ctl("--json", "doctor", "--timeout", "5"), 1)

    assert not checks["port"]["ok"]
    assert f"(pid {os.getpid()})" in checks["port"]["detail"]


def test_doctor_without_a_server_judges_its_configuration() -> None:
    with Server() as server:
        server.config.write_text(server.config.read_text() + "\n[nonsense]\n")

        checks = checks_of(server.ctl("--json", "doctor", profile=server.local), 1)

    assert not checks["config"]["ok"]
    assert "nonsense" in checks["config"]["detail"]
    assert "port" not in checks


def test_doctor_names_what_is_open_to_others_and_the_chmod() -> None:
    with Server() as server:
        (server.directory / "keys" / "host.key").chmod(0o640)
        (server.directory / "state").chmod(0o755)

        modes = checks_of(server.ctl("--json", "doctor", profile=server.local), 1)["modes"]

    assert not modes["ok"]
    assert modes["hint"].splitlines() == [
        f"chmod 600 {server.directory}/keys/host.key",
        f"chmod 700 {server.directory}/state",
    ]
