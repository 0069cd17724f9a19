"""Part of the composition root: opens the doors of a server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from descartesd.config.schema import Server
from descartesd.places import open_directory, refusing
from descartesd.systemd import listening
from descartesd.systemd.service import Service
from descartesd.transport.listeners import Listener


@refusing()
def listen(
    server: Server,
    publish_key: Callable[[], None],
    service: Service,
    parts: contextlib.ExitStack,
) -> list[Listener]:
    """Listen on tcp and on the Unix socket until `parts` are closed, and publish the public key.

    Raises StartupRefusedError.
    """
    open_directory(os.path.dirname(server.local_socket))
    open_directory(server.run_dir)
    found = listening.listen(server, service.inherited, service.notifier, parts)
    publish_key()
    return found
