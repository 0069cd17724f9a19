"""Messages about agents: what is asked for, what is told."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from descartesd.wire.said import EventLines, Question

State = Literal[
    "queued",
    "starting",
    "running",
    "paused",
    "stopping",
    "backoff",
    "completed",
    "failed",
    "terminated",
    "lost",
]
Reason = Literal[
    "exit",
    "signal",
    "stopped",
    "killed",
    "cancelled",
    "run_time_limit",
    "out_of_memory",
    "no_result",
    "spawn_error",
    "gave_up",
    "fenced",
    "keeper_lost",
    "host_lost",
]
Activity = Literal["unknown", "initializing", "idle", "thinking", "working", "waiting"]
StreamName = Literal["stdout", "stderr"]

# `$` alone would let a newline stand at the end.
NAME_PATTERN = r"^[a-z][a-z0-9._-]{0,62}$(?!\n)"
_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"
_ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,254}$(?!\n)"
_KEY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$(?!\n)"
_VALUE_PATTERN = r"^[A-Za-z0-9._/:@+-]{0,255}$(?!\n)"
_SIGNAL_PATTERN = r"^[A-Za-z0-9+-]{1,16}$(?!\n)"
_WORD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@+,()*-]{0,255}$(?!\n)"
_WRITER_PATTERN = r"^[A-Za-z0-9_-]{8,64}$(?!\n)"
FINGERPRINT_PATTERN = r"^SHA256:[A-Za-z0-9+/]{43}$(?!\n)"
SERIAL_PATTERN = r"^[0-9a-f]{16}$(?!\n)"
# What an error says instead of a pattern.
PATTERN_WORDS = {
    NAME_PATTERN: "a lower-case letter and up to 62 lower-case letters, digits, '.', '_' or '-'",
    _ID_PATTERN: "a name, an id, or the first characters of an id",
    _ENV_PATTERN: "letters, digits and '_', not beginning with a digit",
    _KEY_PATTERN: "up to 63 letters, digits, '.', '_', '/', '-', first a letter or digit",
    _VALUE_PATTERN: "up to 255 letters, digits and any of . _ / : @ + -",
    _SIGNAL_PATTERN: "a signal's name or number",
    _WRITER_PATTERN: "8 to 64 letters, digits, '_' or '-'",
    FINGERPRINT_PATTERN: "'SHA256:' and the 43 characters of a fingerprint",
    SERIAL_PATTERN: "the 16 hexadecimal digits of a serial",
    _WORD_PATTERN: (
        "a letter or digit, then up to 255 letters, digits and any of . _ : / @ + , ( ) * -"
    ),
}
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
# A name, a full id, or a prefix of at least four characters of an id.
AgentId = Annotated[str, Meta(pattern=_ID_PATTERN)]
EnvName = Annotated[str, Meta(pattern=_ENV_PATTERN)]
LabelKey = Annotated[str, Meta(pattern=_KEY_PATTERN)]
LabelValue = Annotated[str, Meta(pattern=_VALUE_PATTERN)]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=64)]
# `k=v`, `k!=v`, `k in (a, b)`, `k notin (a, b)`, `k`, `!k`, as Kubernetes' label selectors.
Condition = Annotated[str, Meta(min_length=1, max_length=4096)]
# All must hold: a map of labels and their values, or conditions.
LabelSelector = Labels | Annotated[list[Condition], Meta(max_length=64)]
Owner = Annotated[str, Meta(min_length=1, max_length=128)]
Argument = Annotated[str, Meta(max_length=131_071)]  # MAX_ARG_STRLEN, execve(2)
Signal = Annotated[str, Meta(pattern=_SIGNAL_PATTERN)] | Annotated[int, Meta(ge=1, le=64)]
Regex = Annotated[str, Meta(min_length=1, max_length=1024)]
# A model, a tool level: the first character may not make it an option of a program.
Word = Annotated[str, Meta(pattern=_WORD_PATTERN)]
Writer = Annotated[str, Meta(pattern=_WRITER_PATTERN)]
Task = Annotated[str, Meta(min_length=1, max_length=200_000)]
TerminalSize = Annotated[int, Meta(ge=1, le=4096)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]


class StopSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the agent is stopped: a signal, then after `grace_s` seconds KILL."""

    signal: Signal = "TERM"
    grace_s: Seconds = 10.0


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bounds of one agent; None where nothing is bounded.

    `cpu_percent` is of one core. At `run_seconds` an attempt is ended; when `tokens` or `cost_usd`
    are spent the agent is paused. One the host cannot enforce is refused, unless `best_effort`.
    """

    memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None = None
    cpu_percent: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    tasks: Annotated[int, Meta(ge=1, le=4_194_304)] | None = None
    open_files: Annotated[int, Meta(ge=16, le=1_048_576)] | None = None
    run_seconds: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None
    output_bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)] | None = None
    tokens: Annotated[int, Meta(ge=1, le=1 << 53)] | None = None
    cost_usd: Annotated[float, Meta(gt=0)] | None = None
    best_effort: bool = False


class Tty(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A terminal of this size."""

    rows: TerminalSize = 24
    cols: TerminalSize = 80


class Restart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """When an ended agent is started again, and how long it waits before.

    The n-th restart in a row waits delay_s * factor^(n-1), at most max_delay_s, more or less
    `jitter` of it, and never less than 0.1 s. An attempt of reset_after_s counts as a success,
    after which n begins at 1. 0 `max_restarts` is no limit.
    """

    policy: Literal["never", "on-failure", "always"] = "never"
    delay_s: Seconds = 1.0
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_delay_s: Seconds = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    reset_after_s: Seconds = 60.0
    max_restarts: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0


class AgentSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was asked for: a command, or a backend and what it is to do.

    `command` is an argument vector, never a shell line. `task`, `model`, `system_prompt`,
    `context`, `tools`, `subagents` (JSON) and `extra_args` are the backend's. `env_file` is read
    at each start. `secret_env` names what was given with the request and is shown nowhere. With
    `events` stdout is read as JSON lines. In the queue a higher `priority` goes first. Without
    `user` an agent runs as the server decides.
    """

    command: Annotated[list[Argument], Meta(max_length=4096)] = []
    name: Name | None = None
    backend: Name | None = None
    task: Task | None = None
    model: Word | None = None
    system_prompt: Argument | None = None
    context: Argument | None = None
    tools: Word | None = None
    subagents: Argument | None = None
    extra_args: Annotated[list[Argument], Meta(max_length=256)] = []
    chat: bool = False
    cwd: Annotated[str, Meta(max_length=4095)] | None = None
    env: Annotated[dict[EnvName, Argument], Meta(max_length=4096)] = {}
    env_file: Annotated[str, Meta(max_length=4095)] | None = None
    secret_env: Annotated[list[EnvName], Meta(max_length=256)] = []
    user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    labels: Labels = {}
    stdin: Literal["null", "pipe"] = "null"
    tty: Tty | None = None
    limits: Limits = Limits()
    restart: Restart = Restart()
    stop: StopSpec = StopSpec()
    events: bool = False
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    on_exit: Literal["kill", "keep"] = "kill"

    def __repr__(self) -> str:
        return f"AgentSpec({self.name!r}, {self.backend or self.command[:1]})"


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an agent ended; `signal` is a number, `leftovers` counts processes it left behind.

    `message` says why it could not be started, or was not started again.
    """

    reason: Reason
    exit_code: int | None = None
    signal: int | None = None
    leftovers: int = 0
    message: str | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """What the agent's processes use, as last sampled."""

    memory_bytes: int
    cpu_seconds: float
    tasks: int


class StreamTotals(Struct, frozen=True, kw_only=True):
    """Bytes ever written, and the offset before which retention has dropped them."""

    total: int = 0
    truncated_before: int = 0


class OutputTotals(Struct, frozen=True, kw_only=True):
    """Both output streams."""

    stdout: StreamTotals = StreamTotals()
    stderr: StreamTotals = StreamTotals()


class AgentInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent as every reply and listing shows it. Times are epoch seconds, UTC.

    What has its default is left out on the wire.
    """

    id: str
    name: str
    owner: str
    server_id: str
    state: State
    spec: AgentSpec
    created_at: float
    attempt: int = 1
    activity: Activity = "unknown"
    pid: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    next_start_at: float | None = None
    paused_at: float | None = None
    pause_mode: Literal["cgroup", "tree", "cooperative"] | None = None
    outcome: Outcome | None = None
    labels: Labels = {}
    limits_enforced: dict[str, bool] = {}
    usage: Usage | None = None
    output: OutputTotals = OutputTotals()
    output_error: str | None = None
    restarts: int = 0
    queue_position: int | None = None
    progress: float | None = None
    session_id: str | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    question: Question | None = None
    event_lines: EventLines = EventLines()
    title: str | None = None


class AgentSpawn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start an agent. `replace` ends and removes the holder of the name first."""

    spec: AgentSpec
    replace: bool = False
    secrets: Annotated[dict[EnvName, Argument], Meta(max_length=256)] = {}

    def __repr__(self) -> str:
        return f"AgentSpawn({self.spec.name!r}, {sorted(self.secrets)})"


class AgentRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One agent by name, id or unambiguous id prefix of at least four characters."""

    id: AgentId


class AgentList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agents not removed, oldest first, at most `limit` a page; `cursor` as `next` told it."""

    states: list[State] = []
    labels: LabelSelector = {}
    owner: Owner | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200
    cursor: Annotated[str, Meta(max_length=64)] | None = None


class AgentPage(Struct, frozen=True, kw_only=True):
    """One page; `total` counts all matches, `next` is None on the last page."""

    agents: list[AgentInfo]
    total: int
    next: str | None = None


class AgentStop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop in order; what is not given comes from the agent's spec."""

    id: AgentId
    signal: Signal | None = None
    grace_s: Seconds | None = None


class AgentSignal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send exactly this signal (name with or without SIG, or number) to the whole tree."""

    id: AgentId
    signal: Signal


class Signalled(Struct, frozen=True, kw_only=True):
    """How many processes the signal reached."""

    processes: int


class AgentWrite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes for the agent's stdin. `offset` counts the bytes of this `writer`."""

    id: AgentId
    data: Annotated[bytes, Meta(max_length=196_608)]
    writer: Writer | None = None
    offset: Annotated[int, Meta(ge=0)] | None = None

    def __repr__(self) -> str:
        return f"AgentWrite({self.id!r}, {len(self.data)} bytes)"


class Written(Struct, frozen=True, kw_only=True):
    """Bytes taken, possibly fewer than sent, and the writer's next offset."""

    accepted: int
    offset: int | None = None


class AgentOutput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes of one stream from `offset`, at most `limit`.

    `tail` begins with the last lines, `since` (epoch seconds) with what was written from then on,
    each instead of `offset` where it is later; of what is older than `since` a tenth of a second
    may come along. With `lines` or `regex` whole lines are told, with `regex` only those it is
    found in (RE2 syntax), at most 10,000 where `lines` does not say. A line longer than `limit`
    counts as several; one without a newline is told when the stream has ended. One request
    searches 8 MiB or a second long at most: go on at `next_offset` while it moves.
    """

    id: AgentId
    stream: StreamName = "stdout"
    offset: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1, le=1_048_576)] = 262_144
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    since: Annotated[float, Meta(ge=0)] | None = None
    lines: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    regex: Regex | None = None
    timestamps: bool = False


class Mark(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From byte `at` of a chunk's data on: the offset in the stream, and when it was written."""

    at: int
    offset: int
    time: float | None = None


class OutputChunk(Struct, frozen=True, kw_only=True):
    """What was read. `eof`: the stream has ended and `next_offset` is its end.

    `marks` tell where the pieces of `data` come from: one for each line a `regex` found, else one
    for each known time when `timestamps` were asked for. Times are known to a tenth of a second.
    """

    stream: StreamName
    data: bytes
    offset: int
    next_offset: int
    total: int
    truncated_before: int
    eof: bool
    time: float | None = None
    marks: list[Mark] = []


class FollowOffsets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to begin in each stream."""

    stdout: Annotated[int, Meta(ge=0)] = 0
    stderr: Annotated[int, Meta(ge=0)] = 0


class AgentFollow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stream output as it comes until every stream has ended."""

    id: AgentId
    streams: Annotated[list[StreamName], Meta(min_length=1, max_length=2)] = field(
        default_factory=lambda: ["stdout", "stderr"]
    )
    offsets: FollowOffsets = FollowOffsets()
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    since: Annotated[float, Meta(ge=0)] | None = None
    regex: Regex | None = None
    timestamps: bool = False
