"""Join strings in the wrong hands: seen by others, or kept over a revocation: row 41."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from descartesd.client import Client
from descartesd.errors import InvalidArgumentError, NotFoundError, UnauthenticatedError
from descartesd.keys.curve import CurveKeyPair, generate, pair_of
from descartesd.keys.join import parse_join
from descartesd.keys.profile import Profile
from descartesd.keys.z85 import encode_key
from descartesd.wire.cert import SignedCertificate
from tests.faults.peers import Keys, Peer, Peers, logged
from tests.support.server import Server


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    with server.client(server.local) as client:
        yield client


def pair_in(join: str) -> CurveKeyPair:
    """The key pair a join string holds."""
    return pair_of(parse_join(join).token)


def enroll(join: str, key: CurveKeyPair, **params: str) -> SignedCertificate:
    parsed, pair = parse_join(join), pair_in(join)
    server_key = encode_key(parsed.server_key)
    guest = Profile((parsed.endpoint,), (server_key,), pair.public_text, pair.secret_text)
    with Client(guest) as client:
        return client.cert.enroll(public_key=key.public_text, **params)


def test_fault_41_the_key_in_a_join_string_is_certified_for_nobody(admin: Client) -> None:
    join = admin.cert.token(role="admin", ttl_s=60).join
    other = admin.cert.token(role="observer", ttl_s=60).join

    for seen in (join, other):
        with pytest.raises(InvalidArgumentError, match="which others have seen"):
            enroll(join, pair_in(seen), name="lazy")

    assert enroll(join, generate(), name="careful").role == "admin"


def test_fault_41_a_certificate_that_was_removed_by_hand_is_not_issued_again(
    server: Server, admin: Client
) -> None:
    join = admin.cert.token(role="operator", ttl_s=60, name="bob").join
    key = generate()
    first = enroll(join, key)
    assert enroll(join, key).certificate == first.certificate

    (server.directory / "state/trust/bob.cert").unlink()
    admin.cert.list()

    with pytest.raises(UnauthenticatedError, match="not authorised"):
        enroll(join, key)
    assert "bob" not in [each.name for each in admin.cert.list().certificates]


def test_fault_41_open_join_strings_for_a_revoked_name_are_ended(admin: Client) -> None:
    lost = admin.cert.token(role="operator", ttl_s=600, name="bob")
    enroll(admin.cert.token(role="operator", ttl_s=600, name="bob").join, generate())
    others = admin.cert.token(role="operator", ttl_s=600)

    revoked = admin.cert.revoke(name="bob")

    assert revoked.join_strings == 1
    with pytest.raises(UnauthenticatedError):
        enroll(lost.join, generate())
    assert enroll(others.join, generate(), name="eve").name == "eve"


def test_fault_41_a_join_string_is_revoked_by_the_name_it_is_for(admin: Client) -> None:
    made = admin.cert.token(role="operator", ttl_s=600, name="carol")

    revoked = admin.cert.revoke(name="carol")

    assert (revoked.name, revoked.fingerprint) == ("carol", made.fingerprint)
    assert admin.cert.list().tokens == []
    with pytest.raises(UnauthenticatedError):
        enroll(made.join, generate())
    with pytest.raises(NotFoundError):
        admin.cert.revoke(name="dave")


def test_fault_41_a_revoked_administrator_comes_not_in_again_by_a_join_string_of_his(
    server: Server, admin: Client
) -> None:
    with server.client(server.issue("thief", "admin")) as thief:
        kept = thief.cert.token(role="admin", ttl_s=600).join
        introduction = thief.cert.token(introduction=True, ttl_s=600)

    assert admin.cert.revoke(name="thief").join_strings == 1

    with pytest.raises(UnauthenticatedError):
        enroll(kept, generate(), name="again")
    # It lets nobody in by itself, and a fleet may rely on it.
    assert [each.fingerprint for each in admin.cert.list().tokens] == [introduction.fingerprint]


def test_the_list_of_who_is_let_in_has_the_open_join_strings(server: Server, admin: Client) -> None:
    opened = admin.cert.token(role="operator", ttl_s=600, name="bob")
    used = admin.cert.token(role="operator", ttl_s=600, name="carol")
    enroll(used.join, generate())

    rows = server.ctl("cert", "list", profile=server.local).stdout.decode().splitlines()

    [row] = [row for row in rows if "join string" in row]
    assert row.split()[:2] == ["bob", "operator"]
    assert opened.fingerprint in row


def test_a_wrong_fingerprint_is_refused_in_words(server: Server) -> None:
    refused = server.ctl("cert", "revoke", "SHA256:abc", profile=server.local)

    assert refused.returncode == 2
    assert b"the 43 characters of a fingerprint" in refused.stderr


@pytest.fixture
def peers(server: Server) -> Iterator[Peers]:
    with Peers(server) as made:
        yield made


def holder_of(peers: Peers, join: str) -> Peer:
    """Who connects with the key of a join string and stays."""
    parsed, pair = parse_join(join), pair_in(join)
    texts = (encode_key(parsed.server_key), pair.public_text, pair.secret_text)
    return peers.connect(Keys(*(text.encode() for text in texts)), timeout=10)


def attempts(server: Server, guest: Peer, method: str, params: dict[str, str]) -> int:
    """The lines 200 attempts add to the audit log; none of them succeeds."""

    def lines() -> int:
        return len((server.directory / "state/audit.jsonl").read_bytes().splitlines())

    before = lines()
    for _ in range(200):
        assert "error" in guest.ask(method, params)
    return lines() - before


@pytest.mark.parametrize("mistake", ["another key", "no name", "a taken name"])
def test_fault_41_who_is_in_and_goes_on_failing_is_not_listened_to(
    server: Server, admin: Client, peers: Peers, mistake: str
) -> None:
    join = admin.cert.token(role="observer", ttl_s=600).join
    if mistake == "another key":
        enroll(join, generate(), name="first")
    others = admin.cert.token(role="observer", ttl_s=600).join
    params = {"another key": {"name": "thief"}, "no name": {}, "a taken name": {"name": "admin"}}
    asked = {"public_key": generate().public_text, **params[mistake]}

    written = attempts(server, holder_of(peers, join), "cert.enroll", asked)

    # Two lines for each of the five, and what is refused afterwards summed up.
    assert written < 30
    if mistake != "another key":
        assert enroll(others, generate(), name="second").role == "observer"


def test_fault_41_who_presents_rubbish_is_not_listened_to_and_others_are(
    server: Server, admin: Client, peers: Peers
) -> None:
    join = admin.cert.token(introduction=True, ttl_s=600).join
    other = admin.cert.token(introduction=True, ttl_s=600).join

    asked = {"certificate": "rubbish"}
    written = attempts(server, holder_of(peers, join), "cert.present", asked)

    assert written < 150
    assert len(logged(server, "certificate.refused")) == 60
    assert holder_of(peers, other).refusal("cert.present", asked) == "unauthenticated"
    assert len(logged(server, "certificate.refused")) == 61


def test_fault_41_nobody_takes_the_name_the_audit_log_gives_the_server_itself(
    admin: Client,
) -> None:
    # With a join string for nobody in particular its holder chooses a name.
    join = admin.cert.token(role="observer", ttl_s=600).join
    [start] = admin.audit.show(method="server.start").lines

    with pytest.raises(InvalidArgumentError, match="the server's own"):
        enroll(join, generate(), name=start.identity)


def test_fault_41_a_join_string_is_good_for_ten_requests_a_second(
    admin: Client, peers: Peers
) -> None:
    join = admin.cert.token(role="observer", ttl_s=600).join
    key = generate()
    enroll(join, key, name="first")
    guest = holder_of(peers, join)
    asked = {"public_key": key.public_text, "name": "first"}
    for number in range(200):
        guest.send("cert.enroll", asked, id=number)

    answers = [guest.receive() for _ in range(200)]

    codes = [each["error"]["code"] for each in answers if "error" in each]
    assert set(codes) == {"resource_exhausted"}
    assert len(codes) > 100
