from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from descartesd.ctl.ports import Listening, listening


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_process_that_listens_on_a_port_is_found(family: int, address: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        assert listening(port) == []

        listener.listen()
        found = listening(port)

    assert [(one.uid, one.pid) for one in found] == [(os.geteuid(), os.getpid())]
    assert listening(port) == []


def test_process_of_another_user_is_told_by_its_uid() -> None:
    assert str(Listening(33, None, None)) == "a process of uid 33"
    assert str(Listening(0, 7, "nginx")) == "'nginx' (pid 7)"


@pytest.mark.parametrize(("others", "expected"), [((7, 12), 7), ((), 1)])
def test_systemd_that_keeps_a_socket_is_not_the_one_who_listens(
    tmp_path: Path, others: tuple[int, ...], expected: int
) -> None:
    (tmp_path / "net").mkdir()
    line = "0: 0100007F:15B3 00000000:0000 0A 0:0 0:0 0 997 0 4711 1"
    (tmp_path / "net/tcp").write_text(f"head\n{line}\n")
    for pid in (1, *others):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/fd/3").symlink_to("socket:[4711]")
        (tmp_path / f"{pid}/comm").write_text(f"name-{pid}\n")

    assert listening(5555, proc=str(tmp_path)) == [Listening(997, expected, f"name-{expected}")]
