"""Certificates on the command line: issued once whatever is lost, and added by a public key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from descartesd.client import Client
from descartesd.errors import AlreadyExistsError
from descartesd.keys.curve import load_key_file
from descartesd.keys.profile import Profile, load_profile
from tests.support.server import Server


@pytest.fixture(scope="module")
def client(shared_server: Server) -> Iterator[Client]:
    with shared_server.client(shared_server.local) as made:
        yield made


def test_a_lost_reply_does_not_lose_the_name(
    shared_server: Server, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "ci.toml"
    words = ("cert", "issue", "lost", "--role", "operator", "--days", "9", "--out", str(out))
    profile = tmp_path / "nobody.toml"
    profile.write_text(f'endpoints = ["ipc://{tmp_path}/none.sock"]\n', encoding="ascii")

    failed = shared_server.ctl(*words, profile=profile)

    kept = tmp_path / "ci.toml.key"
    assert failed.returncode == 5
    assert f"say the same again: it goes on with the key in '{kept}'" in failed.stderr.decode()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert not out.exists()
    # As if the server had got it and only the answer was lost.
    pair = load_key_file(str(kept))
    signed = client.cert.sign(public_key=pair.public_text, name="lost", role="operator", days=9)

    again = shared_server.ctl(*words)

    assert again.returncode == 0, again.stderr
    made = load_profile(str(out))
    assert (made.public_key, made.certificate) == (pair.public_text, signed.certificate)
    assert not kept.exists()
    with shared_server.client(out) as lost:
        assert lost.server.hello().identity.name == "lost"


def test_a_refusal_keeps_no_key(shared_server: Server, tmp_path: Path) -> None:
    out = tmp_path / "x.toml"

    refused = shared_server.ctl("cert", "issue", "admin", "--role", "admin", "--out", out)

    assert refused.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_other_terms_for_a_known_key_are_no_repetition(client: Client) -> None:
    public = zmq.curve_keypair()[0].decode()
    first = client.cert.sign(public_key=public, name="twice", role="observer", days=9)

    assert client.cert.sign(public_key=public, name="twice", role="observer", days=9) == first
    for terms in ({"role": "admin", "days": 9}, {"role": "observer", "days": 8}):
        with pytest.raises(AlreadyExistsError):
            client.cert.sign(public_key=public, name="twice", **terms)


def test_a_public_key_is_added_like_an_authorised_one(
    shared_server: Server, tmp_path: Path
) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    path = tmp_path / "alice.pub"
    path.write_text(f"{public}\n", encoding="ascii")

    done = shared_server.ctl(
        "--json", "cert", "add", path, "--role", "observer", "--renew-until", "700"
    )

    assert done.returncode == 0, done.stderr
    added = json.loads(done.stdout)
    assert (added["name"], added["role"]) == ("alice", "observer")
    profile = Profile((shared_server.endpoint,), (added["server_key"],), public, secret)
    with Client(profile) as alice:
        assert alice.server.hello().identity.id == f"key:{added['fingerprint']}"
    shown = json.loads(shared_server.ctl("--json", "cert", "show", "alice").stdout)
    assert shown["renew_until"] - shown["not_before"] == 700 * 86_400


@pytest.mark.parametrize(
    "content", ["", "too short", "0" * 40 + " x", 'secret-key = "x"\npublic-key = "y"', "é" * 40]
)
def test_what_is_no_public_key_is_not_added(
    shared_server: Server, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "bob.pub"
    path.write_text(content, encoding="utf-8")

    done = shared_server.ctl("cert", "add", path, "--role", "observer")

    assert done.returncode == 2
    assert "is not a public key" in done.stderr.decode()


def test_a_key_from_standard_input_needs_a_name(shared_server: Server) -> None:
    public = zmq.curve_keypair()[0]

    nameless = shared_server.ctl("cert", "add", "-", "--role", "observer", stdin=public)
    named = shared_server.ctl(
        "cert", "add", "-", "--name", "piped", "--role", "observer", stdin=public
    )

    assert nameless.returncode == 2
    assert named.returncode == 0, named.stderr
