"""Who is let in, who is not, and what a peer can make the server believe of itself."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from descartesd.client import Client
from descartesd.errors import UnauthenticatedError, UnavailableError
from descartesd.keys.curve import fingerprint
from descartesd.keys.profile import ClientSettings, Profile, create_profile
from descartesd.keys.z85 import decode_key
from tests.faults.inprocess import Front
from tests.faults.peers import Keys, Peer, Peers, handshake_failures, keys_of, request, unknown_keys
from tests.support.eventually import eventually
from tests.support.rawcurve import Property, RawCurve, properties
from tests.support.server import Server

_EVENT = struct.Struct("=HI")
NOT_LET_IN = (TimeoutError, ConnectionResetError)


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def profile_of(endpoint: str, keys: Keys) -> Profile:
    server, public, secret = (key.decode() for key in keys)
    return Profile((endpoint,), (server,), public, secret, client=ClientSettings())


def shown(key: bytes) -> str:
    return fingerprint(decode_key(key.decode()))


def verdict(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: Keys) -> int:
    """The ZAP status a peer is refused with, 200 when it is let in, 0 when nobody decides."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.curve_serverkey = keys.server
    socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
    monitor = socket.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED
    )
    monitor.rcvtimeo = 500
    socket.connect(endpoint)
    try:
        event, value = _EVENT.unpack(monitor.recv_multipart()[0][: _EVENT.size])
        return 200 if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else value
    except zmq.Again:
        return 0
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)


def test_fault_10_a_server_with_another_key_is_refused_and_the_key_expected_is_named(
    shared_server: Server, peers: Peers
) -> None:
    expected, _ = zmq.curve_keypair()
    before = handshake_failures(shared_server)["protocol"]

    with (
        Client(profile_of(shared_server.endpoint, peers.admin._replace(server=expected))) as client,
        pytest.raises(UnauthenticatedError, match="wrong server key") as caught,
    ):
        client.server.hello()

    assert shown(expected) in caught.value.message
    # A client that was let in just now and is silent is told apart after some seconds.
    eventually(lambda: handshake_failures(shared_server)["protocol"] - before >= 3, timeout=10)


def test_fault_10_a_silent_client_hides_no_wrong_key(shared_server: Server, peers: Peers) -> None:
    expected, _ = zmq.curve_keypair()
    before = handshake_failures(shared_server)["protocol"]

    with RawCurve.connect(shared_server.endpoint, *peers.admin.raw) as silent:
        silent.handshake()
        with (
            Client(
                profile_of(shared_server.endpoint, peers.admin._replace(server=expected))
            ) as client,
            pytest.raises(UnauthenticatedError, match="wrong server key"),
        ):
            client.server.hello()

        # As soon as the silent one is open for longer than a handshake may take.
        eventually(lambda: handshake_failures(shared_server)["protocol"] - before >= 3, timeout=10)


def test_fault_11_unknown_client_key_is_refused_within_a_second(shared_server: Server) -> None:
    keys = unknown_keys(shared_server)
    begun = time.monotonic()

    with (
        Client(profile_of(shared_server.endpoint, keys)) as client,
        pytest.raises(UnauthenticatedError) as caught,
    ):
        client.server.hello()

    assert time.monotonic() - begun < 1
    assert caught.value.message.startswith(f"key not authorised {shown(keys.public)}")


def test_fault_11_an_unknown_client_key_ends_the_command_with_its_own_status(
    shared_server: Server, tmp_path: Path
) -> None:
    keys = unknown_keys(shared_server)
    path = tmp_path / "stranger.toml"
    create_profile(str(path), profile_of(shared_server.endpoint, keys))

    done = shared_server.ctl("server", "health", profile=path)

    assert done.returncode == 4
    assert f"key not authorised {shown(keys.public)}" in done.stderr.decode()


def test_fault_11_a_refused_client_does_not_knock_again() -> None:
    asked: list[bytes] = []

    def refuse(_address: str, key: bytes) -> None:
        asked.append(key)

    with Front(refuse) as front:
        keys = Keys(front.public, *zmq.curve_keypair())
        with Client(profile_of(front.endpoint, keys)) as client:
            for _ in range(2):
                with pytest.raises(UnauthenticatedError):
                    client.server.hello()
            # A knock of somebody else: whatever the client sent before has been seen by then.
            with (
                Client(profile_of(front.endpoint, keys)) as other,
                pytest.raises(UnauthenticatedError),
            ):
                other.server.hello()

    assert len(asked) == 3


def test_fault_12_without_a_zap_handler_nobody_enters(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    with Front(lambda _address, _key: "key:anybody") as front:
        keys = Keys(front.public, *zmq.curve_keypair())
        assert verdict(context, front.endpoint, keys) == 200
        early = Peer(context, front.endpoint, keys)
        early.socket.send(b"early")
        assert early.socket.recv() == b"key:anybody"

        front.run(front.zap.close)

        assert verdict(context, front.endpoint, keys) == 0
        assert verdict(context, front.endpoint, Keys(front.public, *zmq.curve_keypair())) == 0
        with (
            RawCurve.connect(front.endpoint, *keys.raw, timeout=0.5) as raw,
            pytest.raises(NOT_LET_IN),
        ):
            raw.handshake(properties(b"DEALER", b"", (b"User-Id", b"key:anybody")))
        early.socket.send(b"still here")
        assert early.socket.recv() == b"key:anybody"
        early.close()


def test_fault_13_a_failing_look_up_refuses_that_peer_and_serves_the_next(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    public, secret = zmq.curve_keypair()

    def authenticate(_address: str, key: bytes) -> str:
        if key == decode_key(public.decode()):
            raise OSError("the disk is gone")
        return "key:next"

    with Front(authenticate) as front:
        poison = Keys(front.public, public, secret)
        for _ in range(3):
            assert verdict(context, front.endpoint, poison) == 500
            following = Peer(context, front.endpoint, Keys(front.public, *zmq.curve_keypair()))
            following.socket.send(b"")
            assert following.socket.recv() == b"key:next"
            following.close()
        with (
            Client(profile_of(front.endpoint, poison), connect_timeout_s=0.5) as client,
            pytest.raises(UnavailableError, match="could not check the key"),
        ):
            client.server.hello()

        assert front.zap.failed >= 4
        assert front.zap.accepted == 3


def test_fault_13_a_trust_store_that_is_gone_lets_nobody_in_until_it_is_back(
    server: Server,
) -> None:
    trust = server.directory / "state" / "trust"
    away = server.directory / "state" / "away"

    with Peers(server) as peers:
        connected = peers.connect()
        connected.result("server.hello")
        os.rename(trust, away)
        with (
            server.client(connect_timeout_s=0.3) as client,
            pytest.raises(UnavailableError, match="could not check the key"),
        ):
            client.server.hello()
        with server.client(server.local) as local:
            assert local.server.health().status == "degraded"
        assert connected.result("server.hello")["identity"]["role"] == "admin"
        os.rename(away, trust)

        with server.client() as client:
            assert client.server.hello().identity.role == "admin"


USER, ADDRESS = b"User-Id", b"Peer-Address"
CLAIMS = {
    "root": [(USER, b"uid:0")],
    "unix": [(USER, b"uid:0"), (ADDRESS, b"localhost:0:0:1")],
    "empty": [(USER, b"")],
    "lower case": [(b"user-id", b"uid:0"), (b"peer-address", b"localhost:0:0:1")],
    "twice": [(USER, b"uid:0"), (USER, b"uid:0")],
}


@pytest.fixture(scope="module")
def humble(shared_server: Server) -> Keys:
    return keys_of(shared_server.issue("humble", "observer"))


def ask(peer: RawCurve, method: str, **params: Any) -> dict[str, Any]:
    """Send a request and return what comes back."""
    peer.send(request(method, params))
    answer: dict[str, Any] = msgpack.unpackb(*peer.receive())
    return answer


@pytest.mark.parametrize("claims", CLAIMS.values(), ids=CLAIMS.keys())
def test_fault_15_what_a_client_claims_to_be_is_ignored(
    shared_server: Server, humble: Keys, claims: list[Property]
) -> None:
    with RawCurve.connect(shared_server.endpoint, *humble.raw) as liar:
        liar.handshake(properties(b"DEALER", b"", *claims))
        identity = ask(liar, "server.hello")["result"]["identity"]
        refused = ask(liar, "agent.spawn", spec={"command": ["true"]})["error"]["code"]

    assert identity == {"id": f"key:{shown(humble.public)}", "role": "observer", "name": "humble"}
    assert refused == "permission_denied"


def test_fault_15_another_identity_cannot_be_claimed_either(
    shared_server: Server, peers: Peers, humble: Keys
) -> None:
    admin = f"key:{shown(peers.admin.public)}"
    assert peers.connect().result("server.hello")["identity"]["id"] == admin

    with RawCurve.connect(shared_server.endpoint, *humble.raw) as liar:
        liar.handshake(properties(b"DEALER", b"admin", (USER, admin.encode())))
        identity = ask(liar, "server.hello")["result"]["identity"]

    assert identity["name"] == "humble"


def test_who_asks_is_decided_at_each_message(shared_server: Server, peers: Peers) -> None:
    keys = keys_of(shared_server.issue("leaver", "operator"))
    certificate = shared_server.directory / "state" / "trust" / "leaver.cert"
    text = certificate.read_bytes()
    leaver = peers.connect(keys)
    assert leaver.result("server.hello")["identity"]["name"] == "leaver"

    certificate.unlink()
    # Any handshake makes the server look at its trust store.
    peers.connect().result("server.hello")

    assert leaver.refusal("server.hello") == "unauthenticated"
    assert leaver.refusal("agent.spawn", {"spec": {"command": ["true"]}}) == "unauthenticated"

    certificate.write_bytes(text)
    peers.connect().result("server.hello")

    assert leaver.result("server.hello")["identity"]["name"] == "leaver"
    certificate.unlink()


def test_a_certificate_taken_away_opens_no_further_connection(
    shared_server: Server, peers: Peers, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    keys = keys_of(shared_server.issue("former", "operator"))
    assert verdict(context, shared_server.endpoint, keys) == 200

    (shared_server.directory / "state" / "trust" / "former.cert").unlink()

    assert verdict(context, shared_server.endpoint, keys) == 400
