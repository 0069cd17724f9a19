"""`agent say` and `agent answer`: words for agents that were started as a chat."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from descartesd.ctl.backend import text_or_stdin
from descartesd.ctl.command import Command, add_id
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output


def _say_arguments(parser: ArgumentParser) -> None:
    add_id(parser)
    parser.add_argument("text", metavar="TEXT", help="what is said; '-': read from our stdin")


def _say(args: Namespace, out: Output) -> int:
    text = text_or_stdin(args.text, "the text")
    with connect(args) as client:
        client.agent.say(id=args.id, text=text)
        out.agent(client.agent.get(id=args.id))
    return 0


def _answer_arguments(parser: ArgumentParser) -> None:
    add_id(parser)
    parser.add_argument("decision", choices=("allow", "deny"), help="whether it may go on")
    parser.add_argument(
        "--question", metavar="QID", help="the question that is meant, by its id; else the oldest"
    )
    parser.add_argument("--message", metavar="M", help="what it is told, when it may not")


def _answer(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        client.agent.answer(
            id=args.id, decision=args.decision, message=args.message, question=args.question
        )
        out.agent(client.agent.get(id=args.id))
    return 0


COMMANDS = {
    "say": Command(
        summary="Say something to an agent that was started with --chat.",
        examples=(
            "agent say fixer 'now run the tests'",
            "agent say fixer - < review.txt",
        ),
        run=_say,
        arguments=_say_arguments,
    ),
    "answer": Command(
        summary="Answer the question an agent waits with: whether it may use a tool.",
        examples=(
            "agent answer fixer allow --question toolu_01",
            "agent answer fixer deny --message 'not on this branch'",
        ),
        run=_answer,
        arguments=_answer_arguments,
    ),
}
