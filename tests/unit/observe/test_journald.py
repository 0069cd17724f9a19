"""What the journal is sent, over a real socket in its place."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.observe.journald import JournalHandler, leads_to_journal, message_id

Fields = dict[str, str]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    def facts(record: logging.LogRecord) -> dict[str, object]:
        found: dict[str, object] = record.__dict__.get("facts", {})
        return found

    handler = JournalHandler(facts, str(tmp_path / "journal"))
    made = logging.getLogger("descartesd.test")
    made.addHandler(handler)
    yield made
    made.removeHandler(handler)
    handler.close()


def read(journal: socket.socket) -> Fields:
    """One message, as the journal takes it apart."""
    data, fds, _, _ = socket.recv_fds(journal, 1 << 20, 1)
    if fds:
        with open(fds[0], "rb") as file:
            file.seek(0)
            data = file.read()
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, is_line, value = line.partition(b"=")
        if not is_line:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[9 + size :]
        found[name.decode()] = value.decode()
    return found


def say(logger: logging.Logger, event: str, **facts: object) -> None:
    logger.warning(event, extra={"facts": facts})


def test_every_fact_is_a_field(journal: socket.socket, logger: logging.Logger) -> None:
    say(
        logger,
        "agent.lost",
        agent="a1",
        identity="uid:0",
        method="agent.get",
        trace="t",
        **{"1_é": 2},
    )

    assert read(journal) == {
        "MESSAGE": "agent.lost",
        "MESSAGE_ID": message_id("agent.lost"),
        "EVENT": "agent.lost",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "descartesd",
        "LOGGER": "descartesd.test",
        "AGENT_ID": "a1",
        "IDENTITY": "uid:0",
        "METHOD": "agent.get",
        "TRACE_ID": "t",
        "FIELD": "2",
    }


def test_no_value_forges_a_field_and_none_hides_ours(
    journal: socket.socket, logger: logging.Logger
) -> None:
    say(logger, "x", cause="one\nPRIORITY=0\n", priority=0, message="y")

    found = read(journal)
    assert found["CAUSE"] == "one\nPRIORITY=0\n"
    assert (found["PRIORITY"], found["MESSAGE"]) == ("4", "x")


def test_large_value_arrives_whole(journal: socket.socket, logger: logging.Logger) -> None:
    say(logger, "x", cause="é" * 500_000)

    assert read(journal)["CAUSE"] == "é" * 500_000


def test_busy_journal_holds_nobody_up_and_is_told_what_it_missed(
    journal: socket.socket, logger: logging.Logger
) -> None:
    for number in range(100):
        say(logger, "x", number=number)
    heard = []
    while True:
        try:
            heard.append(read(journal))
        except BlockingIOError:
            break
    say(logger, "x")

    assert len(heard) < 100
    assert int(read(journal)["DROPPED"]) == 100 - len(heard)


def test_kind_of_event_is_the_same_everywhere() -> None:
    assert message_id("server.ready") == message_id("server.ready")
    assert message_id("server.ready") != message_id("server.stopped")
    assert len(message_id("server.ready")) == 32


def test_stream_leads_to_the_journal_where_systemd_says_so(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "w") as stream:
        status = os.fstat(stream.fileno())
        own = f"{status.st_dev}:{status.st_ino}"

        assert leads_to_journal(stream, {"JOURNAL_STREAM": own})
        assert not leads_to_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not leads_to_journal(stream, {})
