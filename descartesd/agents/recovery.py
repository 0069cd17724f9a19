"""Makes registry and keeper agree again after a crash of either."""

from __future__ import annotations

import logging

from descartesd.agents.fleet import Fleet
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ALIVE, ENDED
from descartesd.wire.agent import Reason

log = logging.getLogger(__name__)


async def end_leftovers(fleet: Fleet, keeper: KeeperLink) -> None:
    """A keeper died: let the new one end what is left of its agents before anything is served."""
    left = [
        {"agent_id": agent.id, "pid": agent.pid or 0, "start_time": agent.start_time or 0}
        for agent in fleet.roster
        if agent.state in ALIVE
    ]
    if left:
        reply = await keeper.request("recover", agents=left)
        log.warning("keeper.leftovers_ended", extra={"count": reply["ended"]})


async def reconcile(fleet: Fleet, keeper: KeeperLink, lost_because: Reason) -> list[str]:
    """Adopt what the keeper has, take over what ended meanwhile, and call the rest lost.

    Returns the ids of agents the keeper has and the registry does not know.
    """
    statuses = {status["agent_id"]: status for status in await keeper.statuses()}
    for agent in list(fleet.roster):
        status = statuses.pop(agent.id, None)
        if status is not None and status["attempt"] == agent.attempt:
            fleet.reconciled(agent, status)
        elif agent.state == "starting":
            fleet.abandon(agent)
        elif agent.state in ALIVE:
            fleet.lose(agent, lost_because)
        elif agent.state in ENDED and not agent.eof:
            fleet.close_output(agent)
    unknown = []
    for agent_id, status in statuses.items():
        if status["state"] == "exited":
            await keeper.request("forget", agent_id=agent_id)
        else:
            log.error("keeper.unknown_agent", extra={"agent": agent_id, "pid": status["pid"]})
            unknown.append(agent_id)
    return unknown
