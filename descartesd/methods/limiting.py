"""Answers who sends more than its quota, as cheaply as can be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from msgspec import Raw, Struct

from descartesd.errors import DescartesError, ResourceExhaustedError
from descartesd.methods.meter import Meter
from descartesd.transport.monitor import Tally
from descartesd.transport.server import Peer
from descartesd.transport.streams import Streams
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION
from descartesd.wire.server import StreamCancel, StreamCredit

Answer = Callable[[Peer, bytes], object]
_CREDIT = codec.ParamsDecoder(StreamCredit)
_CANCEL = codec.ParamsDecoder(StreamCancel)


class _Failure(Struct, frozen=True, kw_only=True):
    """A failure whose error is encoded already."""

    id: str | int | None
    error: Raw
    v: int = VERSION


class Limits:
    """Lets requests pass for which there is a token, and those that streams cannot do without."""

    def __init__(self, streams: Streams, answer: Answer, errors: Counter[str]) -> None:
        self._streams = streams
        self._answer = answer
        self._errors = errors
        self.refused = Tally("requests.limited")

    def admit(self, meter: Meter, peer: Peer, payload: bytes, now_ns: int) -> bool:
        """Whether this request is worked on; one that is not has been answered."""
        wait_ns = 0 if meter.requests is None else meter.requests.take(now_ns)
        if not wait_ns or self._serves_a_stream(peer, payload):
            return True
        self.refused.add(asyncio.get_running_loop(), peer.user_id)
        self._errors[ResourceExhaustedError.code] += 1
        told = meter.too_many_requests(wait_ns)
        self._answer(peer, codec.encode(_Failure(id=codec.read_id(payload), error=told)))
        return False

    def close(self) -> None:
        """Log what has not been."""
        self.refused.close()

    def _serves_a_stream(self, peer: Peer, payload: bytes) -> bool:
        """Whether a stream would stand still for ever without this.

        Only credit for one that has sent something since it was last given some, and the end of
        an open one: so there are no more of these than what was sent.
        """
        if b"stream.c" not in payload:
            return False
        try:
            request = codec.decode_request(payload)
            if request.method == "stream.credit":
                credit = _CREDIT(request.params)
                return isinstance(credit, StreamCredit) and self._streams.has_moved(
                    peer, credit.stream
                )
            cancel = _CANCEL(request.params) if request.method == "stream.cancel" else None
        except DescartesError:
            return False
        return isinstance(cancel, StreamCancel) and self._streams.is_open(peer, cancel.stream)
