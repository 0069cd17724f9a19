"""Certificates revoked, forgotten by a backup, or cut short by a crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import AbortedError, DescartesError, NotFoundError, UnauthenticatedError
from descartesd.keys.authority import load_authority
from descartesd.keys.certificate import armour
from descartesd.keys.curve import generate
from descartesd.keys.files import create_secret
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.profile import Profile
from tests.faults.peers import Peers, keys_of, logged
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.server import BIN, Server


@pytest.fixture
def peers(server: Server) -> Iterator[Peers]:
    with Peers(server) as made:
        yield made


def daemon(server: Server) -> subprocess.CompletedProcess[str]:
    """Run the daemon of a directory, which has to end by itself."""
    return subprocess.run(
        [BIN / "descartesd", "--config", server.config],
        capture_output=True,
        text=True,
        env=server.environ,
        timeout=20,
        check=False,
    )


def is_let_in(server: Server, profile: Path) -> bool:
    """Whether the keys of a profile get in over tcp."""
    with server.client(profile) as client:
        try:
            client.server.hello()
        except UnauthenticatedError:
            return False
    return True


def test_fault_37_revoked_while_connected_is_refused_at_the_next_message_and_cut_off(
    server: Server, peers: Peers
) -> None:
    profile = server.issue("ci", "operator")
    follower, waiter, asker, bystander = (peers.connect(keys_of(profile)) for _ in range(4))
    bystander = peers.connect()
    own = asker.result("agent.spawn", {"spec": {"command": list(SLEEP), "name": "own"}})
    follower.send("event.follow", {"since": 0})
    while follower.receive().get("item", {}).get("agent_id") != own["id"]:
        pass
    waiter.send("agent.wait", {"id": own["id"]})
    assert asker.result("agent.get", {"id": own["id"]})["state"] == "running"

    began = time.monotonic()
    with server.client() as admin:
        done = admin.cert.revoke(name="ci")
    for peer in (follower, waiter):
        while "error" not in (message := peer.receive()):
            pass
        assert message["error"]["code"] == "unauthenticated"
    assert time.monotonic() - began < 1
    assert asker.refusal("agent.get", {"id": own["id"]}) == "unauthenticated"

    assert (done.name, done.generation, done.killed) == ("ci", 1, 0)
    assert bystander.result("agent.get", {"id": own["id"]})["state"] == "running"
    assert not is_let_in(server, profile)


def test_fault_37_open_logs_of_a_revoked_client_end_within_a_second(shared_server: Server) -> None:
    profile = shared_server.issue("ci-logs", "operator")
    with shared_server.client() as admin:
        agent = admin.agent.spawn(spec=spec("/bin/sh", "-c", "echo begun; exec sleep 300"))
        reading = subprocess.Popen(
            [BIN / "descartesctl", "--profile", profile, "agent", "logs", "-f", agent.id],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with reading:
            assert reading.stdout is not None
            assert reading.stdout.readline() == b"begun\n"
            began = time.monotonic()

            revoked = shared_server.ctl("--json", "cert", "revoke", "ci-logs", "--kill-agents")

            _, said = reading.communicate(timeout=5)
        assert time.monotonic() - began < 3
        assert reading.returncode == 4
        assert b"not authorised any more" in said
        assert json.loads(revoked.stdout)["killed"] == 0
        assert admin.agent.get(id=agent.id).state == "running"


def test_agents_of_the_revoked_are_killed_where_that_is_asked_for(shared_server: Server) -> None:
    profile = shared_server.issue("ci-agents", "operator")
    with shared_server.client(profile) as ci, shared_server.client() as admin:
        theirs = ci.agent.spawn(spec=spec(*SLEEP))
        ours = admin.agent.spawn(spec=spec(*SLEEP))

        done = admin.cert.revoke(name="ci-agents", kill_agents=True)

        assert done.killed == 1
        assert admin.agent.get(id=theirs.id).state == "terminated"
        assert admin.agent.get(id=ours.id).state == "running"


def test_who_revokes_himself_is_told_and_the_local_administrator_stays(server: Server) -> None:
    with server.client() as admin:
        done = admin.cert.revoke(name="admin")
        assert done.name == "admin"

        def is_refused() -> bool:
            try:
                admin.server.hello()
            except UnauthenticatedError:
                return True
            return False

        eventually(is_refused)
    with server.client(server.local) as local:
        assert local.server.hello().identity.role == "admin"
        assert [each.status for each in local.cert.list().certificates] == ["revoked"]


def test_a_name_is_free_after_its_certificate_was_revoked(server: Server) -> None:
    first = server.issue("ci", "operator")
    first.rename(first.with_name("old.toml"))
    assert server.ctl("cert", "revoke", "ci").returncode == 0

    second = server.issue("ci", "observer")

    assert is_let_in(server, second)
    assert not is_let_in(server, second.with_name("old.toml"))
    listed = json.loads(server.ctl("--json", "cert", "list").stdout)
    assert [(each["name"], each["status"]) for each in listed["certificates"]] == [
        ("admin", "valid"),
        ("ci", "valid"),
        ("ci", "revoked"),
    ]
    assert (listed["total"], listed["generation"]) == (3, 1)
    shown = json.loads(server.ctl("--json", "cert", "show", "ci").stdout)
    assert shown["role"] == "observer"
    assert shown["certificate"].startswith("# name=ci roles=observer ")


def test_a_revocation_names_one_certificate_that_is_known_or_meant_in_advance(
    shared_server: Server,
) -> None:
    serial = "0123456789abcdef"
    with shared_server.client() as admin:
        for nobody in ({"name": "nobody"}, {"serial": serial}):
            with pytest.raises(NotFoundError):
                admin.cert.revoke(**nobody)
        for unclear in ({}, {"name": "admin", "serial": serial}):
            with pytest.raises(DescartesError, match="expected one of name"):
                admin.cert.revoke(**unclear)
        known = admin.cert.list().generation
        assert admin.cert.revoke(serial=serial, even_unknown=True).generation == known + 1
        assert admin.cert.revoke(serial=serial).generation == known + 1


def test_fault_46_a_crash_right_after_a_revocation_forgets_nothing(server: Server) -> None:
    profiles = [server.issue(f"ci-{number}", "observer") for number in range(5)]
    with server.client() as admin, ThreadPoolExecutor(1) as pool:
        told = [admin.cert.revoke(name=path.stem).name for path in profiles[:3]]
        under_way = pool.submit(admin.cert.revoke, name="ci-3")
        server.kill()
        server.start()
        with suppress(AbortedError):
            under_way.result(timeout=20)
        # Asked again it holds, whether it was carried out before or not.
        assert admin.cert.revoke(name="ci-3").generation == 4
    whole = (server.directory / "state/trust/revoked").read_bytes()
    server.stop()
    # What a crash in the middle of the next line leaves.
    (server.directory / "state/trust/revoked").write_bytes(whole + b"5 2026-01-01T00:0")

    server.start()

    assert told == ["ci-0", "ci-1", "ci-2"]
    assert [is_let_in(server, path) for path in profiles] == [False] * 4 + [True]
    with server.client() as admin:
        assert admin.server.health().status == "ok"
        assert admin.cert.revoke(name="ci-4").generation == 5
    assert not is_let_in(server, profiles[4])


@pytest.mark.parametrize("missing", [False, True], ids=["older list", "no list"])
def test_fault_47_a_restored_backup_brings_no_revoked_key_back_and_is_noticed(
    server: Server, missing: bool
) -> None:
    first, second = server.issue("first", "operator"), server.issue("second", "operator")
    trust, backup = server.directory / "state/trust", server.root / "backup"
    with server.client() as admin:
        admin.cert.revoke(name="first")
        shutil.copytree(trust, backup)
        admin.cert.revoke(name="second")
    server.stop()
    shutil.rmtree(trust)
    shutil.copytree(backup, trust)
    if missing:
        (trust / "revoked").unlink()

    server.start()

    with server.client(server.local) as local:
        health = local.server.health()
        assert health.status == "degraded"
        assert "older one was put in its place" in health.checks["revocations"]
        assert local.cert.list().generation == 2
    assert not is_let_in(server, first)
    assert not is_let_in(server, second)
    assert logged(server, "revocations.restored")


def test_fault_47_a_backup_restored_under_a_running_server_is_noticed_too(
    server: Server,
) -> None:
    profile = server.issue("ci", "operator")
    kept = (server.directory / "state/trust/ci.cert").read_bytes()
    with server.client() as admin:
        admin.cert.revoke(name="ci")
        (server.directory / "state/trust/revoked").unlink()
        (server.directory / "state/trust/ci.cert").write_bytes(kept)

        eventually(lambda: admin.server.health().status == "degraded")

    assert not is_let_in(server, profile)
    with Client(str(server.local)) as local:
        assert local.cert.list().generation == 1


def test_fault_48_a_clock_set_back_over_a_restart_brings_no_ended_certificate_back(
    server: Server,
) -> None:
    profile = server.issue("ci", "operator")
    server.stop()
    noted = server.directory / "state/clock"
    # As if the host's clock had been two years ahead, and was set back while nobody looked.
    noted.write_text(f"{time.time() + 2 * 365 * 86_400:.0f}\n", encoding="ascii")
    noted.chmod(0o600)

    server.start(wait=False)

    with server.client(server.local, wait_for_server_s=10) as local:
        health = local.server.health()
        assert health.status == "degraded"
        assert "behind what it was" in health.checks["clock"]
        assert not is_let_in(server, profile)
    # What the message says to do puts it right.
    server.stop()
    noted.unlink()
    server.start()
    assert is_let_in(server, profile)


def test_certificates_that_end_soon_are_counted_and_told(server: Server) -> None:
    authority = load_authority(str(server.directory / "keys/authority.key"))
    signed = authority.issue("old", generate().public, "observer", now=time.time() - 80_000, days=1)
    with server.client() as admin:
        assert admin.server.health().certificates_expiring == 0

        admin.cert.add(certificate=armour(signed))

        eventually(lambda: admin.server.health().certificates_expiring == 1)
        assert admin.server.health().status == "ok"
    told = json.loads(server.ctl("--json", "doctor").stdout)["checks"]
    [found] = [each for each in told if each["name"] == "certificates"]
    assert found["ok"] is True
    assert found["detail"].startswith("1 certificate has less than a third")


def test_fault_36_why_a_known_key_is_refused_is_in_the_log_and_not_told_to_the_peer(
    server: Server,
) -> None:
    authority = load_authority(str(server.directory / "keys/authority.key"))
    now = time.time()
    trust = server.directory / "state/trust"
    pairs = {"late": generate(), "early": generate(), "gone": generate()}
    for name, start in (("late", now - 90_000), ("early", now + 90_000), ("gone", now)):
        signed = authority.issue(name, pairs[name].public, "observer", now=start, days=1)
        create_secret(str(trust / f"{name}.cert"), armour(signed).encode())
    with server.client(server.local) as admin:
        admin.cert.revoke(name="gone")

    said = set()
    for pair in (*pairs.values(), generate()):
        keys = (pair.public_text, pair.secret_text)
        stranger = Profile((server.endpoint,), (server.public_key,), *keys)
        with Client(stranger) as client, pytest.raises(UnauthenticatedError) as caught:
            client.server.hello()
        said.add(caught.value.message.replace(fingerprint(pair.public), "KEY"))

    assert len(said) == 1
    causes = [each["cause"] for each in logged(server, "key.refused")]
    assert len(causes) == 3
    for cause, expected in zip(causes, ("expired at", "not valid before", "revoked"), strict=True):
        assert expected in cause


def test_fault_45_a_malformed_certificate_is_skipped_and_told_and_the_rest_load(
    server: Server,
) -> None:
    profile = server.issue("ci", "operator")
    trust = server.directory / "state/trust"
    (trust / "broken.cert").write_bytes(b"# name=broken\n\xff\xfe not base64\n")
    (trust / "empty.cert").touch()
    (server.directory / "state/tokens").mkdir(mode=0o700)
    (server.directory / "state/tokens/broken.token").write_text("no token", encoding="ascii")
    server.crash_and_restart()

    assert is_let_in(server, profile)
    with server.client() as admin:
        assert [each.name for each in admin.cert.list().certificates] == ["admin", "ci"]
        assert admin.server.health().status == "ok"
    said = [each["file"] for each in logged(server, "file.skipped")]
    assert sum("broken.cert" in each for each in said) == 1
    assert sum("empty.cert" in each for each in said) == 1
    assert sum("broken.token" in each for each in said) == 1


@pytest.mark.parametrize("secret", ["keys/host.key", "keys/authority.key"])
@pytest.mark.parametrize("case", ["readable", "symlink", "another's"])
def test_fault_44_a_secret_that_others_can_reach_stops_the_start_and_names_the_remedy(
    secret: str, case: str
) -> None:
    with Server() as server:
        path = server.directory / secret
        _expose(path, case)

        refused = daemon(server)

        assert refused.returncode == 78
        assert str(path) in refused.stderr
        remedy = {"readable": "chmod 600", "symlink": "symbolic link", "another's": "ch"}[case]
        assert remedy in refused.stderr


def _expose(path: Path, case: str) -> None:
    if case == "readable":
        path.chmod(0o644)
    elif case == "symlink":
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real"))
    elif os.getuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        path.parent.chmod(0o777)


@pytest.mark.parametrize("missing", ["keys/host.key", "keys/authority.key"])
def test_fault_16_no_server_listens_on_every_address_without_its_keys(missing: str) -> None:
    with Server() as server:
        server.environ["DESCARTES_SERVER__ENDPOINT"] = f"tcp://0.0.0.0:{server.port}"
        (server.directory / missing).unlink()

        refused = daemon(server)

        assert refused.returncode == 78
        assert f"cannot read '{server.directory / missing}'" in refused.stderr


@pytest.mark.parametrize(
    "setting",
    ["[network]\ncurve = false", "[security]\nenabled = false", '[server]\nmechanism = "NULL"'],
)
def test_fault_16_nothing_switches_curve_off(setting: str, tmp_path: Path) -> None:
    config = tmp_path / "descartesd.toml"
    config.write_text(f"{setting}\n", encoding="ascii")

    checked = subprocess.run(
        [BIN / "descartesd", "--config", config, "--check-config"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert checked.returncode == 2
    assert "unknown" in checked.stderr
