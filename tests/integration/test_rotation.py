"""Keys are changed with an overlap: nobody who comes by in that time is locked out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import AlreadyExistsError, ConflictError, UnauthenticatedError
from descartesd.keys.profile import load_profile
from tests.faults.peers import logged
from tests.support.agents import spec
from tests.support.eventually import eventually
from tests.support.server import Server

DAY = 86_400


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    with server.client(server.local) as client:
        yield client


def yesterday(profile: Path) -> None:
    """As if nobody had used the profile since."""
    os.utime(profile, (time.time() - DAY - 60,) * 2)


def is_let_in(server: Server, profile: Path) -> bool:
    with server.client(profile) as client:
        try:
            client.server.health()
        except UnauthenticatedError:
            return False
    return True


def test_fault_39_clients_learn_the_next_host_key_and_the_old_one_ends(
    server: Server, admin: Client
) -> None:
    learns, stays_away = server.issue("learns", "operator"), server.issue("away", "operator")
    old_key = server.public_key
    with server.client(learns) as connected, server.client(stays_away) as untaught:
        untaught.server.health()
        agent = connected.agent.spawn(spec=spec("/bin/sh", "-c", "echo begun; exec sleep 300"))
        following = connected.agent.follow(id=agent.id)
        assert b"begun" in next(following).data

        rotated = admin.cert.rotate(what="host", overlap_s=3.0)

        with pytest.raises(AlreadyExistsError, match="next host key"):
            admin.cert.rotate(what="host")
        assert connected.server.hello().next_server_key == rotated.public_key
        # Another program with that profile says hello by itself: it was not seen to today.
        yesterday(learns)
        assert is_let_in(server, learns)
        assert load_profile(str(learns)).server_keys == (old_key, rotated.public_key)
        assert server.public_key == old_key
        eventually(lambda: server.public_key == rotated.public_key, timeout=10)

        # What was open goes on over a new connection, which meets the new key.
        assert connected.agent.get(id=agent.id).state == "running"
        connected.agent.kill(id=agent.id)
        assert [chunk.stream for chunk in following if chunk.data] == []
        with pytest.raises(UnauthenticatedError, match="wrong server key"):
            untaught.server.health()
    assert is_let_in(server, learns)
    assert not is_let_in(server, stays_away)
    assert is_let_in(server, server.issue("later", "observer"))
    assert admin.server.health().status == "ok"
    assert logged(server, "host_key.turned")
    server.stop()
    assert not (server.directory / "keys/host.key.next").exists()
    server.start(wait=False)
    with server.client(learns, wait_for_server_s=10) as again:
        assert again.server.hello().next_server_key is None
        # The log sealed with the first key is still what it was.
        assert server.ctl("audit", "verify", profile=server.local).returncode == 0


def test_fault_39_a_turn_that_came_while_nobody_served_is_taken_at_the_start(
    server: Server, admin: Client
) -> None:
    rotated = admin.cert.rotate(what="host", overlap_s=1.0)
    server.kill()
    eventually(lambda: time.time() > rotated.until)

    server.start(wait=False)

    with server.client(server.local, wait_for_server_s=10) as local:
        assert local.server.health().status == "ok"
    assert server.public_key == rotated.public_key


def test_fault_38_both_authorities_are_believed_in_the_overlap_and_the_old_one_not_after(
    server: Server, admin: Client
) -> None:
    renews, stays_away = server.issue("renews", "operator"), server.issue("away", "operator")
    before = admin.cert.authority().authorities

    done = server.ctl(
        *("--json", "cert", "rotate", "authority", "--overlap", "6s"), profile=server.local
    )

    assert done.returncode == 0, done.stderr
    rotated = json.loads(done.stdout)
    listed = admin.cert.authority().authorities
    assert [(each.fingerprint, each.is_own, each.until) for each in listed] == [
        (rotated["fingerprint"], True, None),
        (before[0].fingerprint, False, rotated["until"]),
    ]
    fresh = server.issue("fresh", "operator")
    assert all(is_let_in(server, each) for each in (stays_away, fresh, server.admin))
    yesterday(renews)
    assert is_let_in(server, renews)
    old, new = admin.cert.show(name="away"), admin.cert.show(name="renews")
    assert (old.authority, new.authority) == (listed[1].id, listed[0].id)
    assert abs(new.not_after - old.not_after) < 10
    with server.client(stays_away) as connected:
        connected.server.health()

        def is_cut_off() -> bool:
            try:
                connected.server.health()
            except UnauthenticatedError:
                return True
            return False

        eventually(is_cut_off, timeout=15)
    assert is_let_in(server, renews)
    assert is_let_in(server, fresh)
    assert not is_let_in(server, stays_away)
    assert len(admin.cert.authority().authorities) == 1
    # The name of who was cut off is free.
    assert server.ctl(
        "cert", "issue", "away", "--role", "observer", "--out", server.root / "new.toml",
        profile=server.local,
    ).returncode == 0  # fmt: skip


def test_a_key_of_systemd_s_is_not_rotated(server: Server) -> None:
    server.stop()
    credentials = server.root / "credentials"
    credentials.mkdir(0o700)
    for name in ("host.key", "authority.key"):
        (server.directory / "keys" / name).rename(credentials / name)
    server.environ["CREDENTIALS_DIRECTORY"] = str(credentials)

    server.start()

    with server.client(server.local) as admin:
        for what in ("host", "authority"):
            with pytest.raises(ConflictError, match="came as a systemd credential") as caught:
                admin.cert.rotate(what=what)
            assert caught.value.hint is not None
            assert "LoadCredential=" in caught.value.hint
    assert sorted(path.name for path in credentials.iterdir()) == ["authority.key", "host.key"]
