"""Ids, names, paths and streams' names that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from descartesd.wire.methods import METHODS
from tests.faults.peers import Peers
from tests.support.server import Server

MIB = 1024 * 1024
SPEC = {"command": ["true"]}
# What methods need beside the id, for the id to be at fault.
NEEDED: dict[str, dict[str, Any]] = {
    "agent.signal": {"signal": "KILL"},
    "agent.write": {"data": b"x"},
}


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


TRICKS = {
    "parent": "../x",
    "inner parent": "a/../../etc/passwd",
    "absolute": "/etc/passwd",
    "dots": "..",
    "nul": "abcd\0",
    "newline": "abcd\n",
    "space": "ab cd",
    "homoglyph": "аgent-7",  # noqa: RUF001  # the first letter is Cyrillic
    "full width": "ａgent",  # noqa: RUF001
    "leading dash": "-rf",
    "option": "--all",
    "upper case": "Agent",
    "empty": "",
    "percent": "%2e%2e",
    "escape": "\x1b[2J",
    "long": "a" * 64,
    "very long": "a" * 200_000,
    "glob": "a*",
    "quote": "a';drop table agents;--",
    "number": 7,
    "nil": None,
    "bytes": b"abcd",
    "list": ["abcd"],
}
NAMED = [name for name, method in METHODS.items() if "id" in method.request.__struct_fields__]


@pytest.mark.parametrize("method", NAMED)
def test_fault_25_an_id_full_of_tricks_is_an_invalid_argument(peers: Peers, method: str) -> None:
    peer = peers.connect()
    codes = {
        trick: peer.refusal(method, {**NEEDED.get(method, {}), "id": value})
        for trick, value in TRICKS.items()
    }

    assert set(codes.values()) == {"invalid_argument"}, codes


def test_fault_25_a_name_full_of_tricks_is_an_invalid_argument(
    shared_server: Server, peers: Peers
) -> None:
    peer = peers.connect()
    tricks = {name: trick for name, trick in TRICKS.items() if name != "nil"}
    before = sorted(shared_server.directory.rglob("*.cert"))

    for trick in tricks.values():
        assert peer.refusal("agent.spawn", {"spec": {**SPEC, "name": trick}}) == "invalid_argument"
        wish = {"public_key": "0" * 40, "name": trick, "role": "observer"}
        assert peer.refusal("cert.sign", wish) == "invalid_argument"

    assert sorted(shared_server.directory.rglob("*.cert")) == before


BAD_SPECS: dict[str, dict[str, Any]] = {
    "relative directory": {"cwd": "../x"},
    "directory of the caller": {"cwd": "."},
    "empty directory": {"cwd": ""},
    "nul in directory": {"cwd": "/tmp\0/x"},
    "long directory": {"cwd": "/" + "a" * 4095},
    "missing directory": {"cwd": "/nowhere/at/all"},
    "nul in argument": {"command": ["true", "a\0b"]},
    "nul in program": {"command": ["tr\0ue"]},
    "empty program": {"command": [""]},
    "command line": {"command": "rm -rf /"},
    "no command": {"command": []},
    "nul in variable": {"env": {"A": "b\0"}},
    "bad variable": {"env": {"A=B": "c"}},
    "own variable": {"env": {"DESCARTES_AGENT_ID": "x"}},
    "bad label": {"labels": {"../x": "y"}},
    "line in label": {"labels": {"x": "y\n"}},
    "bad signal": {"stop": {"signal": "../KILL"}},
}


@pytest.mark.parametrize("fields", BAD_SPECS.values(), ids=BAD_SPECS.keys())
def test_fault_25_a_spec_full_of_tricks_is_refused_and_leaves_no_agent(
    peers: Peers, fields: dict[str, Any]
) -> None:
    peer = peers.connect()
    before = peer.result("agent.list")["total"]

    assert peer.refusal("agent.spawn", {"spec": {**SPEC, **fields}}) == "invalid_argument"

    assert peer.result("agent.list")["total"] == before


STREAM_TRICKS: dict[str, Any] = {
    "nil": None,
    "list": ["f"],
    "map": {},
    "bytes": b"f",
    "true": True,
    "empty": "",
    "negative": -1,
    "long": "a" * 65,
    "very long": "a" * 200_000,
}


@pytest.mark.parametrize("method", ["stream.credit", "stream.cancel"])
@pytest.mark.parametrize("trick", STREAM_TRICKS.values(), ids=STREAM_TRICKS.keys())
def test_fault_25_a_streams_name_that_no_request_can_have_is_an_invalid_argument(
    peers: Peers, method: str, trick: object
) -> None:
    assert peers.connect().refusal(method, {"stream": trick}) == "invalid_argument"


def test_fault_25_an_id_larger_than_a_frame_ends_only_its_connection(peers: Peers) -> None:
    other = peers.connect()
    other.result("server.hello")
    peer = peers.connect(timeout=0.3)
    peer.result("server.hello")

    peer.send("agent.get", {"id": "a" * MIB})

    assert not peer.socket.poll(300)
    assert other.result("server.hello")["protocol"] == 1
