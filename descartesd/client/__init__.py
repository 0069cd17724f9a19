"""The clients: `Client` for ordinary programs, `AsyncClient` for asyncio.

Each is imported when it is first asked for, so that the blocking one starts without asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descartesd.client.aio import AsyncClient, AsyncStream
    from descartesd.client.attach import Attachment
    from descartesd.client.attach_async import AsyncAttachment
    from descartesd.client.pool import AsyncClientPool, ClientPool
    from descartesd.client.profiles import find_profile
    from descartesd.client.sync import Client, Stream

__all__ = [
    "Client",
    "AsyncClient",
    "ClientPool",
    "AsyncClientPool",
    "Stream",
    "AsyncStream",
    "Attachment",
    "AsyncAttachment",
    "find_profile",
]

_HOMES = {
    "Client": "descartesd.client.sync",
    "Stream": "descartesd.client.sync",
    "AsyncClient": "descartesd.client.aio",
    "AsyncStream": "descartesd.client.aio",
    "Attachment": "descartesd.client.attach",
    "AsyncAttachment": "descartesd.client.attach_async",
    "ClientPool": "descartesd.client.pool",
    "AsyncClientPool": "descartesd.client.pool",
    "find_profile": "descartesd.client.profiles",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
