"""Requests that are malformed, unknown, not allowed, full of tricks, or sent twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import psutil
import pytest

from descartesd.wire.methods import METHODS, ROLES, Method
from tests.faults.peers import Keys, Peer, Peers, daemon_of, keys_of, request
from tests.support.eventually import eventually
from tests.support.server import Server

MIB = 1024 * 1024
LARGE = 250_000

pack = msgpack.packb


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


def message(**entries: bytes) -> bytes:
    """A map whose values are encoded already; a valid request where nothing else is given."""
    parts = {"v": b"\x01", "id": b"\x01", "method": pack("server.hello"), **entries}
    return bytes([0x80 | len(parts)]) + b"".join(pack(key) + parts[key] for key in parts)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def array(count: int, item: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


def table(*entries: bytes) -> bytes:
    return bytes([0x80 | len(entries) // 2]) + b"".join(entries)


NAN, INFINITY = pack(float("nan")), pack(float("inf"))
NO_UTF8 = b"\xa2\xff\xfe"
EXT = b"\xc7\x03\x05abc"
SPEC = {"command": ["true"]}

MALFORMED = {
    "nesting in the root": nested(2000),
    "nesting in params": message(params=nested(2000)),
    "nesting in an unknown key": message(x=nested(2000)),
    "nesting as deep as a frame": message(params=nested(LARGE)),
    "nesting of maps": message(params=b"\x81\xa1a" * 70_000 + b"\xc0"),
    "expansion in the root": array(LARGE, b"\x80"),
    "expansion in params": message(params=array(LARGE, b"\x80")),
    "expansion in a parameter": message(
        method=pack("agent.list"), params=table(pack("states"), array(LARGE, b"\x80"))
    ),
    "expansion in an unknown parameter": message(params=table(pack("x"), array(LARGE, b"\x90"))),
    "expansion in a command": message(
        method=pack("agent.spawn"),
        params=table(pack("spec"), table(pack("command"), array(LARGE, b"\xa0"))),
    ),
    **{
        f"{kind} of 4G {where}": (
            head + b"\xff" * 4 if where == "root" else message(**{where: head + b"\xff" * 4})
        )
        for kind, head in {
            "array": b"\xdd",
            "map": b"\xdf",
            "text": b"\xdb",
            "bytes": b"\xc6",
            "ext": b"\xc9",
        }.items()
        for where in ("root", "id", "params", "idem", "x")
    },
    "ext in the root": EXT,
    "ext as id": message(id=EXT),
    "ext as params": message(params=EXT),
    "ext of no length as params": message(params=b"\xc7\x00\x05"),
    "timestamp as params": message(params=b"\xd6\xff\x00\x00\x00\x00"),
    "trailing byte": message() + b"\x00",
    "trailing message": message() * 2,
    "number as key": table(b"\x01", b"\x01", pack("v"), b"\x01"),
    "bytes as key": table(pack(b"v"), b"\x01"),
    "number as parameter's key": message(params=b"\x81\x01\x02"),
    "duplicate key": message()[:1].replace(b"\x83", b"\x84")
    + message()[1:]
    + pack("method")
    + pack("agent.list"),
    "duplicate parameter": message(
        method=pack("agent.list"),
        params=table(pack("limit"), b"\x01", pack("limit"), b"\x02"),
    ),
    "not a number as deadline": message(deadline_s=NAN),
    "infinity as deadline": message(deadline_s=INFINITY),
    "not a number as grace time": message(
        method=pack("agent.stop"), params=table(pack("id"), pack("none"), pack("grace_s"), NAN)
    ),
    "bad utf-8 as method": message(method=NO_UTF8),
    "bad utf-8 as id": message(id=NO_UTF8),
    "bad utf-8 as parameter": message(method=pack("agent.get"), params=table(pack("id"), NO_UTF8)),
    "bad utf-8 as key": message(params=table(NO_UTF8, b"\xc0")),
    "surrogate": message(id=b"\xa3\xed\xa0\x80"),
    "nil": b"\xc0",
    "number": b"\x01",
    "text": pack("server.hello"),
    "bytes": pack(b"server.hello"),
    "list": pack(["server.hello"]),
    "empty map": b"\x80",
    "nothing": b"",
    "reserved byte": b"\xc1",
    "no id": pack({"v": 1, "method": "server.hello"}),
    "no version": pack({"id": 1, "method": "server.hello"}),
    "no method": pack({"v": 1, "id": 1}),
    "true as id": message(id=b"\xc3"),
    "negative id": message(id=b"\xff"),
    "empty id": message(id=b"\xa0"),
    "long id": message(id=pack("x" * 65)),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_fault_21_malformed_bytes_are_an_invalid_argument_within_20_ms(
    peers: Peers, payload: bytes
) -> None:
    peer = peers.connect()
    peer.result("server.hello")

    answer, seconds = timed(peer, payload)

    assert answer["error"]["code"] == "invalid_argument"
    assert answer["id"] in (1, None)
    assert not re.search("Traceback|Error\\b|descartesd/|msgspec", answer["error"]["message"])
    assert seconds < 0.02


# Unknown keys of an envelope are ignored, whatever they hold: that must be cheap as well.
IGNORED = {
    "expansion to maps": message(x=array(LARGE, b"\x80")),
    "expansion to lists": message(x=array(LARGE, b"\x90")),
    "expansion in credit": message(credit=table(pack("x"), array(LARGE, b"\x80"))),
    "many keys": b"\xde\x7d\x03"
    + message()[1:]
    + b"".join(pack(f"{n:05}") + b"\xc0" for n in range(32_000)),
}


@pytest.mark.parametrize("payload", IGNORED.values(), ids=IGNORED.keys())
def test_fault_21_what_is_ignored_costs_less_than_20_ms(peers: Peers, payload: bytes) -> None:
    peer = peers.connect()
    peer.result("server.hello")

    answer, seconds = timed(peer, payload)

    assert answer["result"]["protocol"] == 1
    assert seconds < 0.02


def timed(peer: Peer, payload: bytes) -> tuple[dict[str, Any], float]:
    """The answer, and the shortest time it took in three tries."""
    times = []
    for _ in range(3):
        begun = time.monotonic()
        peer.socket.send(payload)
        answer = peer.receive()
        times.append(time.monotonic() - begun)
    return answer, min(times)


def test_fault_21_malformed_bytes_never_hold_more_than_10_mib(
    shared_server: Server, peers: Peers
) -> None:
    peer = peers.connect()
    peer.result("server.hello")
    daemon = daemon_of(shared_server)
    costs = {}

    for name, payload in {**MALFORMED, **IGNORED}.items():
        reset_peak(daemon.pid)
        before = peak(daemon.pid)
        peer.socket.send(payload)
        peer.receive()
        costs[name] = (peak(daemon.pid) - before) / MIB

    assert {name: cost for name, cost in costs.items() if cost >= 10} == {}


def reset_peak(pid: int) -> None:
    # proc(5): 5 sets the peak to what the process holds now.
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """The most bytes a process has held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


STRANGE_NAMES = (
    "__class__",
    "_private",
    "",
    "agent",
    "agent.",
    "agent.spawn ",
    "AGENT.SPAWN",
    "agent.spawn\0",
    "server.hello\n",
    "server.__init__",
    "handlers",
    "agent.spawn.__call__",
    "ａgent.list",  # noqa: RUF001
    "x" * 128,
)


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=repr)
def test_fault_22_an_unknown_method_is_unimplemented(peers: Peers, name: str) -> None:
    assert peers.connect().refusal(name) == "unimplemented"


@pytest.mark.parametrize("name", [1, None, True, 1.5, [], {}, b"server.hello", "x" * 129], ids=repr)
def test_fault_22_a_method_that_is_no_name_is_an_invalid_argument(
    peers: Peers, name: object
) -> None:
    peer = peers.connect()
    peer.socket.send(request(name))

    answer = peer.receive()

    assert answer["error"]["code"] == "invalid_argument"
    assert answer["id"] == 1


def test_fault_22_every_method_has_a_permission_and_a_schema(peers: Peers) -> None:
    told = {row["name"]: row for row in peers.connect().result("server.methods")["methods"]}

    assert told.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert method.permission in ROLES
        assert told[name]["permission"] == method.permission
        assert issubclass(method.request, msgspec.Struct)
        assert method.request.__struct_config__.forbid_unknown_fields, name
        assert "$ref" in told[name]["request"] or told[name]["request"]["type"] == "object"
        assert told[name]["reply"]
        assert method.summary.endswith(".")


@pytest.mark.parametrize("name", METHODS)
def test_fault_22_every_method_refuses_a_parameter_it_does_not_know(
    peers: Peers, name: str
) -> None:
    answer = peers.connect().ask(name, {"no_such_parameter": 1})

    assert answer["error"]["code"] == "invalid_argument"
    assert "no_such_parameter" in answer["error"]["message"]


# What each method would do if it were allowed; %s stands for an agent that lives.
WISHES: dict[str, dict[str, Any]] = {
    "agent.spawn": {"spec": {"command": ["sleep", "60"], "name": "intruder"}},
    "agent.pause": {"id": "%s"},
    "agent.resume": {"id": "%s"},
    "agent.stop": {"id": "%s", "grace_s": 0},
    "agent.kill": {"id": "%s"},
    "agent.signal": {"id": "%s", "signal": "KILL"},
    "agent.write": {"id": "%s", "data": b"intruder\n"},
    "agent.close_stdin": {"id": "%s"},
    "agent.remove": {"id": "%s"},
    "agent.get": {"id": "%s"},
    "agent.output": {"id": "%s"},
    "agent.follow": {"id": "%s"},
    "cert.sign": {"public_key": "0" * 40, "name": "intruder", "role": "admin"},
    "stream.credit": {"stream": 77},
    "stream.cancel": {"stream": 77},
}
ABOVE = [
    (role, method)
    for role in ROLES
    for method in METHODS.values()
    if ROLES.index(method.permission) > ROLES.index(role)
]


@pytest.fixture(scope="module")
def certified(shared_server: Server) -> dict[str, Keys]:
    """Keys of a client of each role."""
    return {role: keys_of(shared_server.issue(f"an-{role}", role)) for role in ROLES}


@pytest.fixture(scope="module")
def target(shared_server: Server) -> Iterator[dict[str, Any]]:
    """An agent that echoes its input, as it was when it had started."""
    with Peers(shared_server) as peers:
        peer = peers.connect()
        agent = peer.result("agent.spawn", {"spec": {"command": ["cat"], "stdin": "pipe"}})
        yield agent
        peer.result("agent.kill", {"id": agent["id"]})


@pytest.mark.parametrize(
    ("role", "method"), ABOVE, ids=[f"{role}-{method.name}" for role, method in ABOVE]
)
def test_fault_22_and_23_a_method_above_the_role_is_refused_and_does_nothing(
    shared_server: Server,
    peers: Peers,
    certified: dict[str, Keys],
    target: dict[str, Any],
    role: str,
    method: Method[Any, Any],
) -> None:
    admin = peers.connect()
    before = everything(shared_server, admin, target["id"])
    wish = {
        key: target["id"] if value == "%s" else value for key, value in WISHES[method.name].items()
    }

    peer = peers.connect(certified[role])

    assert peer.refusal(method.name, wish) == "permission_denied"
    assert peer.refusal(method.name, wish, idem="k") == "permission_denied"
    assert peer.refusal(method.name, {"bogus": 1}) == "permission_denied"
    assert everything(shared_server, admin, target["id"]) == before


def everything(server: Server, admin: Peer, agent: str) -> dict[str, Any]:
    """What a refused request could have changed."""
    found = admin.result("agent.list")
    for each in found["agents"]:
        each.pop("usage", None)
    trust = server.directory / "state" / "trust"
    return {
        "agents": found,
        "output": admin.result("agent.output", {"id": agent})["data"],
        "certificates": sorted(path.name for path in trust.iterdir()),
    }


ALLOWED = [
    (role, method)
    for role in ROLES
    for method in METHODS.values()
    if ROLES.index(method.permission) <= ROLES.index(role)
]


@pytest.mark.parametrize(
    ("role", "method"), ALLOWED, ids=[f"{role}-{method.name}" for role, method in ALLOWED]
)
def test_fault_23_a_method_within_the_role_is_not_refused_for_the_role(
    peers: Peers, certified: dict[str, Keys], role: str, method: Method[Any, Any]
) -> None:
    assert peers.connect(certified[role]).refusal(method.name, {"bogus": 1}) == "invalid_argument"


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
    rest = {key: value for key, value in WISHES.get(method, {}).items() if key != "id"}

    codes = {trick: peer.refusal(method, {**rest, "id": value}) for trick, value in TRICKS.items()}

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


STREAM_TRICKS = {
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


def test_fault_31_a_duplicate_after_a_reconnect_is_answered_alike_and_done_once(
    peers: Peers, tmp_path: Path
) -> None:
    wish = once(tmp_path, "twice")
    first = peers.connect()
    answer = first.result("agent.spawn", wish, idem="key-31")
    first.close()

    again = peers.connect()

    assert again.result("agent.spawn", wish, id=9, idem="key-31") == answer
    assert named(again, "twice") == [answer["id"]]
    eventually(lambda: runs(tmp_path) == 1)
    assert again.refusal("agent.spawn", once(tmp_path, "other"), idem="key-31") == "conflict"
    signal = {"id": "twice", "signal": "KILL"}
    assert again.refusal("agent.signal", signal, idem="key-31") == "conflict"
    again.result("agent.kill", {"id": "twice"})


def test_fault_31_duplicates_on_several_connections_at_once_are_done_once(
    peers: Peers, tmp_path: Path
) -> None:
    wish = once(tmp_path, "crowd")
    crowd = [peers.connect() for _ in range(10)]
    for peer in crowd:
        peer.result("server.hello")

    for number, peer in enumerate(crowd):
        peer.send("agent.spawn", wish, id=number, idem="key-crowd")
    answers = [peer.receive() for peer in crowd]

    assert [answer["id"] for answer in answers] == list(range(10))
    assert len({answer["result"]["id"] for answer in answers}) == 1
    eventually(lambda: runs(tmp_path) == 1)


def test_fault_31_a_refusal_is_repeated_too(peers: Peers) -> None:
    wish = {"spec": {"command": ["/no/such/program"]}}

    first = peers.connect().ask("agent.spawn", wish, idem="key-refused")
    again = peers.connect().ask("agent.spawn", wish, idem="key-refused")

    assert first["error"]["code"] == "invalid_argument"
    assert again == first


def test_fault_31_a_key_belongs_to_one_identity(
    peers: Peers, certified: dict[str, Keys], tmp_path: Path
) -> None:
    mine = peers.connect().result("agent.spawn", {"spec": SPEC}, idem="key-shared")
    theirs = peers.connect(certified["operator"]).result(
        "agent.spawn", {"spec": SPEC}, idem="key-shared"
    )

    assert mine["id"] != theirs["id"]


def test_fault_31_a_duplicate_after_a_crash_of_the_daemon_is_answered_alike(
    server: Server, tmp_path: Path
) -> None:
    with Peers(server) as peers:
        first = peers.connect()
        answer = first.result("agent.spawn", once(tmp_path, "before"), idem="answered")
        first.send("agent.spawn", once(tmp_path, "unheard"), id=2, idem="unheard")
        eventually(lambda: runs(tmp_path) == 2)

        server.crash_and_restart()

        again = peers.connect()
        repeated = again.result("agent.spawn", once(tmp_path, "before"), idem="answered")
        unheard = again.result("agent.spawn", once(tmp_path, "unheard"), idem="unheard")
        assert (repeated["id"], repeated["pid"]) == (answer["id"], answer["pid"])
        assert unheard["name"] == "unheard"
        assert again.result("agent.list")["total"] == 2
        assert runs(tmp_path) == 2


def test_fault_31_a_signal_cut_short_by_a_crash_is_not_sent_again(server: Server) -> None:
    wish = {"id": "counter", "signal": "USR1"}
    script = "trap 'echo got' USR1; echo ready; while :; do sleep 0.02; done"
    spec = {"command": ["sh", "-c", script], "name": "counter"}
    assert server.keeper_pid is not None
    keeper = psutil.Process(server.keeper_pid)

    with Peers(server) as peers:
        first = peers.connect()
        first.result("agent.spawn", {"spec": spec})
        eventually(lambda: b"ready" in written(first, "counter"))
        keeper.suspend()
        first.send("agent.signal", wish, id="s", idem="signal-once")
        # The second answer comes a turn of the loop after the signal was taken on.
        first.result("server.hello")
        first.result("server.hello")
        server.kill()
        keeper.resume()
        server.start()

        again = peers.connect()
        answer = again.ask("agent.signal", wish, idem="signal-once")
        again.result("agent.stop", {"id": "counter"})

        assert written(again, "counter").count(b"got") <= 1
        assert answer.get("error", {}).get("code") == "aborted"


def written(peer: Peer, agent: str) -> bytes:
    data: bytes = peer.result("agent.output", {"id": agent})["data"]
    return data


def once(directory: Path, name: str) -> dict[str, Any]:
    """Parameters of an agent that notes each of its starts."""
    note = f"echo {name} >> {directory}/runs; exec sleep 60"
    return {"spec": {"command": ["sh", "-c", note], "name": name}}


def named(peer: Peer, name: str) -> list[str]:
    """Ids of the agents of that name."""
    return [a["id"] for a in peer.result("agent.list")["agents"] if a["name"] == name]


def runs(directory: Path) -> int:
    """How often agents of this test have started."""
    file = directory / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0
