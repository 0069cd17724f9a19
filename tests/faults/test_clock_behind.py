"""Certificates and keys made while the host's clock is behind what it was: row 48."""

from __future__ import annotations

import time

import pytest

from tests.support.server import Server

DAY_S = 86_400


@pytest.fixture
def behind(server: Server) -> Server:
    """A server whose host's clock has been set back by ten days over a restart."""
    server.stop()
    noted = server.directory / "state/clock"
    noted.write_text(f"{time.time() + 10 * DAY_S:.0f}\n", encoding="ascii")
    noted.chmod(0o600)
    server.start()
    return server


def test_fault_48_a_join_string_is_good_for_as_long_as_it_says(behind: Server) -> None:
    with behind.client() as admin:
        made = admin.cert.token(role="operator", ttl_s=60, name="bob")
        [listed] = admin.cert.list().tokens

    out = behind.directory / "bob.toml"
    done = behind.ctl("login", "-", "--out", out, stdin=made.join.encode())

    assert done.returncode == 0, done.stderr.decode()
    assert listed.fingerprint == made.fingerprint
    # By the time this server goes by, not by the host's.
    assert made.expires_at > time.time() + 9 * DAY_S


def test_fault_48_an_authority_that_is_given_up_is_believed_for_the_overlap(
    behind: Server,
) -> None:
    with behind.client() as admin:
        rotated = admin.cert.rotate(what="authority", overlap_s=3600)

        assert rotated.until > time.time() + 9 * DAY_S
        assert admin.server.hello().identity.name == "admin"
        statuses = {each.name: each.status for each in admin.cert.list().certificates}
    assert statuses["admin"] == "valid"


def test_fault_48_the_next_host_key_has_its_turn_after_the_overlap(behind: Server) -> None:
    before = behind.public_key
    with behind.client() as admin:
        rotated = admin.cert.rotate(what="host", overlap_s=3600)

        assert rotated.until > time.time() + 9 * DAY_S
        assert admin.server.hello().next_server_key == rotated.public_key
    assert behind.public_key == before
