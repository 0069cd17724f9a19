"""Values as lines for people: tables, ages, and nothing a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from descartesd.ctl import asked, said

if TYPE_CHECKING:
    from descartesd.wire.agent import AgentInfo, AgentSpec, Outcome

AGENT_HEADERS = ("ID", "NAME", "STATE", "AGE", "PID", "OUTCOME", "COMMAND")
STATE_COLUMN = AGENT_HEADERS.index("STATE")
_COMMAND_WIDTH = 60
_COLOURS = {
    "running": "32",
    "completed": "32",
    "paused": "33",
    "backoff": "33",
    "failed": "31",
    "lost": "31",
}


def safe(text: str) -> str:
    """Escape what could move a cursor, hide text or end a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def age(seconds: float) -> str:
    """Two units at most: '12s', '3m12s', '2h05m', '4d01h'."""
    whole = max(0, int(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table: two spaces between columns, no borders."""
    cells = [list(headers), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of names and values, the values aligned."""
    known = [(name, safe(value)) for name, value in rows]
    width = max((len(name) for name, _ in known), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in known]


def coloured(line: str, state: str) -> str:
    """Colour the state in a line of the agents' table."""
    colour = _COLOURS.get(state)
    if colour is None:
        return line
    before, found, after = line.partition(f"  {state}  ")
    return f"{before}  \x1b[{colour}m{state}\x1b[0m  {after}" if found else line


def agent_row(agent: AgentInfo, now: float) -> tuple[str, ...]:
    """One line of the agents' table; the age runs from the start to the end or to `now`."""
    command = asked.summary(agent.spec)
    if len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    began = agent.started_at or agent.created_at
    return (
        agent.id,
        agent.name,
        agent.state,
        age((agent.ended_at or now) - began),
        "-" if agent.pid is None else str(agent.pid),
        _outcome_or_wait(agent, now),
        command,
    )


def _outcome_or_wait(agent: AgentInfo, now: float) -> str:
    """How an agent ended, and what it waits for."""
    if agent.queue_position is not None:
        return f"queued {agent.queue_position}"
    if agent.next_start_at is not None:
        return f"{outcome(agent)}, again in {age(agent.next_start_at - now)}"
    return outcome(agent)


def outcome(agent: AgentInfo) -> str:
    """How an agent ended, in a word or two; '-' while it has not."""
    return "-" if agent.outcome is None else ending(agent.outcome)


def _outcome_and_why(agent: AgentInfo) -> str:
    told = agent.outcome
    return f"{told.reason}: {told.message}" if told and told.message else outcome(agent)


def ending(ended: Outcome) -> str:
    """An outcome in a word or two."""
    if ended.reason == "exit":
        return f"exit {ended.exit_code}"
    if ended.reason == "signal":
        return signal_name(ended.signal)
    return ended.reason


def signal_name(number: int | None) -> str:
    """'KILL' for 9; the number where it has no name."""
    import signal  # noqa: PLC0415  # builds enums that only ended agents need

    try:
        return signal.Signals(number or 0).name.removeprefix("SIG")
    except ValueError:
        return f"signal {number}"


def agent_details(agent: AgentInfo, now: float) -> list[tuple[str, str]]:
    """What `agent show` tells; names of environment variables, never their values."""
    spec, output = agent.spec, agent.output
    rows = [
        ("id", agent.id),
        ("name", agent.name),
        ("state", agent.state),
        ("outcome", _outcome_and_why(agent)),
        ("owner", agent.owner),
        *asked.details(spec),
        ("cwd", spec.cwd or "-"),
        (
            "labels",
            " ".join(f"{key}={value}" for key, value in sorted(agent.labels.items())) or "-",
        ),
        ("pid", "-" if agent.pid is None else str(agent.pid)),
        ("attempt", str(agent.attempt)),
        *said.details(agent),
        ("user", spec.user or "-"),
        ("limits", _limits(agent)),
        ("uses", _usage(agent)),
        ("paused by", agent.pause_mode or "-"),
        *_waiting_details(agent, now),
        ("created", moment(agent.created_at, now)),
        ("started", moment(agent.started_at, now)),
        ("ended", moment(agent.ended_at, now)),
        ("on exit", "-" if spec.on_exit == "kill" else spec.on_exit),
        _input(spec),
        ("stdout", f"{output.stdout.total} bytes"),
        ("stderr", f"{output.stderr.total} bytes"),
        ("output waits", agent.output_error or "-"),
    ]
    return [row for row in rows if row[1] != "-"]


def _input(spec: AgentSpec) -> tuple[str, str]:
    if spec.tty is None:
        return "stdin", spec.stdin
    return "terminal", f"{spec.tty.rows} rows, {spec.tty.cols} columns"


def _limits(agent: AgentInfo) -> str:
    """The limits asked for, and of each whether it is real once that is known."""
    limits = agent.spec.limits
    told = []
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if value is not None and name != "best_effort":
            is_real = agent.limits_enforced.get(name, True)
            told.append(f"{name}={value}{'' if is_real else ' (not enforced)'}")
    return " ".join(told) or "-"


def _usage(agent: AgentInfo) -> str:
    usage = agent.usage
    if usage is None:
        return "-"
    tasks = "1 task" if usage.tasks == 1 else f"{usage.tasks} tasks"
    return f"{size(usage.memory_bytes)} of memory, {usage.cpu_seconds:.2f} s of processor, {tasks}"


def _waiting_details(agent: AgentInfo, now: float) -> list[tuple[str, str]]:
    """Its restarts, and what it waits for."""
    restart, next_start = agent.spec.restart, agent.next_start_at
    most = f" of {restart.max_restarts}" if restart.max_restarts else ""
    return [
        ("restart", "-" if restart.policy == "never" else restart.policy),
        ("restarts", "-" if restart.policy == "never" else f"{agent.restarts}{most}"),
        ("priority", str(agent.spec.priority or "-")),
        ("queue position", str(agent.queue_position or "-")),
        ("next start", "-" if next_start is None else f"in {age(next_start - now)}"),
    ]


def moment(when: float | None, now: float) -> str:
    """A time in UTC and how long ago that was; '-' for None."""
    if when is None:
        return "-"
    import time  # noqa: PLC0415  # only `agent show` needs it

    return f"{time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime(when))} ({age(now - when)} ago)"


def timestamp(when: float) -> str:
    """A time in UTC to the millisecond, as RFC 3339 writes it."""
    import time  # noqa: PLC0415  # only events need it

    milliseconds = round(when * 1000)
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{seconds}.{milliseconds % 1000:03}Z"


def seconds(duration: float) -> str:
    """A duration as people compare them: '85µs', '1.2ms', '3.40s'."""
    if duration < 0.001:
        return f"{duration * 1e6:.0f}µs"
    return f"{duration * 1e3:.1f}ms" if duration < 1 else f"{duration:.2f}s"


def size(count: int) -> str:
    """Bytes with a unit: '512 B', '1.5 KiB'."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
