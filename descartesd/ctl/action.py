"""`action list` and `action run`: what plugins have added to the server."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from descartesd.ctl import text
from descartesd.ctl.command import ID_HELP, Command, suggest
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.parameters import parameter_lines, parameters
from descartesd.ctl.progress import progress
from descartesd.errors import AbortedError, DescartesError, InvalidArgumentError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.action import ActionResult


def _list(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        table = client.action.list()
    rows = [
        (
            action.name,
            action.permission,
            "yes" if action.needs_agent else "-",
            " ".join(parameters(action.params)) or "-",
            action.summary,
        )
        for action in table.actions
    ]
    out.document(
        table,
        ids=[action.name for action in table.actions],
        lines=text.table(("ACTION", "ROLE", "AGENT", "PARAMETERS", "SUMMARY"), rows),
    )
    return 0


def _run_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as 'action list' shows it")
    parser.add_argument(
        "params", metavar="K=V", nargs="*", help="a parameter: text as K=V, any JSON as K:=JSON"
    )
    parser.add_argument("--agent", metavar="ID", help=f"the agent it is about: {ID_HELP}")
    parser.add_argument(
        "--idem",
        metavar="KEY",
        help="once only, however often this is repeated, and to its end even if nobody waits",
    )


def _run(args: Namespace, out: Output) -> int:
    params = _params(args.params)
    with connect(args) as client:
        if args.idem is None:
            done = _followed(client, args, params)
        else:
            done = client.action.run(
                name=args.name, params=params, agent=args.agent, idem=args.idem
            )
    out.document(
        done, ids=[] if done.agent_id is None else [done.agent_id], lines=_lines(done.result)
    )
    return 0


def _followed(client: Client, args: Namespace, params: dict[str, Any]) -> ActionResult:
    """Run it as long as somebody waits here, and show how far it is."""
    items = client.action.follow(
        name=args.name, params=params, agent=args.agent, deadline_s=args.timeout
    )
    with progress(wanted=not (args.json or args.quiet)) as show:
        for item in items:
            if item.result is not None:
                return item.result
            done = int(item.done or 0)
            show(item.text or args.name, done, int(item.total or done))
    raise AbortedError(f"action '{args.name}' ended without a result")


def _explain(args: Namespace) -> list[str]:
    """What is known of the action that is named, for the help."""
    try:
        with connect(args) as client:
            actions = {each.name: each for each in client.action.list().actions}
    except DescartesError as exc:
        return ["", f"the parameters of '{args.name}' are known to a server: {exc.message}"]
    action = actions.get(args.name)
    if action is None:
        known = suggest(args.name, actions, "see them: descartesctl action list")
        return ["", f"the server has no action '{args.name}': {known}"]
    return [
        "",
        f"{action.name}: {action.summary}",
        f"  role {action.permission}, at most {action.timeout_s:g} s"
        + (", on an agent (--agent)" if action.needs_agent else ""),
        *parameter_lines(action.params),
    ]


def _params(words: Iterable[str]) -> dict[str, Any]:
    """Parameters as typed; a fault names the place and never the word, which may be a secret."""
    found: dict[str, Any] = {}
    for number, word in enumerate(words, 1):
        key, equals, value = word.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not equals or not key:
            raise InvalidArgumentError(
                f"parameter number {number} is not of the form K=V or K:=JSON"
            )
        try:
            found[key] = json.loads(value) if is_json else value
        except (ValueError, RecursionError):
            raise InvalidArgumentError(
                f"parameter number {number} is not valid JSON behind ':='",
                hint=f"text needs quotes there, or is given as {key}=TEXT",
            ) from None
    return found


def _lines(result: Any) -> list[str]:
    if isinstance(result, dict) and result:
        return text.pairs((str(key), _shown(value)) for key, value in result.items())
    return [text.safe(line) for line in _shown(result).splitlines()]


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    import msgspec  # noqa: PLC0415  # start-up time

    return msgspec.json.encode(value).decode()


COMMANDS = {
    "list": Command(
        summary="List the custom actions of the server and their parameters.",
        examples=("action list", "--json action list"),
        run=_list,
    ),
    "run": Command(
        summary="Run a custom action and print what it answers.",
        examples=("action run echo text=hello", "action run echo 'text:=[1, 2]' --agent build-7"),
        run=_run,
        arguments=_run_arguments,
        explain=_explain,
    ),
}
