"""A colleague is let in by a join string: once, for a while, for one key."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from descartesd.client import Client
from descartesd.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from descartesd.keys.curve import pair_of
from descartesd.keys.join import parse_join
from descartesd.keys.profile import Profile, load_profile
from descartesd.keys.z85 import encode_key
from descartesd.wire.cert import SignedCertificate
from tests.faults.peers import logged
from tests.support.eventually import eventually
from tests.support.server import BIN, Server


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    with server.client(server.local) as client:
        yield client


@pytest.fixture
def shared_admin(shared_server: Server) -> Iterator[Client]:
    with shared_server.client(shared_server.local) as client:
        yield client


def login(home: Path, join: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Log in as somebody with an empty home on another host."""
    return subprocess.run(
        [BIN / "descartesctl", *words, "login", "-"],
        input=join,
        capture_output=True,
        text=True,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        timeout=30,
        check=False,
    )


def guest(join: str, endpoint: str | None = None) -> Profile:
    """Who connects with the key of a join string."""
    parsed = parse_join(join)
    pair = pair_of(parsed.token)
    return Profile(
        (endpoint or parsed.endpoint,),
        (encode_key(parsed.server_key),),
        pair.public_text,
        pair.secret_text,
    )


def enroll(join: str, public_key: str, **params: str) -> SignedCertificate:
    with Client(guest(join)) as client:
        return client.cert.enroll(public_key=public_key, **params)


def new_key() -> str:
    return zmq.curve_keypair()[0].decode()


def test_login_on_an_empty_home_makes_a_profile_that_works_and_the_same_string_no_second(
    server: Server, tmp_path: Path
) -> None:
    made = server.ctl("--json", "cert", "token", "--role", "operator", "--ttl", "10m")
    assert made.returncode == 0, made.stderr
    join = json.loads(made.stdout)["join"]
    assert join.startswith(f"descartes1:127.0.0.1:{server.port}:")

    done = login(tmp_path, join, "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    path = tmp_path / ".config/descartes/default.toml"
    assert told["profile"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(os.listdir(path.parent)) == ["default.toml"]
    with Client(load_profile(str(path))) as colleague:
        identity = colleague.server.hello().identity
    assert (identity.role, identity.name) == ("operator", told["name"])

    again = login(tmp_path, join)
    assert again.returncode == 7
    assert "--force" in again.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert login(elsewhere, join).returncode == 4
    assert not (elsewhere / ".config/descartes/default.toml").exists()
    # It was a good profile, and still is.
    assert load_profile(str(path)).public_key is not None


def test_no_secret_of_a_token_stays_on_the_server(server: Server, admin: Client) -> None:
    join = admin.cert.token(role="observer").join
    token = parse_join(join).token
    enroll(join, new_key(), name="someone")
    admin.server.health()

    forms = [token, encode_key(token).encode(), join.rpartition(":")[2].encode()]
    files = [path for path in server.directory.rglob("*") if path.is_file()]
    found = [path for path in [*files, server.log] for form in forms if form in path.read_bytes()]
    assert found == []
    [kept] = (server.directory / "state/tokens").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_token_lets_its_holder_enroll_and_do_nothing_else(
    shared_server: Server, shared_admin: Client
) -> None:
    join = shared_admin.cert.token(role="admin").join

    with Client(guest(join)) as client:
        for refused in (client.server.hello, client.server.health, client.cert.list):
            with pytest.raises(PermissionDeniedError):
                refused()
        with pytest.raises(InvalidArgumentError, match="one is needed"):
            client.cert.enroll(public_key=new_key())
        with pytest.raises(AlreadyExistsError):
            client.cert.enroll(public_key=new_key(), name="admin")
        # None of it used the token up.
        assert client.cert.enroll(public_key=new_key(), name="second").role == "admin"
    with shared_server.client() as other, pytest.raises(InvalidArgumentError, match="join string"):
        other.cert.enroll(public_key=new_key(), name="third")


def test_a_token_for_somebody_names_him(shared_admin: Client) -> None:
    join = shared_admin.cert.token(role="observer", name="alice", days=3, renew_days=30).join

    with pytest.raises(InvalidArgumentError, match="expected 'alice'"):
        enroll(join, new_key(), name="mallory")
    enroll(join, new_key(), suggestion="mallory")

    shown = shared_admin.cert.show(name="alice")
    assert shown.not_after - shown.not_before == 3 * 86_400
    assert shown.renew_until - shown.not_before == 30 * 86_400


def test_fault_41_a_used_token_answers_its_key_once_more_and_no_other(
    server: Server, admin: Client
) -> None:
    join = admin.cert.token(role="observer").join
    key = new_key()
    signed = enroll(join, key, name="first")

    assert enroll(join, key, name="first") == signed
    with pytest.raises(UnauthenticatedError, match="this key is not authorised"):
        enroll(join, new_key(), name="thief")
    server.crash_and_restart()
    assert enroll(join, key, name="first") == signed
    with pytest.raises(UnauthenticatedError):
        enroll(join, new_key(), name="thief")

    names = [each.name for each in admin.cert.list().certificates]
    assert names == ["admin", "first"]
    [token] = admin.cert.list().tokens
    assert token.used_by == signed.fingerprint
    admin.cert.revoke(name="first")
    with pytest.raises(UnauthenticatedError):
        enroll(join, key, name="first")


def test_fault_41_an_expired_or_a_revoked_token_is_good_for_nothing(admin: Client) -> None:
    short = admin.cert.token(role="observer", ttl_s=3.0)
    long = admin.cert.token(role="observer")
    assert {each.fingerprint for each in admin.cert.list().tokens} == {
        short.fingerprint,
        long.fingerprint,
    }

    admin.cert.revoke(fingerprint=long.fingerprint)

    with pytest.raises(UnauthenticatedError):
        enroll(long.join, new_key(), name="late")
    with Client(guest(short.join)) as early:
        with pytest.raises(InvalidArgumentError):
            early.cert.enroll(public_key=new_key())
        eventually(lambda: admin.cert.list().tokens == [])
        with pytest.raises(UnauthenticatedError):
            early.cert.enroll(public_key=new_key(), name="late")


def test_fault_41_who_guesses_is_closed_out_and_others_are_not(
    server: Server, admin: Client
) -> None:
    join = admin.cert.token(role="observer").join
    server_key = encode_key(parse_join(join).server_key)
    known = server.issue("known", "observer")

    for _ in range(5):
        public, secret = (key.decode() for key in zmq.curve_keypair())
        guess = Profile((server.endpoint,), (server_key,), public, secret)
        with Client(guess) as client, pytest.raises(UnauthenticatedError):
            client.cert.enroll(public_key=new_key(), name="guesser")

    with pytest.raises(UnauthenticatedError):
        enroll(join, new_key(), name="late")
    assert logged(server, "enrolment.closed")[0]["address"] == "127.0.0.1"
    with server.client(known) as client:
        assert client.server.hello().identity.name == "known"


def test_an_answer_lost_at_login_is_asked_for_again_with_the_same_key(
    server: Server, admin: Client, tmp_path: Path
) -> None:
    join = admin.cert.token(role="observer", name="alice").join
    server.stop()
    failed = login(tmp_path, join)
    assert failed.returncode == 5
    assert "say the same again" in failed.stderr
    server.start()

    done = login(tmp_path, join)

    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / ".config/descartes") == ["default.toml"]


def test_force_replaces_a_profile_and_only_when_the_new_one_is_there(
    shared_server: Server, shared_admin: Client, tmp_path: Path
) -> None:
    out = tmp_path / "team.toml"
    out.write_text("mine", encoding="ascii")
    join = shared_admin.cert.token(role="observer", name="forced").join

    def attempt(*more: str) -> int:
        words = ("login", "-", "--out", str(out), *more)
        return shared_server.ctl(*words, stdin=join.encode()).returncode

    assert attempt() == 7
    assert out.read_text() == "mine"
    assert attempt("--force") == 0
    assert load_profile(str(out)).certificate is not None
