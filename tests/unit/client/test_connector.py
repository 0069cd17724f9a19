from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from descartesd.errors import (
    DeadlineExceededError,
    DescartesError,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)
from descartesd.keys.curve import fingerprint
from descartesd.keys.profile import Profile
from descartesd.keys.z85 import decode_key
from descartesd.transport.causes import how_to_start
from descartesd.wire.methods import SERVER_METHODS
from descartesd.wire.server import Empty, MethodTable
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer, ServerKeys
from tests.support.inloop import Connect

NOTHING = MethodTable(methods=[])


def answers(*_: Any) -> MethodTable:
    return NOTHING


def ask(client: Any) -> Any:
    return client.call(SERVER_METHODS, Empty())


def unused_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def failure_of(client: Any, kind: type[DescartesError]) -> tuple[Any, float]:
    """The error of a request, and the seconds it took."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        ask(client)
    return caught.value, time.monotonic() - began


@contextmanager
def listening(speak: bytes | None) -> Iterator[str]:
    """Somebody who accepts and says something else, or (None) never accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_talk, args=(listener, speak))
        if speak is not None:
            thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        if speak is not None:
            thread.join()


def _talk(listener: socket.socket, speak: bytes) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with peer:
            peer.sendall(speak)


def test_an_unknown_key_is_named_at_once_and_asked_about_once(connect: Connect) -> None:
    with FakeServer() as server:
        stranger = ServerKeys()
        stranger.public = server.keys.public

        error, seconds = failure_of(
            connect(stranger.profile(server.endpoint)), UnauthenticatedError
        )

        named = fingerprint(decode_key(stranger.client_public))
        assert f"key not authorised {named}" in error.message
        assert "descartesctl cert issue" in error.hint
        assert not error.retryable
        assert seconds < 1
        assert server.connects == {"400": 1}


def test_a_key_let_in_later_works_without_a_new_client(connect: Connect) -> None:
    with FakeServer() as server:
        server.handlers["server.methods"] = answers
        stranger = ServerKeys()
        stranger.public = server.keys.public
        client = connect(stranger.profile(server.endpoint))
        failure_of(client, UnauthenticatedError)

        server.keys.client_public = stranger.client_public

        assert ask(client) == NOTHING


def test_a_user_without_a_role_is_told_the_line_that_maps_it(
    connect: Connect, tmp_path: Path
) -> None:
    with FakeServer(f"ipc://{tmp_path}/s", zap_status=b"400") as server:
        error, seconds = failure_of(connect(server.profile), UnauthenticatedError)

    assert f"uid {os.getuid()} has no role" in error.message
    assert f'[policy.local_uids]\n{os.getuid()} = "operator"' in error.hint
    assert seconds < 1


def test_a_wrong_server_key_is_told_apart_within_three_seconds(connect: Connect) -> None:
    with FakeServer() as server:
        other = ServerKeys()
        profile = Profile(
            endpoints=(server.endpoint,),
            server_keys=(other.public,),
            public_key=server.keys.client_public,
            secret_key=server.keys.client_secret,
        )

        error, seconds = failure_of(connect(profile), UnauthenticatedError)

        assert "wrong server key" in error.message
        assert fingerprint(decode_key(other.public)) in error.message
        assert "server.pub" in error.hint
        assert seconds < 3
        assert not server.connects


def test_a_wrong_key_beside_the_unix_socket_is_told_apart(connect: Connect, tmp_path: Path) -> None:
    with FakeServer(f"ipc://{tmp_path}/s") as server:
        other = ServerKeys().public
        (tmp_path / "server.pub").write_text(f"{other}\n")

        error, seconds = failure_of(connect(server.profile), UnauthenticatedError)

    assert "wrong server key" in error.message
    assert fingerprint(decode_key(other)) in error.message
    assert seconds < 3


def test_the_key_beside_the_socket_is_read_again_for_each_connection(
    connect: Connect, tmp_path: Path
) -> None:
    server = FakeServer(f"ipc://{tmp_path}/s")
    server.handlers["server.methods"] = answers
    with server:
        client = connect(server.profile)
        assert ask(client) == NOTHING
        server.stop()
        server.keys = ServerKeys()
        server.start()

        assert ask(client) == NOTHING


def test_another_program_at_the_port_does_not_pass_for_a_server(connect: Connect) -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100) as endpoint:
        error, seconds = failure_of(connect(ServerKeys().profile(endpoint)), UnauthenticatedError)

    assert "somebody else answers" in error.hint
    assert seconds < 3


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_nobody_answering_ends_with_the_connect_time_out(
    connect: Connect, tmp_path: Path, kind: str
) -> None:
    endpoint = unused_endpoint() if kind == "tcp" else f"ipc://{tmp_path}/run/control.sock"
    client = connect(ServerKeys().profile(endpoint), connect_timeout_s=0.15)

    error, seconds = failure_of(client, UnavailableError)

    assert f"nobody answers at '{endpoint}'" in error.message
    assert "descartesd --config" in error.hint
    assert error.retryable
    assert 0.1 < seconds < 1


def test_the_hint_names_the_configuration_beside_the_socket(
    connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "descartesd.toml").touch()
    profile = Profile(endpoints=(f"ipc://{tmp_path}/run/control.sock",))

    error, _ = failure_of(connect(profile, connect_timeout_s=0.05), UnavailableError)

    assert f"descartesd --config {tmp_path}/descartesd.toml" in error.hint


def test_the_hint_names_the_service_at_its_own_socket() -> None:
    hint = how_to_start("ipc:///run/descartes/control.sock")

    assert hint == "start it with: sudo systemctl start descartesd"


def test_a_stale_socket_file_is_nobody_answering(connect: Connect, tmp_path: Path) -> None:
    with FakeServer(f"ipc://{tmp_path}/s") as server:
        pass
    assert (tmp_path / "s").is_socket()

    error, _ = failure_of(connect(server.profile, connect_timeout_s=0.1), UnavailableError)

    assert "nobody answers" in error.message


def test_a_socket_without_the_key_beside_it_is_unavailable(
    connect: Connect, tmp_path: Path
) -> None:
    with FakeServer(f"ipc://{tmp_path}/s") as server:
        (tmp_path / "server.pub").unlink()

        error, _ = failure_of(connect(server.profile, connect_timeout_s=0.1), UnavailableError)

    assert "server.pub" in error.message


def test_a_server_that_accepts_and_stays_silent_is_unavailable(connect: Connect) -> None:
    with listening(None) as endpoint:
        client = connect(ServerKeys().profile(endpoint), connect_timeout_s=0.15)
        error, seconds = failure_of(client, UnavailableError)

    assert "no handshake within 0.15 s" in error.message
    assert seconds < 1


@contextmanager
def hanging(path: Path) -> Iterator[str]:
    """A server's socket, as one that hangs has it."""
    path.with_name("server.pub").write_text(f"{ServerKeys().public}\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield f"ipc://{path}"


def test_a_server_on_this_host_that_stays_silent_is_said_to_be_there(
    connect: Connect, tmp_path: Path
) -> None:
    with hanging(tmp_path / "s") as endpoint:
        client = connect(ServerKeys().profile(endpoint), connect_timeout_s=0.15)
        error, _ = failure_of(client, UnavailableError)

    assert f"'{endpoint}' does not answer: no handshake within 0.15 s" in error.message
    assert "the server is there" in error.hint
    assert "firewall" not in error.hint


@pytest.mark.parametrize("timeout_s", [0.1, 0])
def test_a_deadline_that_comes_before_any_sign_of_the_server_is_named_itself(
    connect: Connect, tmp_path: Path, timeout_s: float
) -> None:
    with hanging(tmp_path / "s") as endpoint, listening(None) as far:
        near = failure_of(
            connect(ServerKeys().profile(endpoint), timeout_s=timeout_s), DeadlineExceededError
        )[0]
        other = failure_of(
            connect(ServerKeys().profile(far), timeout_s=timeout_s), DeadlineExceededError
        )[0]

    within = f"within {timeout_s:g} s; 'server.methods' was not sent"
    assert near.message == f"not connected to '{endpoint}' {within}"
    assert other.message == f"not connected to '{far}' {within}"
    assert (near.retryable, near.details) == (True, {"sent": False})
    assert "firewall" not in near.hint
    assert "firewall" in other.hint


def test_a_deadline_does_not_hide_that_nobody_is_there(connect: Connect) -> None:
    endpoint = unused_endpoint()

    error, _ = failure_of(connect(ServerKeys().profile(endpoint), timeout_s=0.15), UnavailableError)

    assert f"nobody answers at '{endpoint}'" in error.message


def test_a_server_that_cannot_check_keys_is_unavailable(connect: Connect) -> None:
    with FakeServer(zap_status=b"500") as server:
        error, _ = failure_of(connect(server.profile, connect_timeout_s=0.15), UnavailableError)

    assert "could not check the key" in error.message


def test_a_socket_of_others_is_not_permitted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
    path.chmod(0o660)
    program = (
        "import os, sys\n"
        "from descartesd.errors import PermissionDeniedError\n"
        "from descartesd.transport.causes import check_unix_socket\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        check_unix_socket(path)\n"
        "    except PermissionDeniedError as error:\n"
        "        print(error.hint)\n"
    )
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)

    said = subprocess.run(
        [sys.executable, "-c", program, str(path), str(closed / "s")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "its mode is srw-rw----, its group 'root'" in said
    assert "its directory may not be searched" in said


def test_waiting_for_the_server_finds_one_that_is_started_later(connect: Connect) -> None:
    server = FakeServer(unused_endpoint())
    server.handlers["server.methods"] = answers
    client = connect(server.profile, connect_timeout_s=0.05, wait_for_server_s=20, timeout_s=0.3)
    starter = threading.Timer(0.2, server.start)
    starter.start()
    try:
        assert ask(client) == NOTHING
    finally:
        starter.join()
        server.stop()


def test_waiting_for_the_server_does_not_wait_for_a_key_to_be_let_in(connect: Connect) -> None:
    with FakeServer(zap_status=b"400") as server:
        _, seconds = failure_of(connect(server.profile, wait_for_server_s=20), UnauthenticatedError)

    assert seconds < 1


def test_a_restarted_server_is_found_again_quickly(connect: Connect) -> None:
    with FakeServer() as server:
        server.handlers["server.methods"] = answers
        client = connect(server.profile)
        ask(client)
        server.stop()
        server.start()
        began = time.monotonic()

        ask(client)

    assert time.monotonic() - began < 1


def test_any_of_several_server_keys_will_do(connect: Connect) -> None:
    with FakeServer() as server:
        server.handlers["server.methods"] = answers
        profile = Profile(
            endpoints=(server.endpoint,),
            server_keys=(ServerKeys().public, ServerKeys().public, server.keys.public),
            public_key=server.keys.client_public,
            secret_key=server.keys.client_secret,
        )

        assert ask(connect(profile)) == NOTHING


def test_the_next_endpoint_serves_when_the_first_does_not(connect: Connect) -> None:
    with FakeServer() as server:
        server.handlers["server.methods"] = answers
        profile = Profile(
            endpoints=(unused_endpoint(), server.endpoint),
            server_keys=(server.keys.public,),
            public_key=server.keys.client_public,
            secret_key=server.keys.client_secret,
        )

        assert ask(connect(profile)) == NOTHING


def test_an_ipv6_address_is_reached(connect: Connect) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with FakeServer("tcp://[::1]:*") as server:
        server.handlers["server.methods"] = answers

        assert ask(connect(server.profile)) == NOTHING


def test_one_endpoint_that_refuses_the_key_does_not_hide_another(connect: Connect) -> None:
    with FakeServer(zap_status=b"400") as first, FakeServer(keys=first.keys) as second:
        second.handlers["server.methods"] = answers
        profile = Profile(
            endpoints=(first.endpoint, second.endpoint),
            server_keys=(first.keys.public,),
            public_key=first.keys.client_public,
            secret_key=first.keys.client_secret,
        )

        assert ask(connect(profile)) == NOTHING


def test_no_further_attempt_is_made_once_nobody_waits(connect: Connect) -> None:
    attempts = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.01)
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        client = connect(ServerKeys().profile(endpoint), connect_timeout_s=0.1)
        failure_of(client, UnavailableError)

        def accept() -> bool:
            try:
                attempts.append(listener.accept()[0])
            except TimeoutError:
                return True
            return False

        eventually(accept)
    for attempt in attempts:
        attempt.close()
    assert len(attempts) <= 2


@pytest.mark.parametrize(
    ("endpoints", "key"),
    [
        (("tcp://127.0.0.1",), None),
        (("udp://127.0.0.1:5",), None),
        (("nonsense",), None),
        (("tcp://127.0.0.1:5",), "short"),
    ],
)
def test_a_malformed_profile_is_an_invalid_argument(
    connect: Connect, endpoints: tuple[str, ...], key: str | None
) -> None:
    keys = ServerKeys()
    profile = Profile(
        endpoints=endpoints,
        server_keys=(key or keys.public,),
        public_key=keys.client_public,
        secret_key=keys.client_secret,
    )

    failure_of(connect(profile), InvalidArgumentError)


def test_no_secret_key_shows_in_any_error_or_repr(connect: Connect) -> None:
    keys = ServerKeys()
    profile = keys.profile(unused_endpoint())
    client = connect(profile, connect_timeout_s=0.05)

    error, _ = failure_of(client, UnavailableError)

    assert keys.client_secret not in f"{error!r} {error.hint} {profile!r} {client!r}"
