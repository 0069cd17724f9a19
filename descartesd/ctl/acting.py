"""The verbs that act on one agent or several, named or selected; and waiting for some."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from descartesd.ctl.backend import add_secret_arguments, secrets, task
from descartesd.ctl.command import Command, add_ids
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.selecting import add_selection, is_one, selector, tell_if_none
from descartesd.ctl.values import duration, is_signal, signal
from descartesd.errors import DescartesError, InvalidArgumentError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.agent import AgentInfo
    from descartesd.wire.batch import BatchItem, Selector, Verb

_AGENT_FAILED = 1


def ended_status(agent: AgentInfo) -> int:
    """Exit status for an agent that has ended."""
    return 0 if agent.state == "completed" else _AGENT_FAILED


def _wait(args: Namespace, out: Output) -> int:
    from descartesd.wire.agent import AgentRef  # noqa: PLC0415  # start-up time
    from descartesd.wire.methods import AGENT_WAIT  # noqa: PLC0415

    with connect(args, patient=True) as client:
        if len(args.ids) == 1:
            agent = client.agent.wait(id=args.ids[0], deadline_s=args.timeout)
            out.agent(agent)
            return ended_status(agent)
        requests = [(AGENT_WAIT, AgentRef(id=name)) for name in args.ids]
        results = client.pipeline(requests, deadline_s=args.timeout)
    out.results(args.ids, results)
    return _first_failure(results, ended_status)


def _pause_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--cooperative", action="store_true", help="ask the agent's backend instead of freezing it"
    )
    add_selection(parser)


def _pause(args: Namespace, out: Output) -> int:
    return _act(args, out, "pause", mode="cooperative" if args.cooperative else "freeze")


def _stop_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--grace", metavar="S", type=duration, help="time before KILL; default: the agent's own"
    )
    parser.add_argument(
        "--signal", metavar="S", type=signal, help="instead of the agent's own stop signal"
    )
    add_selection(parser)


def _stop(args: Namespace, out: Output) -> int:
    return _act(args, out, "stop", patient=True, signal=args.signal, grace_s=args.grace)


def _signal_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("signal", metavar="SIG", type=signal, help="a name or a number")
    add_selection(parser)


def _signal(args: Namespace, out: Output) -> int:
    if not is_signal(args.signal) and (named := [each for each in args.ids if is_signal(each)]):
        words = [named[0], args.signal, *(each for each in args.ids if each != named[0])]
        raise InvalidArgumentError(
            f"'{args.signal}' is no signal; the signal comes first:"
            f" agent signal {shlex.join(words)}"
        )
    return _act(args, out, "signal", signal=args.signal)


def _respawn_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--resume", action="store_true", help="go on with the conversation it told of")
    add("--task", metavar="T", help="with --resume: what to do now; '-': read from our stdin")
    add_secret_arguments(parser)
    add_selection(parser)


def _respawn(args: Namespace, out: Output) -> int:
    given = {"resume": args.resume, "task": task(args), "secrets": secrets(args.secret_env)}
    return _act(args, out, "respawn", **{name: value for name, value in given.items() if value})


def _plain(verb: Verb) -> Callable[[Namespace, Output], int]:
    """A verb that has no parameters but the agents."""
    return partial(_act, verb=verb)


def _act(args: Namespace, out: Output, verb: Verb, *, patient: bool = False, **params: Any) -> int:
    """Do a verb to the one agent named, or to all that are named or selected at once."""
    select = selector(args, verb)
    with connect(args, patient=patient) as client:
        if is_one(args):
            out.agent(_do(client, args, verb, params))
            return 0
        before = _as_they_are(client, args, select) if verb == "remove" else {}
        done = client.batch.run(
            verb=verb,
            ids=args.ids,
            select=select,
            params=params,
            fail_fast=args.fail_fast,
            dry_run=args.dry_run,
            idem=args.idem,
        )
    results = [_result(item, before) for item in done.results]
    out.results([item.id for item in done.results], results)
    tell_if_none(results, args, out)
    return _first_failure(results, lambda _agent: 0)


def _do(client: Client, args: Namespace, verb: Verb, params: dict[str, Any]) -> AgentInfo:
    from descartesd.wire.methods import METHODS  # noqa: PLC0415  # start-up time

    method = METHODS[f"agent.{verb}"]
    [name] = args.ids
    if verb == "remove":
        agent = client.agent.get(id=name)
        client.call(method, method.request(id=agent.id), idem=args.idem)
        return agent
    done: Any = client.call(method, method.request(id=name, **params), idem=args.idem)
    # A signal is answered with a number of processes.
    return client.agent.get(id=name) if verb == "signal" else done


def _as_they_are(
    client: Client, args: Namespace, select: Selector | None
) -> dict[str, AgentInfo | None]:
    """What is removed is shown as it was: afterwards nobody can tell."""
    found = client.batch.run(verb="get", ids=args.ids, select=select)
    return {item.id: item.agent for item in found.results}


def _result(
    item: BatchItem, before: Mapping[str, AgentInfo | None]
) -> AgentInfo | DescartesError | None:
    from descartesd.wire.codec import error_of  # noqa: PLC0415  # start-up time

    if item.error is not None:
        return error_of(item.error)
    return item.agent or before.get(item.id)


def _first_failure(
    results: Sequence[AgentInfo | DescartesError | None], status_of: Callable[[AgentInfo], int]
) -> int:
    for result in results:
        if isinstance(result, DescartesError):
            return result.exit_status
        if result is not None and (status := status_of(result)):
            return status
    return 0


COMMANDS = {
    "wait": Command(
        summary="Wait until agents have ended; 0 when they completed, 1 at any other end.",
        examples=("agent wait build-7", "--timeout 10m agent wait build-7 build-8"),
        run=_wait,
        arguments=add_ids,
    ),
    "pause": Command(
        summary="Pause agents; answered when nothing of them runs any more.",
        examples=("agent pause build-7", "agent pause --label job=nightly --state running"),
        run=_pause,
        arguments=_pause_arguments,
    ),
    "resume": Command(
        summary="Let paused agents go on.",
        examples=("agent resume build-7", "agent resume --state paused"),
        run=_plain("resume"),
        arguments=add_selection,
    ),
    "stop": Command(
        summary="Stop agents: their stop signal, the grace time, then KILL.",
        examples=(
            "agent stop --grace 1m --signal INT build-7 build-8",
            "agent stop --label 'job in (nightly, weekly)' --label '!keep'",
        ),
        run=_stop,
        arguments=_stop_arguments,
    ),
    "kill": Command(
        summary="Kill every process of the agents now.",
        examples=("agent kill build-7", "agent kill --all --dry-run"),
        run=_plain("kill"),
        arguments=add_selection,
    ),
    "signal": Command(
        summary="Send a signal to every process of the agents.",
        examples=("agent signal HUP build-7", "agent signal 10 --label role=worker"),
        run=_signal,
        arguments=_signal_arguments,
    ),
    "respawn": Command(
        summary="Start ended agents once more: same id, name and command, the output going on.",
        examples=("agent respawn build-7", "agent respawn --state failed --fail-fast"),
        run=_respawn,
        arguments=_respawn_arguments,
    ),
    "remove": Command(
        summary="Forget ended agents: their records, their output and their names.",
        examples=("agent remove build-7", "agent remove --state completed --owner uid:1000"),
        run=_plain("remove"),
        arguments=add_selection,
    ),
}
