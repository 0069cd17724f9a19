"""The actions every server has, registered as any plugin would."""

from __future__ import annotations

import time
from typing import Any

from descartesd.api import Action, ActionContext, Empty, InvalidArgumentError, hookimpl


@hookimpl
def register_actions() -> list[Action]:
    """Register echo, ping and get_env."""
    return [
        Action(
            name="echo",
            summary="Answer the parameters as they came.",
            run=_echo,
            params=dict,
            permission="observer",
        ),
        Action(name="ping", summary="Answer 'pong'.", run=_ping, permission="observer"),
        Action(
            name="get_env",
            summary="Tell an agent's state and the names of the variables asked for it.",
            run=_get_env,
            permission="observer",
            needs_agent=True,
        ),
    ]


async def _echo(_context: ActionContext, params: dict[str, Any]) -> dict[str, Any]:
    return params


async def _ping(_context: ActionContext, _params: Empty) -> str:
    return "pong"


async def _get_env(context: ActionContext, _params: Empty) -> dict[str, Any]:
    agent = context.agent
    if agent is None:
        raise InvalidArgumentError("agent: get_env tells of an agent, and none is given")
    changes = (agent.created_at, agent.started_at, agent.paused_at, agent.ended_at)
    return {
        "status": agent.state,
        "name": agent.name,
        "agent_id": agent.id,
        "last_status_update_secs": time.time() - max(filter(None, changes)),
        # Names alone: who may run this need not be who may see what they hold.
        "env": sorted({*agent.spec.env, *agent.spec.secret_env}),
    }
