from __future__ import annotations

from itertools import islice
from typing import Any

from msgspec import msgpack, structs

from descartesd.wire.envelope import VERSION, Request, StreamItem, StreamOpened
from descartesd.wire.event import Event, EventFollow
from descartesd.wire.methods import EVENT_FOLLOW
from descartesd.wire.server import Done
from tests.support.fakeserver import FakeServer
from tests.support.inloop import Connect
from tests.unit.client.test_channel import hello

EVENTS = [
    Event(seq=seq, time=float(seq), kind="status_changed", agent_id=f"a{seq}")
    for seq in range(1, 61)
]
GAP = Event(seq=20, time=0.0, kind="gap", agent_id=None, data={"missed": 13})


class History:
    """Events, kept from number `kept` on; its server dies after each of the `cuts` items."""

    def __init__(self, *, cuts: list[int], repeated: int = 0) -> None:
        self.kept = 1
        self.asked: list[int | None] = []
        self._cuts = cuts
        self._repeated = repeated

    def serve(self, server: FakeServer) -> None:
        server.handlers["event.follow"] = self._follow
        server.handlers["server.hello"] = lambda *_: structs.replace(hello(), last_event=40)
        server.handlers["stream.credit"] = lambda *_: Done()
        server.handlers["stream.cancel"] = lambda *_: Done()

    def _follow(self, server: FakeServer, route: bytes, request: Request) -> None:
        since = msgpack.decode(request.params, type=EventFollow).since
        self.asked.append(since)
        server.send(route, StreamOpened(v=VERSION, id=request.id))
        for number, event in enumerate(self._after(max((since or 0) - self._repeated, 0))):
            if self._cuts and number == self._cuts[0]:
                self._cuts.pop(0)
                server.restart_soon()
                return
            server.send(route, StreamItem(v=VERSION, id=request.id, seq=number, item=event))

    def _after(self, since: int) -> list[Event]:
        kept = [event for event in EVENTS if event.seq > since and event.seq >= self.kept]
        return [GAP, *kept] if since + 1 < self.kept else kept


def followed(client: Any, count: int, since: int | None = 0) -> list[Event]:
    with client.stream(EVENT_FOLLOW, EventFollow(since=since)) as events:
        return list(islice(events, count))


def test_every_event_comes_once_over_any_number_of_cuts(
    connect: Connect, server: FakeServer
) -> None:
    history = History(cuts=[5, 1, 0, 0, 12, 1, 1])
    history.serve(server)

    assert followed(connect(server.profile), 60) == EVENTS

    assert len(history.asked) == 8
    assert history.asked[0] == 0


def test_an_event_sent_twice_is_given_once(connect: Connect, server: FakeServer) -> None:
    History(cuts=[5, 9, 7], repeated=3).serve(server)

    assert followed(connect(server.profile), 60) == EVENTS


def test_a_gap_is_told_once_and_gone_on_from(connect: Connect, server: FakeServer) -> None:
    history = History(cuts=[7, 1, 3])
    history.serve(server)
    client = connect(server.profile)

    with client.stream(EVENT_FOLLOW, EventFollow(since=0)) as events:
        got = [next(events)]
        history.kept = 21
        while got[-1].seq < 60:
            got.append(next(events))

    early = got.index(GAP)
    assert got == [*EVENTS[:early], GAP, *EVENTS[20:]]
    assert 1 <= early <= 7


def test_without_a_number_it_begins_behind_the_last_event_of_now(
    connect: Connect, server: FakeServer
) -> None:
    history = History(cuts=[0, 3])
    history.serve(server)

    assert followed(connect(server.profile), 20, since=None) == EVENTS[40:]

    assert history.asked[:2] == [40, 40]
    assert len(history.asked) == 3
