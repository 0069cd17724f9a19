"""Which agents a verb is about: those named, or all for which conditions hold."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, get_args

from descartesd.ctl.command import ID_HELP, PROGRAM, suggest
from descartesd.errors import InvalidArgumentError

if TYPE_CHECKING:
    from descartesd.ctl.output import Output
    from descartesd.wire.agent import State
    from descartesd.wire.batch import Selector


def add_conditions(parser: ArgumentParser) -> None:
    """Add what an agent can be chosen by."""
    parser.add_argument(
        "--state", metavar="S", action="append", default=[], help="only agents in this state"
    )
    parser.add_argument(
        "--label",
        metavar="COND",
        action="append",
        default=[],
        help="only agents this holds for: k=v, k!=v, 'k in (a, b)', 'k notin (a, b)', k, '!k'",
    )
    parser.add_argument(
        "--owner", metavar="O", help="only agents of this owner: uid:N or key:SHA256:…"
    )


def add_selection(parser: ArgumentParser) -> None:
    """Add agents by name and by condition, and what may be said about many at once."""
    parser.add_argument("ids", metavar="ID", nargs="*", help=ID_HELP)
    parser.add_argument("--all", action="store_true", help="every agent")
    add_conditions(parser)
    parser.add_argument("--dry-run", action="store_true", help="only tell which agents it would be")
    parser.add_argument("--fail-fast", action="store_true", help="begin no more after a failure")
    parser.add_argument("--idem", metavar="KEY", help="once only, however often this is repeated")


def states(args: Namespace) -> Sequence[State]:
    """The states of `--state`. Raises InvalidArgumentError when there is none of that name."""
    if not args.state:
        return ()
    from descartesd.wire.agent import State  # noqa: PLC0415  # start-up time

    known = get_args(State)
    for state in args.state:
        if state not in known:
            hint = suggest(state.lower(), known, f"states: {', '.join(known)}")
            if "," in state:
                again = " ".join(f"--state {each.strip()}" for each in state.split(","))
                hint = f"repeat the option: {again}"
            raise InvalidArgumentError(f"there is no state '{state}'", hint=hint)
    return cast("Sequence[State]", args.state)


def is_one(args: Namespace) -> bool:
    """Whether exactly one agent is named, and it is to be acted on at once."""
    return len(args.ids) == 1 and not _is_selecting(args) and not args.dry_run


def selector(args: Namespace, verb: str) -> Selector | None:
    """The conditions as the wire has them, None when agents are named.

    Raises InvalidArgumentError when agents are named and selected, or neither.
    """
    hint = f"see: {PROGRAM} agent {verb} --help"
    if not _is_selecting(args):
        if args.ids:
            return None
        raise InvalidArgumentError(
            "no agent is named: expected ID …, or --all, --label, --state or --owner", hint=hint
        )
    if args.ids:
        raise InvalidArgumentError(
            "agents are named and selected: expected either ID … or conditions", hint=hint
        )
    from descartesd.wire.batch import Selector  # noqa: PLC0415  # start-up time

    return Selector(labels=args.label, states=list(states(args)), owner=args.owner, all=args.all)


def tell_if_none(found: Sequence[object], args: Namespace, out: Output) -> None:
    """Tell people that the conditions given hold for no agent: one may be misspelt."""
    if not found and _has_conditions(args) and not out.quiet:
        out.note("no agent matches")


def _is_selecting(args: Namespace) -> bool:
    return bool(args.all or _has_conditions(args))


def _has_conditions(args: Namespace) -> bool:
    return bool(args.state or args.label or args.owner is not None)
