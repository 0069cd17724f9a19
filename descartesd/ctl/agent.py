"""`agent list` and `agent show`."""

from __future__ import annotations

from argparse import Namespace

from descartesd.ctl.command import Command, add_id
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.selecting import add_conditions, states, tell_if_none


def _list(args: Namespace, out: Output) -> int:
    wanted = {"states": states(args), "labels": args.label, "owner": args.owner}
    agents = []
    with connect(args) as client:
        page = client.agent.list(**wanted)
        agents += page.agents
        while page.next is not None:
            page = client.agent.list(**wanted, cursor=page.next)
            agents += page.agents
    out.agents(agents)
    tell_if_none(agents, args, out)
    return 0


def _show(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        out.agent_in_full(client.agent.get(id=args.id))
    return 0


_LIST = Command(
    summary="List every agent not removed, oldest first.",
    examples=("agent list --state running", "--json agent list --label 'job in (nightly, weekly)'"),
    run=_list,
    arguments=add_conditions,
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
