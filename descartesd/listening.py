"""Part of the composition root: opens the doors of a server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from descartesd.config.schema import Server
from descartesd.places import open_directory, refusing, unlink
from descartesd.transport.listeners import Listener, listen_tcp, listen_unix


@refusing()
def listen(
    server: Server, publish_key: Callable[[], None], parts: contextlib.ExitStack
) -> list[Listener]:
    """Listen on tcp and on the Unix socket until `parts` are closed, and publish the public key.

    Raises StartupRefusedError.
    """
    tcp = listen_tcp(server.endpoint, "control-tcp-0")
    parts.callback(tcp.socket.close)
    open_directory(os.path.dirname(server.local_socket))
    unix = listen_unix(server.local_socket, "control-unix")
    parts.callback(unlink, server.local_socket)
    parts.callback(unix.socket.close)
    open_directory(server.run_dir)
    publish_key()
    return [tcp, unix]
