"""`agent spawn`: from words to a spec, and what happens after the start."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from descartesd.ctl import text
from descartesd.ctl.acting import ended_status
from descartesd.ctl.command import PROGRAM, Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import count, duration, pairs, signal, size
from descartesd.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.agent import AgentInfo, AgentSpec

_FOLLOW_HELP = "the same, printing the output; with --json then a line with the agent"
# A deadline of 0 is none the wire knows.
_LEAST_S = 0.001


def _arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", metavar="N", help="unique until the agent is removed; made up when not given")
    add("--replace", action="store_true", help="end and remove the holder of the name first")
    add("--cwd", metavar="D", help="working directory")
    add("--env", metavar="K=V", action="append", default=[], help="environment variable")
    add("--label", metavar="K=V", action="append", default=[], help="label to select by")
    add("--stdin", action="store_true", help="keep a pipe to the agent's stdin for 'agent write'")
    add("--output-bytes", metavar="SIZE", type=size, help="kept of each stream, as 10M")
    add("--open-files", metavar="N", type=count, help="limit of open files")
    add("--stop-signal", metavar="S", type=signal, help="what 'agent stop' sends; default TERM")
    add("--grace", metavar="S", type=duration, help="from the stop signal to KILL; default 10")
    add("--idem", metavar="KEY", help="spawn once only, however often this is repeated")
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--wait", action="store_true", help="wait for the end; 0 when it completed")
    then.add_argument("--follow", action="store_true", help=_FOLLOW_HELP)


def _spawn(args: Namespace, out: Output) -> int:
    if not args.command:
        hint = f"it stands after '--': {PROGRAM} agent spawn -- sleep 60"
        raise InvalidArgumentError("the agent's command is missing", hint=hint)
    spec = _spec(args)
    with connect(args, tell=out if args.follow else None) as client:
        until = None if args.timeout is None else time.monotonic() + args.timeout
        agent = client.agent.spawn(spec=spec, replace=args.replace, idem=args.idem)
        if not (args.wait or args.follow):
            out.agent(agent)
            return 0
        try:
            ended = _see_to_its_end(client, agent, until, out if args.follow else None)
        except (KeyboardInterrupt, DeadlineExceededError, UnavailableError) as exc:
            out.note(f"{agent.name} goes on; see it with: {PROGRAM} agent show {agent.id}")
            if isinstance(exc, DeadlineExceededError) and args.timeout is not None:
                raise _too_late(agent, args.timeout) from exc
            raise
    if args.wait or out.json:
        out.agent(ended)
    else:
        out.note(f"{ended.name}: {ended.state}, {text.outcome(ended)}")
    return ended_status(ended)


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
        Limits,
        StopSpec,
    )

    given: dict[str, Any] = {
        "name": args.name,
        "cwd": None if args.cwd is None else _cwd(args.cwd, args.profile),
        "stdin": "pipe" if args.stdin else None,
    }
    stop = {"signal": args.stop_signal, "grace_s": args.grace}
    return AgentSpec(
        command=args.command,
        env=_possible("env", pairs("--env", args.env), dict[EnvName, Argument]),
        labels=_possible("label", pairs("--label", args.label), Labels),
        limits=Limits(open_files=args.open_files, output_bytes=args.output_bytes),
        stop=StopSpec(**{key: value for key, value in stop.items() if value is not None}),
        **{key: value for key, value in given.items() if value is not None},
    )


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
        summary="Start an agent; answered when its program runs.",
        examples=(
            "agent spawn --name build-7 --cwd /srv/src -- make -j4",
            "agent spawn --follow -- sh -c 'date; sleep 1; date'",
        ),
        run=_spawn,
        arguments=_arguments,
        takes_command=True,
    ),
}
