from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from descartesd.client import AsyncClient, Client
from descartesd.keys.profile import Profile
from descartesd.wire.agent import AgentPage, AgentRef, AgentStop
from descartesd.wire.batch import BatchResult
from descartesd.wire.methods import METHODS, Method
from tests.support.fakeserver import FakeServer

ROOT = Path(__file__).resolve().parents[3]
NOWHERE = Profile(endpoints=("ipc:///nowhere/control.sock",))
OFFERED = [method for method in METHODS.values() if not method.name.startswith("stream.")]


def test_the_generated_functions_are_current() -> None:
    command = [sys.executable, ROOT / "packaging" / "generate_client.py", "--check"]

    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("method", OFFERED, ids=lambda method: method.name)
def test_every_method_has_a_function_with_the_fields_of_its_request(
    method: Method[Any, Any],
) -> None:
    noun, verb = method.name.split(".")
    expected = [field.name for field in msgspec.structs.fields(method.request)]
    expected += ["deadline_s", "idem"] if method.resend == "idem" else ["deadline_s"]

    with Client(NOWHERE) as client:
        function = getattr(getattr(client, noun), verb)

        assert list(inspect.signature(function).parameters) == expected
        assert inspect.getdoc(function) == method.summary


def test_what_is_given_reaches_the_server(server: FakeServer) -> None:
    server.handlers["agent.list"] = lambda *_: AgentPage(agents=[], total=0)

    with Client(server.profile) as client:
        client.agent.list(states=["running"], labels={"team": "a"}, limit=5)
        client.agent.list()

    first, second = (msgspec.msgpack.decode(r.params) for r in server.of("agent.list"))
    nothing = {"states": [], "labels": {}, "owner": None, "limit": 200, "cursor": None}
    assert first == {**nothing, "states": ["running"], "labels": {"team": "a"}, "limit": 5}
    assert second == nothing


def test_the_asynchronous_functions_do_the_same(server: FakeServer) -> None:
    server.handlers["agent.list"] = lambda *_: AgentPage(agents=[], total=3)

    async def ask() -> AgentPage:
        async with AsyncClient(server.profile) as client:
            return await client.agent.list(limit=5)

    assert asyncio.run(ask()).total == 3


def test_a_stop_may_take_its_grace_time(server: FakeServer) -> None:
    server.handlers["agent.stop"] = lambda *_: AgentRef(id="worker")
    server.handlers["batch.run"] = lambda *_: BatchResult(results=[], succeeded=0, failed=0)

    with Client(server.profile, timeout_s=5) as client:
        for grace_s in (None, 1.0, 60.0):
            request = AgentStop(id="worker", grace_s=grace_s)
            client.pipeline([(METHODS["agent.stop"], request)])

        client.batch.run(verb="stop", ids=["worker"], params={"grace_s": 60})
        client.batch.run(verb="stop", ids=["worker"], params={"grace_s": "long"})
        client.batch.run(verb="kill", ids=["worker"], params={"grace_s": 60})

    assert [round(r.deadline_s) for r in server.of("agent.stop")] == [5, 11, 70]
    assert [round(r.deadline_s) for r in server.of("batch.run")] == [70, 5, 5]
