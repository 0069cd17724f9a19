"""Methods nobody has, and methods above the role of who asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from descartesd.wire.methods import METHODS, ROLES, Method
from tests.faults.peers import Keys, Peer, Peers, keys_of, request
from tests.support.server import Server


@pytest.fixture
def peers(shared_server: Server) -> Iterator[Peers]:
    with Peers(shared_server) as made:
        yield made


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
    "agent.attach": {"id": "%s", "writer": "intruder"},
    "agent.resize": {"id": "%s", "rows": 24, "cols": 80},
    "agent.say": {"id": "%s", "text": "intruder"},
    "agent.answer": {"id": "%s", "decision": "allow"},
    "agent.remove": {"id": "%s"},
    "agent.respawn": {"id": "%s"},
    "batch.spawn": {"specs": [{"command": ["sleep", "60"], "name": "intruder"}]},
    "agent.get": {"id": "%s"},
    "agent.output": {"id": "%s"},
    "agent.follow": {"id": "%s"},
    "cert.sign": {"public_key": "0" * 40, "name": "intruder", "role": "admin"},
    "cert.token": {"role": "admin"},
    "cert.enroll": {"public_key": "0" * 40, "name": "intruder"},
    "audit.show": {},
    "audit.verify": {},
    "cert.authority": {"trust": "0" * 40},
    "cert.add": {"certificate": "x"},
    "cert.present": {"certificate": "x"},
    "cert.rotate": {"what": "host"},
    "cert.list": {},
    "cert.show": {"name": "admin"},
    "cert.revoke": {"name": "admin"},
    "policy.explain": {"identity": "admin", "method": "agent.kill"},
    "server.drain": {},
    "server.reload": {},
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
