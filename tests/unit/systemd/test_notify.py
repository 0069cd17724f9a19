"""What systemd is told, over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.systemd.notify import STATUS_MAX, Notifier
from tests.support.eventually import eventually
from tests.support.manager import Hearing


@pytest.fixture
def hearing(tmp_path: Path) -> Iterator[Hearing]:
    heard = Hearing(tmp_path / "notify")
    yield heard
    heard.close()


@pytest.fixture
def notifier(hearing: Hearing, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(hearing.path))
    made = Notifier.from_environment()
    yield made
    made.close()


def test_text_arrives_as_it_is(hearing: Hearing, notifier: Notifier) -> None:
    notifier.ready("café ☃")

    assert hearing.notices == [{"READY": "1", "STATUS": "café ☃"}]


def test_no_value_can_forge_a_field(hearing: Hearing, notifier: Notifier) -> None:
    notifier.status("one\nWATCHDOG=1\r\n two")

    assert hearing.notices == [{"STATUS": "one WATCHDOG=1 two"}]


def test_status_is_told_only_when_it_changes(hearing: Hearing, notifier: Notifier) -> None:
    for sentence in ("one", "one", "two", "x" * 1000, "x" * 1000):
        notifier.status(sentence)

    assert hearing.values("STATUS") == ["one", "two", "x" * STATUS_MAX]


def test_reloading_says_when(hearing: Hearing, notifier: Notifier) -> None:
    notifier.reloading()

    (notice,) = hearing.notices
    assert notice["RELOADING"] == "1"
    assert int(notice["MONOTONIC_USEC"]) > 0


def test_descriptors_are_handed_over_by_name(hearing: Hearing, notifier: Notifier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        notifier.store("control-tcp-0", server.fileno())
        address = server.getsockname()

    assert hearing.values("FDNAME") == ["control-tcp-0"]
    with socket.socket(fileno=os.dup(hearing.kept["control-tcp-0"][0])) as kept:
        assert kept.getsockname() == address
    notifier.remove("control-tcp-0")
    assert hearing.values("FDSTOREREMOVE") == ["1"]
    assert hearing.kept == {}


def test_busy_systemd_holds_nobody_up_and_is_told_later(
    hearing: Hearing, notifier: Notifier
) -> None:
    for number in range(40):
        notifier.status(f"{number}")
    heard = len(hearing.notices)
    assert heard < 40
    notifier.ready("ready")

    def has_heard() -> bool:
        notifier.watchdog()
        return "1" in hearing.values("READY")

    eventually(has_heard)
    assert hearing.values("STATUS") == [*map(str, range(40)), "ready"]


def test_systemd_that_is_gone_is_no_end_of_the_server(
    hearing: Hearing, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    hearing.close()
    notifier.status("one")
    notifier.status("two")

    assert [record.getMessage() for record in caplog.records] == ["systemd.not_told"]


def test_without_a_socket_there_is_nobody_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier.from_environment()
    notifier.ready("ready")

    assert not notifier.is_there


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_socket_nobody_listens_on_is_told_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))

    assert not Notifier.from_environment().is_there
    assert [record.getMessage() for record in caplog.records] == ["notify.nobody"]
