"""What the revoked have begun, and nobody waits for any more, goes no further: row 37."""

from __future__ import annotations

import threading

from descartesd.client import Client
from descartesd.errors import UnauthenticatedError
from descartesd.wire.agent import AgentInfo
from tests.faults.peers import logged
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.server import Server

MANY = 600


def ends(admin: Client, who: str, method: str) -> bool:
    """Whether the audit log has the end of what somebody has begun."""
    lines = admin.audit.show(who=who, method=method).lines
    return any(line.phase == "outcome" for line in lines)


def test_fault_37_a_batch_of_the_revoked_starts_no_further_agent(server: Server) -> None:
    profile = server.issue("thief", "operator")
    refused: list[UnauthenticatedError] = []

    def spawn() -> None:
        with server.client(profile) as thief:
            try:
                thief.batch.spawn(specs=[spec(*SLEEP) for _ in range(MANY)])
            except UnauthenticatedError as exc:
                refused.append(exc)

    with server.client() as admin:
        spawning = threading.Thread(target=spawn)
        spawning.start()
        eventually(lambda: admin.agent.list(limit=1).total > 0)
        revoked = admin.cert.revoke(name="thief", kill_agents=True)
        spawning.join()
        eventually(lambda: ends(admin, "thief", "batch.spawn"), timeout=30)

        assert refused
        assert 0 < revoked.killed < MANY
        alive = admin.agent.list(states=["queued", "starting", "running", "backoff"])
        assert alive.total == 0
        assert admin.agent.list(limit=1).total < MANY


def test_fault_37_a_respawn_of_the_revoked_that_waits_begins_nothing(server: Server) -> None:
    profile = server.issue("waiting", "operator")
    with server.client() as admin:
        # What it leaves keeps its pipe open, and a respawn waits for that.
        leaving = spec("sh", "-c", "exec setsid sleep 600 & exit 0", on_exit="keep")
        agent = admin.agent.spawn(spec=leaving)
        admin.agent.wait(id=agent.id)

        def respawn() -> None:
            with server.client(profile) as waiting:
                try:
                    found.append(waiting.agent.respawn(id=agent.id))
                except UnauthenticatedError as exc:
                    found.append(exc)

        found: list[AgentInfo | UnauthenticatedError] = []
        asking = threading.Thread(target=respawn)
        asking.start()
        eventually(lambda: admin.audit.show(who="waiting", method="agent.respawn").lines)
        admin.cert.revoke(name="waiting")
        asking.join()
        eventually(lambda: ends(admin, "waiting", "agent.respawn"), timeout=10)

        assert [type(each) for each in found] == [UnauthenticatedError]
        assert admin.agent.get(id=agent.id).attempt == 1
        assert logged(server, "certificate.revoked")
