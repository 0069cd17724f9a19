"""Messages about the server itself and its streams."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from descartesd.wire.agent import Name
from descartesd.wire.envelope import RequestId

# The built-in ones; a server's configuration may have more.
Role = Literal["observer", "operator", "admin"]
RoleName = Name


class Empty(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


class Done(Struct, frozen=True, kw_only=True):
    """It is done; there is nothing to tell."""


class IdentityInfo(Struct, frozen=True, kw_only=True):
    """Who the server takes the caller for: `uid:N` or `key:SHA256:…`."""

    id: str
    role: RoleName
    name: str | None = None


class ServerLimits(Struct, frozen=True, kw_only=True):
    """Bytes: the largest request payload taken, the largest message sent."""

    max_request_bytes: int
    max_message_bytes: int


class ServerHello(Struct, frozen=True, kw_only=True):
    """The server introduces itself.

    From `next_server_key_at` on (seconds since the epoch) new connections meet `next_server_key`.
    `renew`: it is time for the caller to renew his certificate, `cert.renew`.
    """

    server_id: str
    version: str
    protocol: int
    features: list[str]
    limits: ServerLimits
    identity: IdentityInfo
    time: float
    last_event: int = 0
    backends: list[str] = []
    next_server_key: str | None = None
    next_server_key_at: int | None = None
    renew: bool = False


class Stray(Struct, frozen=True, kw_only=True):
    """A process that an agent has left and that is no agent's any more."""

    pid: int
    command: str


class KeeperHealth(Struct, frozen=True, kw_only=True):
    """The process that owns the agents; `strays` are at most 100, as of the last seconds.

    `version` is that of the protocol it speaks, `build` a checksum of its code; the installed ones
    are what it would be after a re-execution. `stays_because` says why it is not re-executed though
    it is another. With `control_groups` each agent has one of its own; without, agents are found by
    their trees, and what only a group can limit is refused.
    """

    connected: bool
    pid: int | None = None
    version: str | None = None
    build: str | None = None
    installed_version: str | None = None
    installed_build: str | None = None
    stays_because: str | None = None
    control_groups: bool = False
    strays: list[Stray] = []


class ServerHealth(Struct, frozen=True, kw_only=True):
    """`degraded` names in `reasons` what does not work; requests that can be served are.

    `checks` has for each part `ok` or what is wrong with it, as of the last second.
    `certificates_expiring` have less than a third of their life left.
    """

    status: Literal["ok", "degraded"]
    reasons: list[str]
    server_id: str
    version: str
    uptime_s: float
    isolation: Literal["none", "user"]
    keeper: KeeperHealth
    listeners: list[str]
    agents: dict[str, int]
    draining: bool = False
    checks: dict[str, str] = {}
    certificates_expiring: int = 0


class Histogram(Struct, frozen=True, kw_only=True):
    """Seconds that answers took: how many took at most each of `ServerStats.bounds_s`.

    `counts` has one entry more than there are bounds, for all that took longer.
    """

    counts: list[int]
    sum_s: float
    p50_s: float
    p99_s: float


class MethodStats(Struct, frozen=True, kw_only=True):
    """Requests for one method since the server started; a stream takes until it is open."""

    requests: int
    failures: int
    latency: Histogram


class SpawnStats(Struct, frozen=True, kw_only=True):
    """Agents asked for since the server started."""

    requested: int
    succeeded: int
    failed: int


class EventStats(Struct, frozen=True, kw_only=True):
    """The first and the last event that is kept; both 0 where there is none."""

    first: int
    last: int


class ServerStats(Struct, frozen=True, kw_only=True):
    """Counted since the server started; `clients`, `streams` and `agents` are those of now.

    A client is a connection that has asked something. Bytes are those of messages, before they are
    encrypted. `methods` leaves out those nobody has asked for.
    """

    server_id: str
    started_at: float
    uptime_s: float
    requests: int
    failures: int
    errors: dict[str, int]
    bytes_received: int
    bytes_sent: int
    clients: int
    clients_seen: int
    streams: int
    messages_dropped: int
    peers_shed: int
    spawns: SpawnStats
    events: EventStats
    agents: dict[str, int]
    bounds_s: list[float]
    methods: dict[str, MethodStats]


class ServerDrain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take no new agents from now on, or with `undo` take them again."""

    undo: bool = False


class Drained(Struct, frozen=True, kw_only=True):
    """Whether new agents are refused, how many are still alive, and how many wait for it to end."""

    draining: bool
    alive: int
    queued: int = 0


class Reloaded(Struct, frozen=True, kw_only=True):
    """Settings that hold from now on, and those that wait for a restart, by dotted key."""

    changed: list[str]
    restart: list[str]


class MethodInfo(Struct, frozen=True, kw_only=True):
    """One row of the table of methods; request and reply are JSON Schema (2020-12)."""

    name: str
    summary: str
    permission: Role
    resend: Literal["read", "state", "idem", "never"]
    stream: bool
    since: str
    request: dict[str, Any]
    reply: dict[str, Any]


class MethodTable(Struct, frozen=True, kw_only=True):
    """All methods this server has."""

    methods: list[MethodInfo]


class StreamCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let the stream opened as request `stream` send this much more."""

    stream: RequestId
    items: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    bytes: Annotated[int, Meta(ge=0, le=1 << 32)] = 0


class StreamCancel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the stream opened as request `stream`."""

    stream: RequestId
