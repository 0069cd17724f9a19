"""A certificate is renewed at two thirds of its life, over its holder's own connection."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import AsyncClient, Client
from descartesd.errors import ConflictError, InvalidArgumentError, UnauthenticatedError
from descartesd.keys.authority import load_authority
from descartesd.keys.certificate import Certificate, armour, renewal_due, sign, terms
from descartesd.keys.curve import generate
from descartesd.keys.profile import Profile, create_profile, load_profile
from descartesd.keys.z85 import decode_key
from tests.support.eventually import eventually
from tests.support.server import Server

HOUR, DAY = 3600, 86_400
OWN_ROLE = '\n[policy.roles.fixed]\nmethods = { "*" = "own" }\ndeny = ["cert.renew"]\n'


@pytest.fixture(scope="module")
def fixed() -> Iterator[Server]:
    """A server with a role that may not renew."""
    with Server() as server:
        with server.config.open("a") as file:
            file.write(OWN_ROLE)
        server.start()
        yield server


def certified(
    server: Server, name: str, *, age_s: int, life_s: int, renew_s: int = 0, role: str = "operator"
) -> Path:
    """A profile whose certificate began a while ago; it can be renewed for `renew_s` from now."""
    authority = load_authority(str(server.directory / "keys/authority.key"))
    pair = generate()
    start = int(time.time()) - age_s
    certificate = Certificate(
        kind="client",
        serial=os.urandom(8),
        name=name,
        key=pair.public,
        roles=(role,),
        not_before=start,
        not_after=start + life_s,
        renew_until=max(start + life_s, start + age_s + renew_s),
        authority=authority.id,
    )
    text = armour(sign(certificate, authority.seed))
    with server.client(server.local) as admin:
        admin.cert.add(certificate=text)
    path = server.directory / f"profiles/{name}.toml"
    create_profile(
        str(path),
        Profile(
            (server.endpoint,),
            (server.public_key,),
            pair.public_text,
            pair.secret_text,
            text,
            renew_at=renewal_due(text),
        ),
    )
    return path


def stated(profile: Path) -> Certificate:
    return terms(load_profile(str(profile)).certificate or "")


def doctor(server: Server, profile: Path) -> dict[str, object]:
    done = server.ctl("--json", "doctor", profile=profile)
    [found] = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "certificate"]
    return dict(found)


def test_fault_40_a_client_renews_at_two_thirds_and_rewrites_its_profile(fixed: Server) -> None:
    profile = certified(fixed, "due", age_s=3 * HOUR, life_s=4 * HOUR, renew_s=30 * DAY)
    before = stated(profile)
    with profile.open("a") as file:
        file.write("\n[client]\nrequest_timeout_secs = 7.0\n")

    with fixed.client(profile) as client:
        client.server.health()
        # Only once: it is not due any more.
        first = stated(profile)
        client.server.health()

    after = stated(profile)
    assert after == first
    assert after.serial != before.serial
    assert (after.key, after.name, after.roles) == (before.key, before.name, before.roles)
    assert abs(after.not_after - time.time() - 4 * HOUR) < 60
    assert after.renew_until == before.renew_until
    assert stat.S_IMODE(profile.stat().st_mode) == 0o600
    loaded = load_profile(str(profile))
    assert loaded.client.request_timeout_secs == 7.0
    assert loaded.renew_at == renewal_due(loaded.certificate or "")
    with fixed.client(fixed.local) as admin:
        shown = admin.cert.show(name="due")
        assert (shown.serial, shown.not_after) == (after.serial.hex(), after.not_after)


def test_fault_40_the_client_for_asyncio_does_too_and_a_young_certificate_stays(
    fixed: Server,
) -> None:
    due = certified(fixed, "async-due", age_s=3 * HOUR, life_s=4 * HOUR, renew_s=30 * DAY)
    young = certified(fixed, "young", age_s=HOUR, life_s=4 * HOUR, renew_s=30 * DAY)
    before = {path: stated(path) for path in (due, young)}

    async def ask(path: Path) -> None:
        async with AsyncClient(str(path)) as client:
            await client.server.health()

    for path in before:
        asyncio.run(ask(path))

    assert stated(due).not_after > before[due].not_after
    assert stated(young) == before[young]


def test_fault_40_a_renewal_ends_where_it_may_go_no_further(fixed: Server) -> None:
    profile = certified(fixed, "bounded", age_s=3 * HOUR, life_s=4 * HOUR, renew_s=2 * HOUR)
    with fixed.client(profile) as client:
        client.server.health()
        last = stated(profile)
        assert last.not_after == last.renew_until
        assert load_profile(str(profile)).renew_at is None
        with pytest.raises(ConflictError, match="can be renewed until"):
            client.cert.renew()


def test_fault_40_work_goes_on_while_renewal_fails_and_doctor_warns(fixed: Server) -> None:
    profile = certified(
        fixed, "denied", age_s=37 * HOUR, life_s=40 * HOUR, renew_s=30 * DAY, role="fixed"
    )
    before = profile.read_bytes()

    with fixed.client(profile) as client:
        assert client.server.hello().renew
        assert client.agent.list().agents == []
    assert profile.read_bytes() == before
    found = doctor(fixed, profile)
    assert found["ok"] is False
    assert "was to be renewed" in str(found["detail"])
    by_hand = fixed.ctl("cert", "renew", profile=profile)
    assert by_hand.returncode == 4
    with fixed.client(fixed.local) as local:
        assert local.server.hello().identity.role == "admin"


def test_fault_40_an_expired_certificate_locks_its_holder_out_and_not_the_administrator(
    fixed: Server,
) -> None:
    profile = certified(fixed, "short", age_s=HOUR, life_s=HOUR + 2)
    with fixed.client(profile) as client:

        def is_refused() -> bool:
            try:
                client.server.hello()
            except UnauthenticatedError:
                return True
            return False

        eventually(is_refused)
    found = doctor(fixed, profile)
    assert found["ok"] is False
    assert "expired" in str(found["detail"])
    with fixed.client(fixed.local) as local:
        assert local.server.hello().identity.role == "admin"
        with pytest.raises(InvalidArgumentError, match="with a certificate"):
            local.cert.renew()


def test_a_certificate_is_renewed_by_hand_at_any_age(fixed: Server) -> None:
    profile = certified(fixed, "hand", age_s=HOUR, life_s=4 * HOUR, renew_s=30 * DAY)
    before = stated(profile)

    done = fixed.ctl("cert", "renew", profile=profile)

    assert done.returncode == 0, done.stderr
    assert stated(profile).not_after > before.not_after
    assert doctor(fixed, profile)["ok"] is True


def test_a_profile_seen_to_today_asks_nothing_and_one_of_yesterday_once(fixed: Server) -> None:
    profile = fixed.issue("daily", "observer")

    def hellos() -> int:
        with Client(str(fixed.local)) as local:
            methods = local.server.stats().methods
            return methods["server.hello"].requests if "server.hello" in methods else 0

    with fixed.client(profile) as client:
        client.server.health()
    before = hellos()
    os.utime(profile, (time.time() - DAY - 60,) * 2)
    for _ in range(2):
        with fixed.client(profile) as client:
            client.server.health()

    assert hellos() == before + 1
    assert time.time() - profile.stat().st_mtime < 60
    assert decode_key(load_profile(str(profile)).public_key or "")
