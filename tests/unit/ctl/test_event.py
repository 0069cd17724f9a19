from __future__ import annotations

import pytest

from descartesd.ctl.connect import Connection
from descartesd.ctl.event import _line
from descartesd.wire.agent import Outcome
from descartesd.wire.event import Event
from tests.unit.ctl.test_output import Captured


def event(**fields: object) -> Event:
    known = {"seq": 7, "time": 1000.25, "kind": "status_changed", "agent_id": "x", "name": "a"}
    return Event(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"state": "running", "previous": "starting"},
            ["status_changed", "a", "running", "from", "starting"],
        ),
        (
            {
                "kind": "error",
                "state": "failed",
                "previous": "running",
                "outcome": Outcome(reason="exit", exit_code=3),
            },
            ["error", "a", "failed", "from", "running,", "exit", "3"],
        ),
        (
            {"kind": "heartbeat", "name": None, "data": {"agents": {"running": 2, "failed": 1}}},
            ["heartbeat", "-", "-", "running=2,", "failed=1"],
        ),
        (
            {"kind": "gap", "name": None, "message": "3 are gone", "data": {"missed": 3}},
            ["gap", "-", "-", "3", "are", "gone"],
        ),
        ({"kind": "removed", "message": "\x1b[2J\n"}, ["removed", "a", "-", "\\x1b[2J\\n"]),
    ],
)
def test_line_of_an_event_tells_when_what_to_whom(
    fields: dict[str, object], words: list[str]
) -> None:
    assert _line(event(**fields)).split() == ["1970-01-01T00:16:40.250Z", *words]


def test_lost_connection_and_its_return_are_told_on_stderr() -> None:
    printed = Captured()
    connection = Connection(printed.output.note)

    for news in ("up", "lost", "up", "up"):
        connection.changed(news, "tcp://x:1")

    assert printed.out == b""
    assert printed.err.decode().splitlines() == [
        "the connection to 'tcp://x:1' was lost; waiting for it",
        "connected to 'tcp://x:1' again",
    ]


def test_nothing_is_told_of_a_connection_in_json() -> None:
    printed = Captured(json=True)

    Connection(printed.output.note).changed("lost", "tcp://x:1")

    assert printed.err == b""
