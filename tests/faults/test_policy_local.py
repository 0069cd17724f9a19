"""On the Unix socket a peer is the uid the kernel says it is, and has that one's role: row 45b."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from descartesd.client import Client
from descartesd.errors import DescartesError
from descartesd.keys.profile import Profile
from descartesd.wire.agent import AgentSpec
from descartesd.wire.methods import METHODS
from tests.faults.peers import request
from tests.support.roles import running_with
from tests.support.server import Server

OBSERVER, TENANT, NOBODY = 61_301, 61_302, 61_303
ROLES = f"""
[policy.local_uids]
{OBSERVER} = "observer"
{TENANT} = "tenant"

[policy.roles.tenant]
commands = ["**"]
[policy.roles.tenant.methods]
"agent.*" = "own"
"""
needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root may become another uid; what it is let do is unit-tested"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_with(ROLES) as server:
        # Strangers find the socket there, and make the private directories of their agents.
        os.chmod(server.root, 0o1777)
        yield server


def as_uid(uid: int, work: Callable[[], Any]) -> Any:
    """Do something as another uid in a process of its own; what it returns, through JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writer, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    return json.loads(told)


def codes(server: Server) -> dict[str, str]:
    """What each method is answered that has a key no request has, by a plain DEALER."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.linger = 0
    sock.rcvtimeo = 5000
    sock.curve_serverkey = server.public_key.encode()
    sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
    sock.connect(f"ipc://{server.directory}/run/control.sock")
    found = {}
    for method in METHODS:
        sock.send(request(method, {"no such key": 1}))
        found[method] = msgpack.unpackb(sock.recv())["error"]["code"]
    context.destroy(linger=0)
    return found


@needs_root
@pytest.mark.parametrize("uid", [OBSERVER, TENANT])
def test_fault_45b_the_same_roles_as_for_keys(server: Server, uid: int) -> None:
    found = as_uid(uid, lambda: codes(server))

    with server.client() as admin:
        for method, code in found.items():
            told = admin.policy.explain(identity=f"uid:{uid}", method=method)
            assert code == ("invalid_argument" if told.allowed else "permission_denied"), method
            assert told.identity == f"uid:{uid}"


@needs_root
def test_fault_45b_a_uid_without_a_role_is_refused_at_the_handshake(server: Server) -> None:
    def knock() -> str:
        try:
            with Client(Profile(endpoints=(f"ipc://{server.directory}/run/control.sock",))) as it:
                it.server.hello()
        except DescartesError as error:
            return error.code
        return "let in"

    assert as_uid(NOBODY, knock) == "unauthenticated"


@needs_root
def test_fault_45b_an_observer_starts_nothing_and_a_tenant_sees_its_own(server: Server) -> None:
    def start() -> list[str]:
        endpoint = f"ipc://{server.directory}/run/control.sock"
        with Client(Profile(endpoints=(endpoint,))) as client:
            try:
                spec = AgentSpec(command=["id", "-u"])
                agent = client.agent.spawn(spec=spec)
                client.agent.wait(id=agent.id)
                data = client.agent.output(id=agent.id, stream="stdout").data.decode()
                return [agent.owner, data.strip(), str(client.agent.list().total)]
            except DescartesError as error:
                return [error.code, error.message]

    with server.client() as admin:
        admin.agent.spawn(spec=AgentSpec(command=["true"]))

    assert as_uid(OBSERVER, start)[0] == "permission_denied"
    assert as_uid(TENANT, start) == [f"uid:{TENANT}", f"{TENANT}", "1"]


def test_fault_45b_root_and_the_server_s_own_uid_are_administrators(server: Server) -> None:
    with server.client(server.local) as client:
        assert client.server.hello().identity.id == f"uid:{os.getuid()}"
        assert client.policy.explain(identity=f"uid:{os.getuid()}", method="cert.sign").allowed
