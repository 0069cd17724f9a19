"""`descartesctl audit`: found, filtered, verified; with a server and without."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.errors import PermissionDeniedError, UnauthenticatedError
from descartesd.wire.agent import AgentSpec
from tests.support.eventually import eventually
from tests.support.server import Server, running

SLEEP = AgentSpec(command=["sleep", "600"], name="build-7")


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def used() -> Iterator[tuple[Server, str]]:
    """A server that was used, and the agent of that."""
    with running() as made:
        yield made, use(made)


@pytest.fixture
def idle() -> Iterator[Server]:
    """One that was never started."""
    with Server() as made:
        yield made


def shown(server: Server, *words: str) -> list[dict[str, Any]]:
    done = server.ctl("--json", "audit", "show", *words)
    assert done.returncode == 0, done.stderr
    lines: list[dict[str, Any]] = json.loads(done.stdout)["lines"]
    return lines


def verified(server: Server, *words: str | Path) -> tuple[int, dict[str, Any]]:
    done = server.ctl("--json", "audit", "verify", *words)
    return done.returncode, json.loads(done.stdout)


def use(server: Server) -> str:
    """Something of a colleague and something of the administrator; the agent's id."""
    colleague = server.issue("colleague", "operator")
    with server.client(colleague) as client:
        agent = client.agent.spawn(spec=SLEEP)
        with pytest.raises(PermissionDeniedError):
            client.server.drain()
    with server.client() as client:
        client.agent.stop(id="build-7")
    # The outcome is written at the end of the turn in which it is answered.
    log = server.directory / "state" / "audit.jsonl"
    eventually(lambda: log.read_bytes().count(b'"agent.stop"') == 2)
    return agent.id


def test_lines_are_found_by_who_method_target_and_time(
    used: tuple[Server, str],
) -> None:
    server, agent_id = used

    by_colleague = shown(server, "--who", "colleague")
    assert [(line["method"], line["phase"]) for line in by_colleague] == [
        ("agent.spawn", "intent"),
        ("agent.spawn", "outcome"),
        ("server.drain", "refused"),
    ]
    assert shown(server, "--who", by_colleague[0]["identity"]) == by_colleague
    stopped = shown(server, "--method", "agent.stop")
    assert [line["certificate"] for line in stopped] == ["admin", "admin"]
    assert shown(server, "--method", "agent.*") == by_colleague[:2] + stopped
    # By name, while somebody has it: also what only the id is in.
    assert [line["method"] for line in shown(server, "--target", "build-7")] == [
        *("agent.spawn", "agent.spawn", "agent.stop", "agent.stop"),
    ]
    assert [line["target"] for line in shown(server, "--target", agent_id)] == [agent_id] * 3
    assert shown(server, "--since", "1h", "--limit", "2") == stopped
    assert shown(server, "--until", str(time.time() - 3600)) == []


def test_lines_for_people_name_who_did_what(
    used: tuple[Server, str],
) -> None:
    server, agent_id = used

    told = server.ctl("audit", "show", "--limit", "3").stdout.decode().splitlines()

    assert told[0].split() == ["TIME", "SEQ", "WHO", "METHOD", "TARGET", "WHAT"]
    assert told[1].split()[2:] == [
        "colleague",
        "server.drain",
        "-",
        "refused:",
        "permission_denied",
    ]
    assert told[2].split()[2:] == ["admin", "agent.stop", agent_id, "intent"]
    assert told[3].split()[2:5] == ["admin", "agent.stop", agent_id]


def test_pages_go_back_to_the_beginning_over_every_file() -> None:
    with (
        running({"audit.max_bytes": 65_536}) as server,
        server.client() as client,
    ):
        for _ in range(8):
            client.batch.run(verb="stop", ids=[f"nobody{number}" for number in range(100)])

        every = shown(server, "--limit", "5000")
        assert [line["seq"] for line in every] == list(range(1, len(every) + 1))
        assert len(every) > 800
        assert len(list((server.directory / "state").glob("audit-*.jsonl"))) > 1
        page = client.audit.show(limit=10, cursor=21)
        assert [line.seq for line in page.lines] == list(range(11, 21))
        assert page.cursor == 11
        assert client.audit.show(limit=10, cursor=11).cursor is None
        assert client.audit.verify().holds


def test_only_an_administrator_may_look(used: tuple[Server, str]) -> None:
    server, _ = used
    operator = server.issue("another", "operator")

    with server.client(operator) as client:
        with pytest.raises(PermissionDeniedError):
            client.audit.show()
        with pytest.raises(PermissionDeniedError):
            client.audit.verify()


def test_verification_passes_and_fails_after_one_flipped_byte(server: Server) -> None:
    use(server)
    status, report = verified(server)
    assert (status, report["holds"], report["faults"]) == (0, True, [])
    log = server.directory / "state" / "audit.jsonl"
    whole = bytearray(log.read_bytes())
    at = whole.index(b"colleague")
    whole[at] ^= 1
    log.write_bytes(whole)

    status, report = verified(server)

    assert (status, report["holds"]) == (1, False)
    fault = report["faults"][0]
    assert (fault["file"], fault["line"], fault["seq"]) == ("audit.jsonl", 2, 2)
    told = server.ctl("audit", "verify")
    assert told.returncode == 1
    assert b"fault       audit.jsonl line 2, seq 2: was changed" in told.stdout


def test_a_cut_tail_is_found_with_and_without_the_server(server: Server) -> None:
    use(server)
    _, running_one = verified(server)
    server.stop()
    status, report = verified(server, "--dir", server.directory)
    assert (status, report["public_key"]) == (0, running_one["public_key"])
    log = server.directory / "state" / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2]))

    status, report = verified(server, "--dir", server.directory)
    assert status == 1
    assert f"the signed head is line {len(lines)}: its tail was cut" in report["faults"][0]["what"]

    server.start()
    status, report = verified(server)
    assert status == 1
    assert "its tail was cut" in json.dumps(report["faults"])


def test_after_a_kill_verification_passes(server: Server) -> None:
    use(server)
    server.kill()
    status, report = verified(server, "--dir", server.directory)
    assert (status, report["holds"]) == (0, True)

    server.start()

    assert verified(server)[0] == 0
    # The stop by the administrator, whose line nobody had signed, is still there.
    assert [line["outcome"] for line in shown(server, "--method", "agent.stop")] == [None, "ok"]


@pytest.mark.parametrize(("words", "status"), [(["--dir", ""], 2), (["--dir", "/nowhere"], 78)])
def test_a_directory_without_a_server_s_files_is_refused(
    idle: Server, words: list[str], status: int
) -> None:
    assert idle.ctl("audit", "verify", *words).returncode == status


def test_a_server_that_never_ran_has_no_registry(idle: Server) -> None:
    done = idle.ctl("audit", "verify", "--dir", idle.directory)

    assert done.returncode == 3
    assert b"there is no registry" in done.stderr


def test_a_certificate_s_life_is_told(server: Server) -> None:
    profile = server.root / "laptop.toml"
    issued = server.ctl("cert", "issue", "laptop", "--role", "observer", "--out", profile)
    assert issued.returncode == 0, issued.stderr
    with server.client(profile) as client:
        identity = client.server.hello().identity.id
        stream = client.event.follow()
        assert server.ctl("cert", "revoke", "laptop").returncode == 0
        with pytest.raises(UnauthenticatedError):
            list(stream)

    told = shown(server, "--target", "laptop")
    assert [(line["method"], line["phase"], line["detail"]) for line in told] == [
        ("cert.sign", "intent", "role observer"),
        ("cert.sign", "outcome", identity),
        ("cert.revoke", "intent", None),
        ("cert.revoke", "outcome", identity),
    ]
    (ended,) = shown(server, "--who", identity)
    assert (ended["phase"], ended["method"], ended["outcome"]) == (
        "refused",
        "stream",
        "unauthenticated",
    )


@pytest.mark.parametrize("kept", [0, 3])
def test_a_cut_tail_is_told_at_the_last_line_there_is(server: Server, kept: int) -> None:
    use(server)
    log = server.directory / "state" / "audit.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]))
    with_server = server.ctl("audit", "verify")
    log.write_bytes(whole)
    server.stop()
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:kept]))
    without = server.ctl("audit", "verify", "--dir", server.directory)
    place = f"audit.jsonl line {kept}, seq {kept}: " if kept else "audit.jsonl, seq 0: "

    assert (with_server.returncode, without.returncode) == (1, 1)
    for told in (with_server, without):
        faults = [line for line in told.stdout.decode().splitlines() if line.startswith("fault")]
        assert faults
        assert all(place in line for line in faults), faults
