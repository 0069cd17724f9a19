"""An agent's terminal in a program's own hands, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from descartesd.client.attach import BETWEEN_SIZES_S, other_than, refuse_to_write
from descartesd.client.closing import AsyncClosing
from descartesd.wire.attach import AttachChunk

if TYPE_CHECKING:
    from descartesd.client.aio import AsyncClient, AsyncStream
    from descartesd.wire.agent import Written


class AsyncAttachment(AsyncClosing):
    """What `Attachment` is; it attaches when it is first iterated over, by one task."""

    def __init__(
        self,
        client: AsyncClient,
        agent_id: str,
        stream: AsyncStream[AttachChunk],
        *,
        watch: bool,
    ) -> None:
        self._client = client
        self._id = agent_id
        self._watches = watch
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[AttachChunk]:
        return self

    async def __anext__(self) -> AttachChunk:
        return await anext(self._stream)

    async def write(self, data: bytes, *, deadline_s: float | None = None) -> Written:
        """Write to the agent; see `Attachment.write`. One write must end before the next."""
        refuse_to_write(self._watches)
        return await self._client.write(self._id, data, deadline_s=deadline_s)

    async def resize(self, rows: int, cols: int) -> None:
        """Set the size of the agent's terminal."""
        await self._client.agent.resize(id=self._id, rows=rows, cols=cols)

    async def redraw(self, rows: int, cols: int) -> None:
        """Set the size and have the screen drawn anew; see `Attachment.redraw`."""
        await self.resize(other_than(rows), cols)
        await asyncio.sleep(BETWEEN_SIZES_S)
        await self.resize(rows, cols)

    async def detach(self) -> None:
        """Leave the agent alone, as `aclose`."""
        await self._stream.aclose()

    aclose = detach
