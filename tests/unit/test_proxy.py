from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.proxy import Proxy


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(listener: socket.socket) -> None:
    talks = []
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            break
        talks.append(threading.Thread(target=_talk, args=(peer,)))
        talks[-1].start()
    for talk in talks:
        talk.join()


def _talk(peer: socket.socket) -> None:
    with peer:
        try:
            while data := peer.recv(4096):
                peer.sendall(data)
        except ConnectionError:
            return


@pytest.fixture
def proxy(echo_port: int) -> Iterator[Proxy]:
    with Proxy(echo_port, delay_s=0.05) as running:
        yield running


def connected(proxy: Proxy) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    peer.sendall(b"hello")
    assert peer.recv(100) == b"hello"
    return peer


def is_silent(peer: socket.socket) -> bool:
    peer.settimeout(0.1)
    with pytest.raises(TimeoutError):
        peer.recv(100)
    peer.settimeout(5)
    return True


def test_bytes_go_through_at_once_or_later(proxy: Proxy) -> None:
    with connected(proxy) as peer:
        proxy.mode = "delay"
        began = time.monotonic()
        peer.sendall(b"slow")
        assert peer.recv(100) == b"slow"

        assert time.monotonic() - began >= 0.1


def test_a_stall_holds_bytes_back_and_loses_none(proxy: Proxy) -> None:
    with connected(proxy) as peer:
        proxy.mode = "stall"
        peer.sendall(b"held")
        assert is_silent(peer)

        proxy.mode = "pass"
        assert peer.recv(100) == b"held"


def test_a_half_open_connection_stays_and_stays_dead(proxy: Proxy) -> None:
    with connected(proxy) as peer:
        proxy.mode = "half-open"
        peer.sendall(b"lost")
        assert is_silent(peer)

        proxy.mode = "pass"
        peer.sendall(b"lost too")
        assert is_silent(peer)
        with connected(proxy):
            assert proxy.connections == 2


def test_a_cut_resets_every_connection(proxy: Proxy) -> None:
    with connected(proxy) as one, connected(proxy) as two:
        proxy.cut()

        for peer in (one, two):
            with pytest.raises(ConnectionResetError):
                peer.recv(100)
        eventually(lambda: proxy.connections == 0)


def test_after_a_slow_close_only_the_client_is_still_connected(proxy: Proxy) -> None:
    with connected(proxy) as peer:
        proxy.slow_close()
        peer.sendall(b"anybody?")

        assert is_silent(peer)
        assert proxy.connections == 1
    eventually(lambda: proxy.connections == 0)


def test_refused_connections_are_taken_again_later_at_the_same_port(proxy: Proxy) -> None:
    with connected(proxy) as before:
        proxy.mode = "refuse"
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        before.sendall(b"still")
        assert before.recv(100) == b"still"

        proxy.mode = "pass"
        connected(proxy).close()


def test_the_end_of_either_side_is_passed_on(proxy: Proxy) -> None:
    with connected(proxy):
        assert proxy.connections == 1

    eventually(lambda: proxy.connections == 0)
    assert proxy.accepted == 1
