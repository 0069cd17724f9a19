"""Certificates signed off line: presented with an introduction key, or added by hand."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import AsyncClient, Client
from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from descartesd.keys.authority import Authority, create_authority
from descartesd.keys.certificate import Certificate, armour, sign
from descartesd.keys.curve import generate, pair_of
from descartesd.keys.join import parse_join
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.offline import open_offline
from descartesd.keys.profile import Profile, load_profile
from descartesd.keys.z85 import encode_key
from tests.faults.peers import logged
from tests.support.server import Server

PASSPHRASE = "correct horse battery"
NOW_TOLERANT = {"not_before": 1_700_000_000, "not_after": 4_000_000_000}


@pytest.fixture(scope="module")
def fleet(shared_server: Server) -> Path:
    """An off-line authority, made on the command line, which the server trusts."""
    root = shared_server.root
    (root / "passphrase").write_text(f"{PASSPHRASE}\n", encoding="ascii")
    (root / "passphrase").chmod(0o600)
    made = shared_server.ctl(
        *("cert", "authority", "--create", root / "fleet.key"),
        *("--passphrase-file", root / "passphrase"),
    )
    assert made.returncode == 0, made.stderr
    trusted = shared_server.ctl("cert", "authority", "--trust", root / "fleet.pub")
    assert trusted.returncode == 0, trusted.stderr
    return root / "fleet.key"


@pytest.fixture(scope="module")
def authority(fleet: Path) -> Authority:
    return open_offline(str(fleet), PASSPHRASE.encode())


@pytest.fixture(scope="module")
def admin(shared_server: Server) -> Iterator[Client]:
    with shared_server.client(shared_server.local) as client:
        yield client


@pytest.fixture
def introduction(admin: Client) -> str:
    return admin.cert.token(introduction=True, ttl_s=86_400.0).join


def offline(
    server: Server, fleet: Path, *words: str | Path, stdin: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that signs with the authority."""
    return server.ctl(
        *words,
        *("--authority", fleet, "--passphrase-file", fleet.parent / "passphrase"),
        stdin=None if stdin is None else stdin.encode(),
    )


def test_a_profile_made_off_line_introduces_itself_and_works(
    shared_server: Server, fleet: Path, introduction: str, tmp_path: Path
) -> None:
    def issue(name: str) -> str:
        out = tmp_path / f"{name}.toml"
        words = ("cert", "issue", name, "--role", "operator", "--introduction", "-", "--out", out)
        done = offline(shared_server, fleet, *words, stdin=introduction)
        assert done.returncode == 0, done.stderr
        assert out.stat().st_mode & 0o777 == 0o600
        return str(out)

    with Client(issue("calls")) as client:
        identity = client.server.hello().identity
        assert (identity.name, identity.role) == ("calls", "operator")
    with Client(issue("streams")) as client, client.event.follow(since=0) as events:
        assert next(events).seq > 0

    async def follow(profile: str) -> int:
        async with AsyncClient(profile) as client, client.event.follow(since=0) as events:
            return (await anext(events)).seq

    assert asyncio.run(follow(issue("async"))) > 0
    # Known from now on: the introduction key is not needed any more.
    again = shared_server.ctl("server", "health", profile=Path(tmp_path / "calls.toml"))
    assert again.returncode == 0


def test_a_certificate_signed_off_line_is_added_by_hand(
    shared_server: Server, fleet: Path, tmp_path: Path
) -> None:
    pair = generate()
    (tmp_path / "alice.pub").write_text(pair.public_text, encoding="ascii")
    words = ("cert", "sign", tmp_path / "alice.pub", "--name", "alice", "--role", "observer")

    signed = offline(shared_server, fleet, *words)
    assert signed.returncode == 0, signed.stderr
    added = shared_server.ctl("--json", "cert", "add", "-", stdin=signed.stdout)

    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["name"] == "alice"
    profile = Profile(
        (shared_server.endpoint,),
        (shared_server.public_key,),
        pair.public_text,
        pair.secret_text,
    )
    with Client(profile) as alice:
        assert alice.server.hello().identity.name == "alice"


def test_issuing_in_a_directory_leaves_what_others_have_signed_alone(
    shared_server: Server, admin: Client, authority: Authority
) -> None:
    text = armour(sign(statement(authority, name="foreign"), authority.seed))
    admin.cert.add(certificate=text)

    done = shared_server.ctl(
        *("cert", "issue", "foreign", "--role", "admin"),
        *("--dir", shared_server.directory, "--out", shared_server.root / "foreign.toml"),
    )

    assert done.returncode == 7
    assert admin.cert.show(name="foreign").certificate == text


def statement(signer: Authority, /, **changes: object) -> Certificate:
    fields: dict[str, object] = {
        "kind": "client",
        "serial": bytes(7) + b"\1",
        "name": "mallory",
        "key": generate().public,
        "roles": ("operator",),
        **NOW_TOLERANT,
        "renew_until": 4_000_000_000,
        "authority": signer.id,
        **changes,
    }
    return Certificate(**fields)  # type: ignore[arg-type]  # made of what each case changes


def wrong(authority: Authority) -> dict[str, bytes]:
    """Certificates that are none, by the reason."""
    good = sign(statement(authority), authority.seed)
    return {
        "expired": sign(statement(authority, not_after=1_700_000_001), authority.seed),
        "not_yet_valid": sign(statement(authority, not_before=3_900_000_000), authority.seed),
        "wrong_kind": sign(statement(authority, kind="server"), authority.seed),
        "wrong_authority": sign(statement(authority, authority=bytes(8)), authority.seed),
        "altered": sign(statement(authority), bytes(32)),
        "unknown_constraint": sign(
            statement(authority, constraints={"cidr": "10.0.0.0/8"}), authority.seed
        ),
        "already_exists": sign(statement(authority, name="admin"), authority.seed),
        "malformed": good,
    }


def guest_of(server: Server, introduction: str) -> Profile:
    pair = pair_of(parse_join(introduction).token)
    return Profile((server.endpoint,), (server.public_key,), pair.public_text, pair.secret_text)


def test_fault_36_every_wrong_certificate_is_refused_alike_and_told_apart_in_the_log(
    shared_server: Server, admin: Client, authority: Authority, introduction: str
) -> None:
    before = len(logged(shared_server, "certificate.refused"))
    listed = admin.cert.list().total
    said = set()
    with Client(guest_of(shared_server, introduction)) as guest:
        for reason, signed in wrong(authority).items():
            text = armour(signed)
            with pytest.raises(UnauthenticatedError) as caught:
                guest.cert.present(
                    certificate=text.replace("mallory", "nobody") if reason == "malformed" else text
                )
            said.add((caught.value.message, caught.value.hint, str(caught.value.details)))
        for refused in (guest.server.hello, guest.cert.list):
            with pytest.raises(PermissionDeniedError):
                refused()

    assert len(said) == 1
    told = [each["reason"] for each in logged(shared_server, "certificate.refused")[before:]]
    assert told == list(wrong(authority))
    assert admin.cert.list().total == listed


def test_fault_36_no_flipped_bit_of_a_presented_certificate_passes(
    shared_server: Server, admin: Client, authority: Authority
) -> None:
    # The closed door is for tokens alone, so an introduction key may try on.
    good = sign(statement(authority, name="bits"), authority.seed)
    places = range(0, len(good) * 8, 37)
    for place in places:
        changed = bytearray(good)
        changed[place // 8] ^= 1 << place % 8
        try:
            text = armour(bytes(changed))
        except UnauthenticatedError:
            continue
        with pytest.raises(UnauthenticatedError):
            admin.cert.add(certificate=text)
    assert "bits" not in [each.name for each in admin.cert.list().certificates]


def test_a_revoked_introduction_key_introduces_nobody(
    shared_server: Server, admin: Client, authority: Authority
) -> None:
    made = admin.cert.token(introduction=True, ttl_s=86_400.0)
    admin.cert.revoke(fingerprint=made.fingerprint)
    text = armour(sign(statement(authority, name="late"), authority.seed))

    with (
        Client(guest_of(shared_server, made.join)) as guest,
        pytest.raises(UnauthenticatedError),
    ):
        guest.cert.present(certificate=text)


def test_a_certificate_revoked_before_it_was_seen_is_never_let_in(
    admin: Client, authority: Authority
) -> None:
    serial = b"leaked!!"
    text = armour(sign(statement(authority, name="leaked", serial=serial), authority.seed))
    admin.cert.revoke(serial=serial.hex(), even_unknown=True)

    with pytest.raises(UnauthenticatedError, match="revoked"):
        admin.cert.add(certificate=text)


def test_an_earlier_certificate_does_not_bring_a_greater_role_back(
    admin: Client, authority: Authority
) -> None:
    key = generate().public
    texts = [
        armour(
            sign(
                statement(
                    authority, name="reduced", key=key, roles=(role,), not_before=1_700_000_000 + at
                ),
                authority.seed,
            )
        )
        for at, role in enumerate(("admin", "observer"))
    ]

    for text in (*texts, texts[0]):
        admin.cert.add(certificate=text)

    assert admin.cert.show(name="reduced").role == "observer"


def test_who_a_distrusted_authority_certified_is_cut_off_and_the_own_one_stays(
    server: Server,
) -> None:
    stranger = Authority(generate().public, b"")
    with server.client(server.local) as admin:
        other = Path(server.root / "other.key")
        signer = create_authority(str(other))
        admin.cert.authority(trust=encode_key(signer.public))
        pair = generate()
        admin.cert.add(
            certificate=armour(signer.issue("theirs", pair.public, "observer", now=time.time()))
        )
        profile = Profile(
            (server.endpoint,), (server.public_key,), pair.public_text, pair.secret_text
        )
        with Client(profile) as theirs:
            theirs.server.hello()

            table = admin.cert.authority(distrust=fingerprint(signer.public))

            assert [each.is_own for each in table.authorities] == [True]
            with pytest.raises(UnauthenticatedError):
                theirs.server.hello()
        with pytest.raises(ConflictError, match="own authority"):
            admin.cert.authority(distrust=table.authorities[0].fingerprint)
        with pytest.raises(NotFoundError):
            admin.cert.authority(distrust=fingerprint(stranger.public))
        with pytest.raises(InvalidArgumentError):
            admin.cert.authority(trust="no key")
    assert load_profile(str(server.admin)).certificate is not None
    with server.client() as admin:
        admin.server.hello()
