"""The one sentence `systemctl status` shows of a server that serves."""

from __future__ import annotations

from descartesd.wire.server import KeeperHealth, ServerHealth

_ENDED = ("completed", "failed", "terminated", "lost")


def sentence(health: ServerHealth, clients: int, refused: str | None = None) -> str:
    """Agents, clients, queue, what does not work, and why a new configuration was refused."""
    counts = health.agents
    queued = counts.get("queued", 0)
    alive = sum(count for state, count in counts.items() if state not in (*_ENDED, "queued"))
    paused = counts.get("paused", 0)
    told = [_several(alive, "agent") + (f" ({paused} paused)" if paused else "")]
    if queued:
        told.append(f"{queued} queued")
    told.append(_several(clients, "client"))
    found = f"serving {', '.join(told)}"
    if health.draining:
        found += "; draining, takes no new agents"
    if health.reasons:
        found += f"; degraded: {'; '.join(health.reasons)}"
    if health.keeper.stays_because is not None:
        found += f"; {_other_keeper(health.keeper)}"
    if refused is not None:
        found += f"; the configuration was not reloaded: {refused}"
    return found


def _other_keeper(keeper: KeeperHealth) -> str:
    running, installed = keeper.version, keeper.installed_version
    if running == installed:
        running, installed = keeper.build, keeper.installed_build
    return f"the keeper is {running}, installed is {installed}: {keeper.stays_because}"


def stopping_sentence(agents: int, requests: int) -> str:
    """What a stop still waits for."""
    counts = ((agents, "agent"), (requests, "request"))
    left = " and ".join(_several(count, noun) for count, noun in counts if count)
    return f"stopping: {left} left" if left else "stopping"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
