"""The server's own metrics, each with what it means; the reference page is made of this table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from descartesd.metric import Distribution, Metric, MetricKind, Sample

Read = Callable[[], float | Iterable[Sample | Distribution]]


class Declared(NamedTuple):
    """One metric, without the function that reads it."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()


SERVER = (
    Declared(
        "descartesd_build_info",
        "gauge",
        "Always 1; the labels say what runs.",
        ("version", "server_id"),
    ),
    Declared("descartesd_start_time_seconds", "gauge", "When the server started, since the epoch."),
    Declared("descartesd_healthy", "gauge", "1 while every part of the server works, else 0."),
    Declared(
        "descartesd_part_healthy",
        "gauge",
        "1 for each part that works, 0 for what makes the server degraded.",
        ("part",),
    ),
    Declared("descartesd_draining", "gauge", "1 while no new agents are taken."),
    Declared(
        "descartesd_event_loop_lag_seconds",
        "gauge",
        "How late the event loop came to what was due in the last second.",
    ),
    Declared(
        "descartesd_watchdog_ping_age_seconds",
        "gauge",
        "Seconds since the service manager's watchdog was last told that the server is well; "
        "absent without a watchdog.",
    ),
    Declared(
        "descartesd_process_cpu_seconds_total",
        "counter",
        "CPU time the daemon and the keeper have used, without their agents.",
        ("process",),
    ),
    Declared(
        "descartesd_process_resident_memory_bytes",
        "gauge",
        "Memory of the daemon and of the keeper.",
        ("process",),
    ),
    Declared("descartesd_process_threads", "gauge", "Threads of each of them.", ("process",)),
    Declared(
        "descartesd_process_open_fds",
        "gauge",
        "Descriptors each of them has open; absent for a keeper of another user.",
        ("process",),
    ),
    Declared(
        "descartesd_process_max_fds",
        "gauge",
        "Descriptors each of them may have open.",
        ("process",),
    ),
    Declared(
        "descartesd_memory_used_bytes",
        "gauge",
        "Memory in use where it is scarcest: on the host, or in a cgroup around the server that "
        "has a limit.",
    ),
    Declared(
        "descartesd_memory_limit_bytes", "gauge", "Memory there is there, used and free together."
    ),
    Declared(
        "descartesd_state_free_bytes", "gauge", "Room on the file system of server.state_dir."
    ),
)

REQUESTS = (
    Declared(
        "descartesd_requests_total",
        "counter",
        "Requests that were answered: `ok`, or the error's code. What no method takes counts under "
        "`unknown`.",
        ("method", "code"),
    ),
    Declared(
        "descartesd_request_duration_seconds",
        "histogram",
        "How long answers took; that of a stream until it was open.",
        ("method",),
    ),
    Declared(
        "descartesd_requests_in_progress", "gauge", "Requests that wait for their answer, streams."
    ),
    Declared("descartesd_streams", "gauge", "Streams that are open."),
    Declared(
        "descartesd_stream_failures_total",
        "counter",
        "Open streams that ended with an error, by its code.",
        ("code",),
    ),
    Declared("descartesd_clients", "gauge", "Connections that have asked something."),
    Declared("descartesd_client_connections_total", "counter", "All there have ever been of them."),
    Declared(
        "descartesd_received_bytes_total",
        "counter",
        "Bytes of requests, before they are encrypted.",
    ),
    Declared("descartesd_sent_bytes_total", "counter", "Bytes of answers and of items of streams."),
    Declared(
        "descartesd_messages_dropped_total", "counter", "Messages dropped for their many frames."
    ),
    Declared("descartesd_peers_shed_total", "counter", "Peers that did not read their answers."),
    Declared("descartesd_handshakes_accepted_total", "counter", "Peers whose key was let in."),
    Declared(
        "descartesd_handshakes_refused_total",
        "counter",
        "Handshakes that failed: `auth` (unknown key or user), `timeout`, `protocol`, "
        "`broken_off`, `accept` (no descriptor was left).",
        ("cause",),
    ),
    Declared(
        "descartesd_key_lookup_failures_total",
        "counter",
        "Peers refused because their key could not be looked up.",
    ),
)

AGENTS = (
    Declared("descartesd_agents", "gauge", "Agents in each state, ended ones too.", ("state",)),
    Declared("descartesd_agents_alive", "gauge", "Agents that take a slot."),
    Declared("descartesd_agents_limit", "gauge", "Slots there are: server.max_agents."),
    Declared("descartesd_agents_queued", "gauge", "Agents that wait for a slot."),
    Declared(
        "descartesd_agents_queued_limit", "gauge", "As many may wait for one: limits.max_queued."
    ),
    Declared(
        "descartesd_agents_output_blocked",
        "gauge",
        "Agents whose output cannot be written and waits.",
    ),
    Declared(
        "descartesd_spawns_total",
        "counter",
        "Agents asked for: `succeeded` (queued ones too) or `failed`.",
        ("outcome",),
    ),
    Declared(
        "descartesd_agent_exits_total",
        "counter",
        "Ends of attempts, by the agent's state after it and the reason of the outcome.",
        ("state", "reason"),
    ),
    Declared("descartesd_agent_restarts_total", "counter", "Restarts by a restart policy."),
    Declared(
        "descartesd_agent_tokens_total", "counter", "Tokens that agents have said they have used."
    ),
    Declared(
        "descartesd_agent_cost_usd_total",
        "counter",
        "US dollars that agents have said they have cost.",
    ),
    Declared(
        "descartesd_agents_output_bytes",
        "gauge",
        "Bytes written by the agents there are, dropped ones included.",
    ),
    Declared("descartesd_agents_memory_bytes", "gauge", "Memory of all agents, as last sampled."),
    Declared("descartesd_agents_tasks", "gauge", "Processes and threads of all agents."),
)

STATE = (
    Declared("descartesd_events_total", "counter", "Events there have been since the very first."),
    Declared("descartesd_events_kept", "gauge", "Events that can still be read."),
    Declared(
        "descartesd_registry_commits_total",
        "counter",
        "Transactions of the registry: `committed` or `failed`.",
        ("outcome",),
    ),
    Declared("descartesd_registry_size_bytes", "gauge", "Size of the registry, with its log."),
    Declared("descartesd_keeper_up", "gauge", "1 while the keeper answers, else 0."),
    Declared(
        "descartesd_keeper_connections_total", "counter", "How often a keeper was connected to."
    ),
    Declared(
        "descartesd_keeper_strays",
        "gauge",
        "Processes that agents have left and that belong to none any more, at most 100.",
    ),
    Declared(
        "descartesd_certificates",
        "gauge",
        "Certificates: `valid`, `expiring` (under a third of their life is left), `expired`, "
        "`not_yet`.",
        ("state",),
    ),
    Declared(
        "descartesd_trust_store_problems",
        "gauge",
        "Files of the trust store that are left out because something is wrong with them.",
    ),
    Declared("descartesd_audit_lines_total", "counter", "Lines of the audit log so far."),
    Declared(
        "descartesd_audit_failures_total", "counter", "Writes of the audit log that have failed."
    ),
    Declared(
        "descartesd_metric_failures_total",
        "counter",
        "Metrics that could not be read, by their name.",
        ("metric",),
    ),
)

PLUGINS = (
    Declared(
        "descartesd_plugins",
        "gauge",
        "Plugins: `loaded`, `benched` (not called for a while) or `failed`.",
        ("state",),
    ),
    Declared("descartesd_plugin_calls_total", "counter", "Calls of a plugin's hooks.", ("plugin",)),
    Declared(
        "descartesd_plugin_failures_total",
        "counter",
        "Those that raised, took too long or answered what they may not.",
        ("plugin",),
    ),
    Declared(
        "descartesd_plugin_facts_dropped_total",
        "counter",
        "Facts a plugin was not told because too many waited for it.",
        ("plugin",),
    ),
)

DECLARED: Mapping[str, tuple[Declared, ...]] = {
    "The server": SERVER,
    "Requests": REQUESTS,
    "Agents": AGENTS,
    "State and security": STATE,
    "Plugins": PLUGINS,
}


def with_readers(readers: Mapping[str, Read]) -> list[Metric]:
    """Join every metric with the function that reads it; raises ValueError when one is missing."""
    declared = [each for group in DECLARED.values() for each in group]
    missing = {each.name for each in declared} ^ readers.keys()
    if missing:
        raise ValueError(f"metrics without a function, or not declared: {sorted(missing)}")
    return [
        Metric(
            name=each.name,
            kind=each.kind,
            help=each.help,
            read=readers[each.name],
        )
        for each in declared
    ]
