"""`agent spawn`: from words to a spec, and what happens after the start."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from descartesd.ctl import text
from descartesd.ctl.acting import ended_status
from descartesd.ctl.backend import (
    add_backend_arguments,
    add_secret_arguments,
    backend_fields,
    secrets,
)
from descartesd.ctl.command import PROGRAM, Command
from descartesd.ctl.connect import Connection, connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import (
    count,
    dollars,
    duration,
    pairs,
    percent,
    positive_duration,
    signal,
    size,
)
from descartesd.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.agent import AgentInfo, AgentSpec, Limits, Restart, Tty

_RESTART_DELAY_HELP = "before the first restart, at least 0.1; default 1"
_FOLLOW_HELP = "the same, printing the output; with --json then a line with the agent"
# A deadline of 0 is none the wire knows.
_LEAST_S = 0.001
_STANDARD = (0, 1, 2)
# Fields of the limits and their options.
_LIMITS = {
    "memory_bytes": "memory",
    "cpu_percent": "cpu",
    "tasks": "tasks",
    "open_files": "open_files",
    "run_seconds": "run_time",
    "output_bytes": "output_bytes",
    "tokens": "tokens",
    "cost_usd": "cost_usd",
}


def _arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", metavar="N", help="unique until the agent is removed; made up when not given")
    add("--replace", action="store_true", help="end and remove the holder of the name first")
    add_backend_arguments(parser)
    add("--cwd", metavar="D", help="working directory")
    add("--env", metavar="K=V", action="append", default=[], help="environment variable")
    add("--env-file", metavar="FILE", help="file of variables on the server, read at each start")
    add_secret_arguments(parser)
    add("--label", metavar="K=V", action="append", default=[], help="label to select by")
    add("--tty", action="store_true", help="give the agent a terminal, of the size of this one")
    add("--events", action="store_true", help="read its stdout as JSON lines about itself")
    add("--stdin", action="store_true", help="keep a pipe to the agent's stdin for 'agent write'")
    add("--output-bytes", metavar="SIZE", type=size, help="kept of each stream, as 10M")
    _add_limits(parser)
    add("--user", metavar="U", help="account the agent runs as; only a server of root can choose")
    add("--stop-signal", metavar="S", type=signal, help="what 'agent stop' sends; default TERM")
    add("--grace", metavar="S", type=duration, help="from the stop signal to KILL; default 10")
    add("--priority", metavar="N", type=int, help="in the queue, -100 to 100; the highest first")
    add("--restart", choices=("never", "on-failure", "always"), help="when it is started again")
    add("--restart-delay", metavar="S", type=duration, help=_RESTART_DELAY_HELP)
    add("--max-restarts", metavar="N", type=count, help="in a row, then it has failed; 0: no limit")
    add("--on-exit", choices=("kill", "keep"), help="what its first process leaves; default kill")
    add("--idem", metavar="KEY", help="spawn once only, however often this is repeated")
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--wait", action="store_true", help="wait for the end; 0 when it completed")
    then.add_argument("--follow", action="store_true", help=_FOLLOW_HELP)
    then.add_argument("--attach", action="store_true", help="the same, and write what is typed")


def _add_limits(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--memory", metavar="SIZE", type=size, help="limit of memory, as 512M")
    add("--cpu", metavar="P", type=percent, help="limit of processor time, 100%% is one core")
    add("--tasks", metavar="N", type=count, help="limit of processes and threads together")
    add("--open-files", metavar="N", type=count, help="limit of open files")
    add("--run-time", metavar="S", type=positive_duration, help="stop the agent then, as 1h")
    add("--tokens", metavar="N", type=count, help="pause the agent when it has used so many")
    add("--cost-usd", metavar="X", type=dollars, help="pause the agent when it has cost so much")
    add("--best-effort", action="store_true", help="start it without limits the host cannot keep")


def _spawn(args: Namespace, out: Output) -> int:
    if not args.command and args.backend is None:
        hint = f"it stands after '--': {PROGRAM} agent spawn -- sleep 60"
        raise InvalidArgumentError("the agent's command is missing", hint=hint)
    spec, given = _spec(args), secrets(args.secret_env)
    with connect(args, connection=Connection(out.note) if args.follow else None) as client:
        until = None if args.timeout is None else time.monotonic() + args.timeout
        agent = client.agent.spawn(spec=spec, replace=args.replace, secrets=given, idem=args.idem)
        if args.attach:
            client.close()
            return _attach(agent, args, out)
        if not (args.wait or args.follow):
            out.agent(agent)
            return 0
        try:
            ended = _see_to_its_end(client, agent, until, out if args.follow else None)
        except (KeyboardInterrupt, DeadlineExceededError, UnavailableError) as exc:
            _tell_it_goes_on(agent, out)
            if isinstance(exc, DeadlineExceededError) and args.timeout is not None:
                raise _too_late(agent, args.timeout) from exc
            raise
    if args.wait or out.json:
        out.agent(ended)
    else:
        out.note(f"{ended.name}: {ended.state}, {text.outcome(ended)}")
    return ended_status(ended)


def _attach(agent: AgentInfo, args: Namespace, out: Output) -> int:
    from descartesd.ctl.attach import attach  # noqa: PLC0415  # start-up time

    try:
        return attach(agent, args, out, is_new=True)
    except (KeyboardInterrupt, DeadlineExceededError, UnavailableError):
        _tell_it_goes_on(agent, out)
        raise


def _tell_it_goes_on(agent: AgentInfo, out: Output) -> None:
    out.note(f"{agent.name} goes on; see it with: {PROGRAM} agent show {agent.id}")


def _see_to_its_end(
    client: Client, agent: AgentInfo, until: float | None, out: Output | None
) -> AgentInfo:
    """Wait for the end of an agent; what it writes meanwhile goes to `out`."""
    if out is not None:
        for chunk in client.agent.follow(id=agent.id, deadline_s=_left(until)):
            out.chunk(chunk)
    return client.agent.wait(id=agent.id, deadline_s=_left(until))


def _too_late(agent: AgentInfo, allowed_s: float) -> DeadlineExceededError:
    # The error names what was left of it after the start.
    return DeadlineExceededError(
        f"agent '{agent.name}' had not ended within {allowed_s:g} s",
        hint="a longer time is given with --timeout",
    )


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), _LEAST_S)


def _spec(args: Namespace) -> AgentSpec:
    from descartesd.wire.agent import (  # noqa: PLC0415  # start-up time
        AgentSpec,
        Argument,
        EnvName,
        Labels,
        StopSpec,
    )

    given: dict[str, Any] = {
        "name": args.name,
        "user": args.user,
        "cwd": None if args.cwd is None else _cwd(args.cwd, args.profile),
        "env_file": args.env_file,
        "secret_env": sorted(set(args.secret_env)) or None,
        "stdin": "pipe" if args.stdin else None,
        "tty": _tty() if args.tty else None,
        "events": args.events or None,
        "on_exit": args.on_exit,
        "priority": args.priority,
        "restart": _restart(args),
    }
    if args.priority is not None:
        _check_within("priority", "priority", args.priority, AgentSpec)
    stop = {"signal": args.stop_signal, "grace_s": args.grace}
    return AgentSpec(
        command=args.command or [],
        env=_possible("env", pairs("--env", args.env), dict[EnvName, Argument]),
        labels=_possible("label", pairs("--label", args.label), Labels),
        limits=_limits(args),
        stop=StopSpec(**{key: value for key, value in stop.items() if value is not None}),
        **{key: value for key, value in given.items() if value is not None},
        **backend_fields(args),
    )


def _limits(args: Namespace) -> Limits:
    from descartesd.wire.agent import Limits  # noqa: PLC0415  # start-up time

    fields = {name: getattr(args, option) for name, option in _LIMITS.items()}
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        _check_within(_LIMITS[name], name, value, Limits)
    return Limits(**given, best_effort=args.best_effort)


def _restart(args: Namespace) -> Restart | None:
    from descartesd.wire.agent import Restart  # noqa: PLC0415  # start-up time

    details = {"delay_s": args.restart_delay, "max_restarts": args.max_restarts}
    given = {name: value for name, value in details.items() if value is not None}
    if args.restart in (None, "never"):
        if given:
            raise InvalidArgumentError(
                "--restart-delay and --max-restarts are about an agent that is restarted",
                hint="say when it is, with --restart on-failure or --restart always",
            )
        return None
    for name, option in (("delay_s", "restart_delay"), ("max_restarts", "max_restarts")):
        if name in given:
            _check_within(option, name, given[name], Restart)
    return Restart(policy=args.restart, **given)


def _check_within(option: str, field: str, value: float, kind: Any) -> None:
    """Refuse a number its field cannot be, by the name of its option."""
    import msgspec  # noqa: PLC0415  # start-up time

    from descartesd.wire.codec import broken_rule  # noqa: PLC0415

    try:
        msgspec.convert({field: value}, kind)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(
            f"--{option.replace('_', '-')}: {broken_rule(exc)[0]}, got {value}"
        ) from exc


def _tty() -> Tty:
    """A terminal as large as ours, if we have one."""
    from descartesd.ctl.terminal import size_of  # noqa: PLC0415  # start-up time
    from descartesd.wire.agent import Tty  # noqa: PLC0415

    size = size_of(*_STANDARD)
    return Tty() if size is None else Tty(rows=size[0], cols=size[1])


def _possible(what: str, entries: dict[str, str], kind: Any) -> dict[str, str]:
    """The entries; raises InvalidArgumentError naming the first that cannot be one of the wire."""
    import msgspec  # noqa: PLC0415  # start-up time

    from descartesd.wire.codec import broken_rule  # noqa: PLC0415

    for key, value in entries.items():
        try:
            msgspec.convert({key: value}, kind)
        except msgspec.ValidationError as exc:
            rule, at_key = broken_rule(exc)
            part = "name" if at_key else "value"
            raise InvalidArgumentError(
                f"{what} '{key[:64]}': its {part} is not possible: {rule}"
            ) from exc
    return entries


def _cwd(path: str, profile: str | None) -> str:
    if not path:
        raise InvalidArgumentError("--cwd is empty: expected a directory")
    if os.path.isabs(path):
        return path
    from descartesd.client.profiles import find_profile  # noqa: PLC0415  # start-up time

    endpoints = find_profile(profile).endpoints
    if not all(endpoint.startswith("ipc://") for endpoint in endpoints):
        raise InvalidArgumentError(
            f"--cwd '{path}' is relative, and the server may be on another host",
            hint=f"give the path as that host has it, '{os.path.abspath(path)}' if it is this one",
        )
    return os.path.abspath(path)


COMMANDS = {
    "spawn": Command(
        summary="Start an agent; answered when its program runs, or it is queued.",
        examples=(
            "agent spawn --name build-7 --cwd /srv/src -- make -j4",
            "agent spawn --backend claude --tools readonly --task 'explain this code' --follow",
        ),
        run=_spawn,
        arguments=_arguments,
        takes_command=True,
    ),
}
