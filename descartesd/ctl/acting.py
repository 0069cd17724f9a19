"""The verbs that act on one agent or several: wait, pause, resume, stop, kill, signal, remove."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from descartesd.ctl.command import Command, add_ids
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import duration, signal
from descartesd.errors import DescartesError

if TYPE_CHECKING:
    from msgspec import Struct

    from descartesd.client import Client
    from descartesd.wire.agent import AgentInfo
    from descartesd.wire.methods import Method

_AGENT_FAILED = 1


def ended_status(agent: AgentInfo) -> int:
    """Exit status for an agent that has ended."""
    return 0 if agent.state == "completed" else _AGENT_FAILED


def _wait(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_WAIT  # noqa: PLC0415  # start-up time

    with connect(args, patient=True) as client:
        results = _ask(client, AGENT_WAIT, args.ids, deadline_s=args.timeout)
    return _report(args.ids, results, out, status_of=ended_status)


def _pause_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--cooperative", action="store_true", help="ask the agent's backend instead of freezing it"
    )
    add_ids(parser)


def _pause(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_PAUSE  # noqa: PLC0415  # start-up time

    mode = "cooperative" if args.cooperative else "freeze"
    with connect(args) as client:
        results = _ask(client, AGENT_PAUSE, args.ids, mode=mode)
    return _report(args.ids, results, out)


def _resume(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_RESUME  # noqa: PLC0415  # start-up time

    with connect(args) as client:
        results = _ask(client, AGENT_RESUME, args.ids)
    return _report(args.ids, results, out)


def _stop_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--grace", metavar="S", type=duration, help="time before KILL; default: the agent's own"
    )
    parser.add_argument(
        "--signal", metavar="S", type=signal, help="instead of the agent's own stop signal"
    )
    add_ids(parser)


def _stop(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_STOP  # noqa: PLC0415  # start-up time

    with connect(args, patient=True) as client:
        results = _ask(client, AGENT_STOP, args.ids, signal=args.signal, grace_s=args.grace)
    return _report(args.ids, results, out)


def _kill(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_KILL  # noqa: PLC0415  # start-up time

    with connect(args) as client:
        results = _ask(client, AGENT_KILL, args.ids)
    return _report(args.ids, results, out)


def _signal_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("signal", metavar="SIG", type=signal, help="a name or a number")
    add_ids(parser)


def _signal(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_GET, AGENT_SIGNAL  # noqa: PLC0415  # start-up time

    with connect(args) as client:
        signalled = _ask(client, AGENT_SIGNAL, args.ids, signal=args.signal)
        agents = _ask_if_done(client, AGENT_GET, args.ids, signalled)
    return _report(args.ids, agents, out)


def _remove(args: Namespace, out: Output) -> int:
    from descartesd.wire.methods import AGENT_GET, AGENT_REMOVE  # noqa: PLC0415  # start-up time

    with connect(args) as client:
        # What is removed is shown as it was: afterwards nobody can tell.
        agents = _ask(client, AGENT_GET, args.ids)
        full_ids = [getattr(agent, "id", "") for agent in agents]
        removed = _ask_if_done(client, AGENT_REMOVE, full_ids, agents)
    results = [
        done if isinstance(done, DescartesError) else agent
        for agent, done in zip(agents, removed, strict=True)
    ]
    return _report(args.ids, results, out)


def _ask(
    client: Client,
    method: Method[Any, Any],
    ids: Sequence[str],
    *,
    deadline_s: float | None = None,
    **params: Any,
) -> list[Any]:
    requests: list[tuple[Method[Any, Any], Struct]] = [
        (method, method.request(id=name, **params)) for name in ids
    ]
    return client.pipeline(requests, deadline_s=deadline_s)


def _ask_if_done(
    client: Client, method: Method[Any, Any], ids: Sequence[str], before: Sequence[Any]
) -> list[Any]:
    """Ask about those whose step before succeeded; the others keep their error."""
    open_ids = [
        name
        for name, result in zip(ids, before, strict=True)
        if not isinstance(result, DescartesError)
    ]
    answers = iter(_ask(client, method, open_ids) if open_ids else [])
    return [result if isinstance(result, DescartesError) else next(answers) for result in before]


def _report(
    ids: Sequence[str],
    results: Sequence[AgentInfo | DescartesError],
    out: Output,
    *,
    status_of: Callable[[AgentInfo], int] = lambda _agent: 0,
) -> int:
    if len(results) == 1:
        only = results[0]
        if isinstance(only, DescartesError):
            raise only
        out.agent(only)
        return status_of(only)
    out.results(ids, results)
    statuses = [
        result.exit_status if isinstance(result, DescartesError) else status_of(result)
        for result in results
    ]
    return next((status for status in statuses if status), 0)


COMMANDS = {
    "wait": Command(
        summary="Wait until agents have ended; 0 when they completed, 1 at any other end.",
        examples=("agent wait build-7", "--timeout 10m agent wait build-7 build-8"),
        run=_wait,
        arguments=add_ids,
    ),
    "pause": Command(
        summary="Pause agents; answered when nothing of them runs any more.",
        examples=("agent pause build-7", "agent pause build-7 build-8"),
        run=_pause,
        arguments=_pause_arguments,
    ),
    "resume": Command(
        summary="Let paused agents go on.",
        examples=("agent resume build-7", "agent resume build-7 build-8"),
        run=_resume,
        arguments=add_ids,
    ),
    "stop": Command(
        summary="Stop agents: their stop signal, the grace time, then KILL.",
        examples=("agent stop build-7", "agent stop --grace 1m --signal INT build-7 build-8"),
        run=_stop,
        arguments=_stop_arguments,
    ),
    "kill": Command(
        summary="Kill every process of the agents now.",
        examples=("agent kill build-7", "agent kill build-7 build-8"),
        run=_kill,
        arguments=add_ids,
    ),
    "signal": Command(
        summary="Send a signal to every process of the agents.",
        examples=("agent signal HUP build-7", "agent signal 10 build-7 build-8"),
        run=_signal,
        arguments=_signal_arguments,
    ),
    "remove": Command(
        summary="Forget ended agents: their records, their output and their names.",
        examples=("agent remove build-7", "agent remove build-7 build-8"),
        run=_remove,
        arguments=add_ids,
    ),
}
