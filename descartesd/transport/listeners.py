"""Makes the listening sockets in Python and hands libzmq duplicates of them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass

from descartesd.errors import StartupRefusedError

BACKLOG = 1024
_UNIX_PATH_MAX = 107  # unix(7): 108 with the terminating NUL


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket; `endpoint` is where clients reach it."""

    name: str
    socket: socket.socket
    endpoint: str

    def duplicate(self) -> int:
        """Make a non-blocking descriptor libzmq may own: it closes it with its socket."""
        fd = os.dup(self.socket.fileno())
        os.set_blocking(fd, False)
        return fd

    def is_listening(self) -> bool:
        """Whether clients can reach it: its path, if it has one, may have been removed."""
        if self.socket.fileno() < 0:
            return False
        name = self.socket.getsockname()
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and (
            not isinstance(name, str) or os.path.exists(name)
        )


def listen_tcp(endpoint: str, name: str) -> Listener:
    """Listen on `tcp://HOST:PORT`; port 0 takes a free one.

    Raises StartupRefusedError when the port is taken or the address is not this host's.
    """
    host, port = split_tcp(endpoint)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise StartupRefusedError(
                f"port {port} on {host} is in use by another process",
                hint="see who holds it: descartesctl doctor; or choose another server.endpoint",
            ) from exc
        raise StartupRefusedError(
            f"cannot listen on {endpoint}: {os.strerror(exc.errno or 0)}",
            hint="server.endpoint must name an address of this host",
        ) from exc
    return Listener(name, sock, shown(sock, host))


def shown(sock: socket.socket, host: str | None = None) -> str:
    """The endpoint of a bound socket, on tcp with the name its host was given by."""
    name = sock.getsockname()
    if isinstance(name, str):
        return f"ipc://{name}"
    host = host or name[0]
    return f"tcp://[{host}]:{name[1]}" if ":" in host else f"tcp://{host}:{name[1]}"


def split_tcp(endpoint: str) -> tuple[str, int]:
    """Host and port of a tcp endpoint; `*` means every address."""
    address = endpoint.removeprefix("tcp://")
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        number = int(port)
    except ValueError:
        number = -1
    if not endpoint.startswith("tcp://") or not host or not 0 <= number <= 65535:
        raise StartupRefusedError(
            f"endpoint '{endpoint}' is not of the form tcp://HOST:PORT",
            hint='for example server.endpoint = "tcp://127.0.0.1:5555"',
        )
    return ("0.0.0.0" if host == "*" else host), number  # noqa: S104  # only when asked for


def listen_unix(path: str, name: str) -> Listener:
    """Listen on a Unix socket everyone may connect to; who enters is decided by uid.

    A socket file nobody answers on is replaced.
    Raises StartupRefusedError when somebody does, or when something else stands there.
    """
    if len(os.fsencode(path)) > _UNIX_PATH_MAX:
        raise StartupRefusedError(
            f"the socket path '{path}' is longer than {_UNIX_PATH_MAX} bytes",
            hint="set server.local_socket to a shorter path",
        )
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  # the uid of each peer decides, not the file
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise StartupRefusedError(
            f"cannot listen on '{path}': {os.strerror(exc.errno or 0)}",
            hint="the directory of server.local_socket must exist and be writable",
        ) from exc
    return Listener(name, sock, shown(sock))


def _clear_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartupRefusedError(
            f"'{path}' exists and is not a socket",
            hint="move it away or set server.local_socket to another path",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise StartupRefusedError(
        f"another server answers on '{path}'",
        hint="stop it, or set server.local_socket to another path",
    )
