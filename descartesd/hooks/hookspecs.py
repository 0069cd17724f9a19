"""Every hook a plugin may implement: a plain function, marked with descartesd.api.hookimpl.

An implementation names the parameters it wants, all of them or fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pluggy

from descartesd.api import (
    Action,
    AgentInfo,
    AgentSpec,
    Backend,
    Event,
    Exporter,
    Identity,
    KeyHolder,
    Metric,
    MetricFamily,
    ServerInfo,
    State,
)

hookspec = pluggy.HookspecMarker("descartesd")


# Facts: something has happened, and nothing can be done about it.


@hookspec
def daemon_started(server: ServerInfo) -> None:
    """The server serves.

    Returns nothing.
    Runs once; a plain function in the plugin's own thread, a coroutine function in the event loop,
    for at most `plugins.hook_timeout_s`.
    If it raises, that is logged and counted, and everything else goes on.
    Since 0.1.
    """


@hookspec
def daemon_stopping(server: ServerInfo) -> None:
    """The server has been told to stop; its agents are about to be ended.

    Returns nothing.
    Runs once, where `daemon_started` does; the server waits for it, for at most
    `plugins.hook_timeout_s`, before it ends its agents.
    If it raises, that is logged and counted, and the server stops all the same.
    Since 0.1.
    """


@hookspec
def agent_started(agent: AgentInfo) -> None:
    """A program of an agent runs: of a new one, a restarted one, a respawned one.

    Returns nothing.
    Runs after the fact, one fact of a plugin after the other, where `daemon_started` does, for at
    most `plugins.hook_timeout_s`; where 1000 facts wait for a plugin, further ones are dropped.
    If it raises, that is logged and counted, and everything else goes on.
    Since 0.1.
    """


@hookspec
def agent_state_changed(agent: AgentInfo, previous: State) -> None:
    """An agent is in another state than the previous one.

    Returns nothing.
    Runs as `agent_started` does, after it or `agent_exited` where that is told too.
    If it raises, that is logged and counted, and everything else goes on.
    Since 0.1.
    """


@hookspec
def agent_event(event: Event) -> None:
    """An event about an agent has been recorded, as `event follow` tells it.

    Returns nothing.
    Runs as `agent_started` does, once the event is on the disk.
    If it raises, that is logged and counted, and everything else goes on.
    Since 0.1.
    """


@hookspec
def agent_exited(agent: AgentInfo) -> None:
    """The program of an agent has ended, whether or not it is started again; `outcome` says how.

    Returns nothing.
    Runs as `agent_started` does.
    If it raises, that is logged and counted, and everything else goes on.
    Since 0.1.
    """


@hookspec
def metrics_collected(metrics: Sequence[MetricFamily]) -> None:
    """Somebody has collected the metrics.

    Returns nothing.
    Runs as `agent_started` does, at each collection.
    If it raises, that is logged and counted, and everything else goes on.
    Since 0.1.
    """


# Questions: something is about to happen, and the answer counts.


@hookspec
def authenticate_key(key: str, address: str) -> KeyHolder | None:
    """Somebody comes in over tcp with a key (in Z85) that no certificate of this server is for.

    Returns who holds the key, or nothing where the plugin does not know it; the first plugin that
    knows it decides.
    A plain function runs in a thread, a coroutine function in the event loop, for at most
    `plugins.hook_timeout_s`; nobody else waits. The answer is good for `plugins.auth_cache_s`.
    If it raises, takes longer or answers anything else, the key is refused.
    Since 0.1.
    """


@hookspec
def authorize_request(identity: Identity, method: str, target: str | None) -> bool | None:
    """Somebody asks for a method, maybe of an agent (target), and his role allows it.

    Returns nothing or True where it may go on, False where it may not; or raises an error of
    descartesd.api, which he is told. It can refuse what a role allows, never allow more.
    Every plugin is asked, where `authenticate_key` runs, for at most `plugins.hook_timeout_s`; the
    decision is good for `plugins.auth_cache_s`.
    If it raises anything else, takes longer or answers anything else, the request is refused.
    Since 0.1.
    """


@hookspec
def agent_spawning(spec: AgentSpec, identity: Identity) -> AgentSpec | None:
    """A new agent is about to be started.

    Returns the spec it is to be started with, or nothing where it is right as it is; or raises an
    error of descartesd.api, and it is not started. What is returned is checked like any spec.
    Every plugin is asked, each with the spec the one before has made, where `authenticate_key`
    runs, for at most `plugins.hook_timeout_s`.
    If it raises anything else, takes longer or answers anything else, the agent is started as if
    the plugin had not been asked.
    Since 0.1.
    """


# Contributions: called once.


@hookspec
def register_actions() -> Iterable[Action]:  # type: ignore[empty-body]  # only a declaration
    """The server starts and collects its custom actions.

    Returns the actions this plugin adds; a name another plugin has taken is refused.
    Runs once, in a thread, before the server serves, for at most `plugins.hook_timeout_s`.
    If it raises, the server does not start, and says which plugin it was.
    Since 0.1.
    """


@hookspec
def register_backends() -> Iterable[Backend]:  # type: ignore[empty-body]  # only a declaration
    """The server starts and collects the programs clients may start by name.

    Returns the backends this plugin adds; a name another plugin has taken is refused.
    Runs once, in a thread, before the server serves, for at most `plugins.hook_timeout_s`.
    If it raises, the server does not start, and says which plugin it was.
    Since 0.1.
    """


@hookspec
def register_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]  # only a declaration
    """The server starts and collects the metrics it has.

    Returns the metrics this plugin adds; a name another plugin has taken is refused.
    Runs once, in a thread, before the server serves, for at most `plugins.hook_timeout_s`.
    If it raises, the server does not start, and says which plugin it was.
    Since 0.1.
    """


@hookspec
def register_exporters() -> Iterable[Exporter]:  # type: ignore[empty-body]  # only a declaration
    """The server starts and collects what carries its metrics out.

    Returns the exporters this plugin adds; a name another plugin has taken is refused.
    Runs once, in a thread, before the server serves, for at most `plugins.hook_timeout_s`.
    If it raises, the server does not start, and says which plugin it was.
    Since 0.1.
    """
