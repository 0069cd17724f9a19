"""`agent attach`: an agent's terminal on one's own."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from descartesd.ctl import text
from descartesd.ctl.acting import ended_status
from descartesd.ctl.command import Command, add_id
from descartesd.ctl.connect import Connection, connect
from descartesd.ctl.output import Output

if TYPE_CHECKING:
    from descartesd.ctl.attached import Session
    from descartesd.wire.agent import AgentInfo


def _arguments(parser: ArgumentParser) -> None:
    add_id(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="only look on; any number may")
    how.add_argument(
        "--steal", action="store_true", help="take over from who is attached, whom this detaches"
    )


def _attach(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        agent = client.agent.get(id=args.id)
    return attach(agent, args, out, watch=args.watch, steal=args.steal)


def attach(
    agent: AgentInfo,
    args: Namespace,
    out: Output,
    *,
    watch: bool = False,
    steal: bool = False,
    is_new: bool = False,
) -> int:
    """Be attached to an agent until it ends or is left; the exit status.

    One that `is_new` has a terminal of our size, and all of its output is still to come.
    """
    import asyncio  # noqa: PLC0415  # start-up time

    from descartesd.ctl.attached import Session  # noqa: PLC0415

    # One without a stdin has nothing to be written to.
    watch = watch or (agent.spec.tty is None and agent.spec.stdin == "null")

    async def attached() -> tuple[AgentInfo | None, int]:
        session = Session(out, agent, watch=watch, must_redraw=not is_new)
        return await _run(session, agent, args, watch=watch, steal=steal), session.status

    ended, status = asyncio.run(attached())
    if ended is None:
        out.note(f"left {agent.name}; it goes on")
        return status
    out.note(f"{ended.name}: {ended.state}, {text.outcome(ended)}")
    return ended_status(ended)


async def _run(
    session: Session, agent: AgentInfo, args: Namespace, *, watch: bool, steal: bool
) -> AgentInfo | None:
    from descartesd.client import AsyncClient  # noqa: PLC0415  # start-up time

    # The server was there a moment ago: from now on it is waited for.
    async with AsyncClient(
        args.profile,
        timeout_s=None,
        wait_for_server_s=math.inf,
        on_connection=Connection(session.tell, session.on_return).changed,
    ) as client:
        attachment = client.attach(agent.id, watch=watch, steal=steal, deadline_s=args.timeout)
        return await session.run(client, attachment)


COMMANDS = {
    "attach": Command(
        summary="Show what an agent writes and write to it what is typed, until it ends.",
        examples=("agent attach build-7", "agent attach --watch build-7"),
        run=_attach,
        arguments=_arguments,
    ),
}
