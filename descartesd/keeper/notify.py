"""Tells systemd how this service is (sd_notify(3)); without NOTIFY_SOCKET, nobody."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable


def take_notifier(say: Callable[[str], None]) -> Callable[[str], None]:
    """What sends a message to systemd; the variable is taken away from whom this process starts."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return lambda _message: None
    path = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(message: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                # A systemd that does not read must not hold up any agent.
                sock.setblocking(False)
                sock.sendto(message.encode(), path)
            except OSError as exc:
                say(f"systemd was not told '{message}': {exc}")

    return tell
