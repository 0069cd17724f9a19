from __future__ import annotations

import os
import socket

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
