"""`agent list` and `agent show`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import get_args

from descartesd.ctl.command import Command, add_id, suggest
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.values import pairs
from descartesd.errors import InvalidArgumentError


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--state", metavar="S", action="append", default=[], help="only agents in this state"
    )
    parser.add_argument(
        "--label", metavar="K=V", action="append", default=[], help="only agents with this label"
    )


def _list(args: Namespace, out: Output) -> int:
    from descartesd.wire.agent import State  # noqa: PLC0415  # start-up time

    labels = pairs("--label", args.label)
    for state in args.state:
        if state not in get_args(State):
            hint = suggest(state, get_args(State), f"states: {', '.join(get_args(State))}")
            raise InvalidArgumentError(f"there is no state '{state}'", hint=hint)
    agents = []
    with connect(args) as client:
        page = client.agent.list(states=args.state, labels=labels)
        agents += page.agents
        while page.next is not None:
            page = client.agent.list(states=args.state, labels=labels, cursor=page.next)
            agents += page.agents
    out.agents(agents)
    return 0


def _show(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        out.agent_in_full(client.agent.get(id=args.id))
    return 0


_LIST = Command(
    summary="List every agent not removed, oldest first.",
    examples=("agent list --state running", "--json agent list --label job=nightly"),
    run=_list,
    arguments=_list_arguments,
)

COMMANDS = {
    "list": _LIST,
    "ps": _LIST,
    "show": Command(
        summary="Show one agent.",
        examples=("agent show build-7", "--json agent show build-7"),
        run=_show,
        arguments=add_id,
    ),
}
