"""Listens where the configuration says: on sockets systemd has kept, or on new ones it then keeps.

A restart so refuses nobody: who connects meanwhile waits in the queue of the kept socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from descartesd.config.schema import Server
from descartesd.errors import StartupRefusedError
from descartesd.systemd.inherited import KEPT, Address, Inherited, Passed
from descartesd.systemd.notify import Notifier
from descartesd.transport.listeners import (
    Listener,
    listen_tcp,
    listen_unix,
    shown,
    split_tcp,
)

TCP, UNIX = f"{KEPT}tcp-0", f"{KEPT}unix"


def listen(
    server: Server, inherited: Inherited, notifier: Notifier, parts: contextlib.ExitStack
) -> list[Listener]:
    """Listen on tcp and on the Unix socket; `parts` closes both.

    Raises StartupRefusedError, also for a socket unit that listens somewhere else.
    """
    tcp = inherited.take(_family(server.endpoint), lambda name: _is_tcp(server.endpoint, name))
    unix = inherited.take(
        socket.AF_UNIX, lambda name: name == server.local_socket and _is_socket(name)
    )
    # Before anything is bound: it may hold the very port.
    _give_up(inherited.rest(), notifier, server)
    found = []
    for passed, name in ((tcp, TCP), (unix, UNIX)):
        if passed is None:
            listener = _fresh(server, name, notifier)
        else:
            host = split_tcp(server.endpoint)[0]
            listener = Listener(name, passed.socket, shown(passed.socket, host))
        parts.callback(listener.socket.close)
        found.append(listener)
    if not notifier.is_there:
        # Nobody keeps it: without its file a client is told at once that there is no server.
        parts.callback(_unlink, server.local_socket)
    return found


def _fresh(server: Server, name: str, notifier: Notifier) -> Listener:
    if name == TCP:
        listener = listen_tcp(server.endpoint, name)
    else:
        listener = listen_unix(server.local_socket, name)
    notifier.store(name, listener.socket.fileno())
    return listener


def _give_up(rest: list[Passed], notifier: Notifier, server: Server) -> None:
    for passed in rest:
        where = shown(passed.socket)
        passed.socket.close()
        if not passed.is_ours:
            raise StartupRefusedError(
                f"systemd listens on {where} for this service, which the configuration does not"
                f" name: it has {server.endpoint} and ipc://{server.local_socket}",
                hint="make the ListenStream= of the socket unit and server.endpoint agree",
            )
        notifier.remove(passed.name)


def _family(endpoint: str) -> int:
    return socket.AF_INET6 if ":" in split_tcp(endpoint)[0] else socket.AF_INET


def _is_tcp(endpoint: str, name: Address) -> bool:
    host, port = split_tcp(endpoint)
    if port not in (0, name[1]):
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(address[0] == name[0] for *_, address in found)


def _is_socket(path: str) -> bool:
    """Whether its file is there: one without can be reached by nobody any more."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
