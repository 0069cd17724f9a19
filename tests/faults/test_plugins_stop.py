"""A server stops in time, whatever its plugins do."""

from __future__ import annotations

import time

import pytest

from descartesd.errors import DeadlineExceededError
from tests.support.agents import spec
from tests.support.eventually import eventually
from tests.support.plugins import PluggedServer

STUBBORN = """
    import asyncio, threading
    from descartesd.api import Action, hookimpl

    async def never(context, params):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    @hookimpl
    async def agent_started():
        await never(None, None)

    @hookimpl
    def agent_exited():
        threading.Event().wait()

    @hookimpl
    def register_actions():
        return [Action(name="never", summary="Never end.", run=never, timeout_s=0.1)]
"""


def test_fault_67_what_ignores_its_end_keeps_no_server_from_stopping() -> None:
    with PluggedServer({"stubborn": STUBBORN}, settings={"plugins.hook_timeout_s": 0.2}) as server:
        server.start()
        with server.client() as client:
            client.agent.wait(id=client.agent.spawn(spec=spec("true")).id)
            with pytest.raises(DeadlineExceededError):
                client.action.run(name="never")
            eventually(lambda: server.plugin("stubborn").errors >= 2)
        began = time.monotonic()
        status = server.stop()

    assert status == 0
    assert time.monotonic() - began < 5
