"""`completion`: the script that has a shell complete our words, and what that script asks."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from descartesd.ctl.command import Command
from descartesd.ctl.output import Output
from descartesd.ctl.text import safe


def _arguments(parser: ArgumentParser) -> None:
    shells = ("bash", "zsh", "fish")
    parser.add_argument(
        "shell", metavar="|".join(shells), choices=shells, help="the shell it is for"
    )
    parser.add_argument(
        "--line", metavar="LINE", help="tell what may follow this line, as that script asks"
    )


def _run(args: Namespace, out: Output) -> int:
    if args.line is not None:
        return _answer(args.line, out)
    from descartesd.ctl.shells import SCRIPTS  # noqa: PLC0415  # not for each answer

    script = SCRIPTS[args.shell]
    out.document(
        {"shell": args.shell, "script": script}, ids=[args.shell], lines=script.splitlines()
    )
    return 0


def _answer(line: str, out: Output) -> int:
    from descartesd.ctl.completing import complete  # noqa: PLC0415  # not for the script

    answer = complete(line)
    words = [each.word for each in answer.words]
    out.document(
        {"kind": answer.kind, "words": [each._asdict() for each in answer.words]},
        ids=words,
        lines=[answer.kind, *(f"{safe(word)}\t{safe(about)}" for word, about in answer.words)],
    )
    return 0


COMMANDS = {
    "completion": Command(
        summary="Print what has a shell complete nouns, verbs, options and names of agents.",
        examples=("completion bash", "completion bash --line 'descartesctl agent st'"),
        run=_run,
        arguments=_arguments,
    )
}
