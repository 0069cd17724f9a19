"""One connection: what has come is there to be read, whatever became of the connection since."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import zmq
from msgspec import UNSET

from descartesd.keys.z85 import decode_key
from descartesd.transport.link import CurveKeys, Link
from descartesd.wire import codec
from descartesd.wire.envelope import VERSION, Request, raw
from descartesd.wire.methods import SERVER_METHODS
from descartesd.wire.server import Empty
from tests.support.eventually import eventually
from tests.support.fakeserver import FakeServer

SENT = [b"%d" % number for number in range(50)]


def says_much_and_dies(server: FakeServer, route: bytes, _request: Any) -> None:
    for payload in SENT:
        server.send(route, payload)
    server.restart_soon()


def test_what_has_come_before_the_loss_is_read_after_it(server: FakeServer) -> None:
    server.handlers["server.methods"] = says_much_and_dies
    known = server.keys
    keys = CurveKeys(
        *(decode_key(key) for key in (known.public, known.client_public, known.client_secret))
    )
    asked = Request(
        v=VERSION, id=1, method=SERVER_METHODS.name, params=raw(Empty()), deadline_s=UNSET
    )
    with (
        zmq.Context() as context,
        closing(Link(context, server.endpoint, keys, heartbeat_s=0)) as link,
    ):
        eventually(lambda: link.change() == "up")
        assert link.send(codec.encode(asked))

        eventually(lambda: link.change() == "lost")
        came = [link.receive() for _ in SENT] if link.is_readable() else []

        assert came == SENT
        assert not link.is_readable()
