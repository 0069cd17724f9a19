"""CURVE key pairs are real, hidden, and kept whole."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import zmq

from descartesd.errors import AlreadyExistsError, StartupRefusedError, UnavailableError
from descartesd.keys.curve import (
    create_key_file,
    create_server_public,
    generate,
    load_key_file,
    read_server_public,
)
from descartesd.keys.keyfile import create_key_text, fingerprint


def test_libzmq_derives_the_same_public_key() -> None:
    pair = generate()

    assert zmq.curve_public(pair.secret_text.encode()).decode() == pair.public_text


def test_two_peers_with_generated_keys_understand_each_other(tmp_path: Path) -> None:
    server, client = generate(), generate()
    endpoint = f"ipc://{tmp_path}/s"

    with zmq.Context() as context, context.socket(zmq.REP) as reply, context.socket(zmq.REQ) as ask:
        reply.curve_server = True
        reply.curve_secretkey = server.secret
        reply.bind(endpoint)
        ask.curve_serverkey, ask.curve_publickey = server.public, client.public
        ask.curve_secretkey = client.secret
        ask.rcvtimeo = reply.rcvtimeo = 5000
        ask.linger = reply.linger = 0
        ask.connect(endpoint)
        ask.send(b"hello")

        assert reply.recv() == b"hello"


def test_the_secret_shows_in_no_text() -> None:
    pair = generate()

    for text in (repr(pair), str(pair), f"{pair}", repr([pair]), repr({"pair": pair})):
        assert fingerprint(pair.public) in text
        assert pair.secret_text not in text
        assert repr(pair.secret)[2:-1] not in text


def test_a_pair_is_kept_in_a_file_and_never_written_over_another(tmp_path: Path) -> None:
    path, pair = str(tmp_path / "host.key"), generate()
    create_key_file(path, pair)

    with pytest.raises(AlreadyExistsError):
        create_key_file(path, generate())

    assert load_key_file(path) == pair


def test_a_file_whose_halves_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "host.key")
    create_key_text(path, "CURVE key", generate().public, generate().secret)

    with pytest.raises(StartupRefusedError, match="is not that of its secret key"):
        load_key_file(path)


def test_the_server_s_key_is_read_from_beside_its_socket(tmp_path: Path) -> None:
    key = generate().public
    create_server_public(str(tmp_path / "server.pub"), key)

    assert (tmp_path / "server.pub").stat().st_mode & 0o777 == 0o644
    assert len((tmp_path / "server.pub").read_bytes()) == 41
    assert read_server_public(str(tmp_path / "control.sock")) == key


def test_a_server_that_has_left_no_key_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"cannot read '.*server\.pub'") as caught:
        read_server_public(str(tmp_path / "control.sock"))

    assert caught.value.exit_status == 5
    assert caught.value.hint is not None


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 40, b"a" * 40 + b"\n\n"])
def test_a_malformed_server_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "server.pub").write_bytes(content)

    with pytest.raises(UnavailableError, match="is not a server's public key"):
        read_server_public(str(tmp_path / "control.sock"))


def test_a_socket_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(tmp_path, "server.pub"))

        with pytest.raises(UnavailableError):
            read_server_public(str(tmp_path / "control.sock"))
