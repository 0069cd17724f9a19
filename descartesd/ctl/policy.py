"""`policy explain`: may somebody do something, and why."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from descartesd.ctl import text
from descartesd.ctl.command import ID_HELP, Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output


def _explain_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "identity", metavar="IDENTITY", help="a certificate's name, key:SHA256:… or uid:N"
    )
    parser.add_argument("method", metavar="METHOD", help="a method, as agent.stop")
    parser.add_argument("id", metavar="ID", nargs="?", help=ID_HELP)


def _explain(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        told = client.policy.explain(identity=args.identity, method=args.method, id=args.id)
    out.document(
        told,
        ids=["allowed" if told.allowed else "denied"],
        lines=text.pairs(
            [
                ("identity", told.identity),
                ("method", told.method),
                ("allowed", "yes" if told.allowed else "no"),
                ("rule", told.rule),
                ("reason", told.reason),
            ]
        ),
    )
    return 0


COMMANDS = {
    "explain": Command(
        "Tell whether an identity may call a method, and which rule says so.",
        ("policy explain ci agent.stop", "policy explain uid:1000 agent.kill web"),
        _explain,
        _explain_arguments,
    )
}
