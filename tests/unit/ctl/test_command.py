from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace

import pytest

from descartesd.ctl.command import (
    NOUNS,
    SINGLE,
    Command,
    build_parser,
    find_command,
    next_word,
    parse,
)
from descartesd.ctl.main import _split
from descartesd.ctl.output import Output
from descartesd.errors import InvalidArgumentError


def every_command() -> list[tuple[str, Command]]:
    found = [
        (f"{name} {verb}", find_command(module, verb))
        for name, noun in NOUNS.items()
        for verb, module in noun.verbs.items()
    ]
    return found + [
        (name, find_command(single.module, single.verb)) for name, single in SINGLE.items()
    ]


def nothing(args: Namespace, out: Output) -> int:
    return 0


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("word", nargs="?")


PLAIN = Command("Do it.", ("a", "b"), nothing, arguments)
WITH_COMMAND = Command("Run it.", ("a", "b"), nothing, takes_command=True)


@pytest.mark.parametrize(("title", "command"), every_command(), ids=lambda value: str(value)[:20])
def test_help_of_every_command_ends_with_two_examples(title: str, command: Command) -> None:
    lines = build_parser(title, command).format_help().rstrip("\n").splitlines()

    assert lines[-3] == "examples:"
    assert all(line.startswith("  descartesctl ") for line in lines[-2:])


@pytest.mark.parametrize(("title", "command"), every_command(), ids=lambda value: str(value)[:20])
def test_examples_are_commands_as_they_stand(title: str, command: Command) -> None:
    for example in command.examples:
        head, after = _split(shlex.split(example.partition(" < ")[0]))
        noun, head = next_word(head)
        if noun in SINGLE:
            found = find_command(SINGLE[noun].module, SINGLE[noun].verb)
        else:
            verb, head = next_word(head)
            found = find_command(NOUNS[noun].verbs[verb], verb)
        if "--help" not in head:
            parse(title, found, head, after)


def test_words_behind_the_dashes_are_the_command_and_left_alone() -> None:
    args = parse("x", WITH_COMMAND, ["--json"], ["sh", "--json", "--", "-c"])

    assert args.command == ["sh", "--json", "--", "-c"]
    assert args.json


def test_command_is_none_without_dashes_and_empty_behind_bare_ones() -> None:
    assert parse("x", WITH_COMMAND, [], None).command is None
    assert parse("x", WITH_COMMAND, [], []).command == []


def test_word_behind_the_dashes_may_look_like_an_option() -> None:
    assert parse("x", PLAIN, [], ["--json"]).word == "--json"
    assert not parse("x", PLAIN, [], ["--json"]).json


def test_options_may_stand_between_the_agents() -> None:
    stop = find_command("acting", "stop")

    args = parse("agent stop", stop, ["a", "--grace", "5", "b", "--json", "c"], None)

    assert (args.ids, args.grace, args.json) == (["a", "b", "c"], 5.0, True)


def test_unknown_option_is_told_with_the_nearest_one() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse("x", PLAIN, ["--evn", "A=hunter2"], None)

    assert caught.value.message == "unknown option '--evn'"
    assert caught.value.hint == "did you mean '--env'"


@pytest.mark.parametrize(
    "words", [["--evn=hunter2"], ["w", "A=hunter2"], ["--env", "A=1", "w", "B=hunter2"]]
)
def test_what_may_be_a_secret_is_not_repeated(words: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse("x", PLAIN, words, None)

    assert "hunter2" not in caught.value.message + str(caught.value.hint)


def test_options_are_not_abbreviated() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown option '--js'"):
        parse("x", PLAIN, ["--js"], None)


@pytest.mark.parametrize("value", ["0", "soon", "-1"])
def test_timeout_must_be_a_time(value: str) -> None:
    with pytest.raises(InvalidArgumentError, match="argument --timeout: "):
        parse("x", PLAIN, ["--timeout", value], None)


@pytest.mark.parametrize(
    ("words", "corrected"),
    [
        ("ls -l", "-- ls -l"),
        ("--name=ls ls -l --color=auto", "--name=ls -- ls -l --color=auto"),
        ("--stdin sh -c 'echo a  b'", "--stdin -- sh -c 'echo a  b'"),
        ("dd if=a of=b", "-- dd if=a of=b"),
        ("--env A=hunter2 B=hunter2 make", "--env 'A=…' -- 'B=…' make"),
        ("env --env a=hunter2 B=hunter2 --env=c=hunter2", "-- env --env 'a=…' 'B=…' '--env=…'"),
    ],
)
def test_forgotten_dashes_are_put_where_they_belong(words: str, corrected: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^unexpected argument '") as caught:
        parse("agent spawn", find_command("spawn", "spawn"), shlex.split(words), None)

    assert caught.value.hint == (
        f"the agent's command stands after '--': descartesctl agent spawn {corrected}"
    )


def test_option_without_a_value_says_so() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^--json takes no value$"):
        parse("x", PLAIN, ["--json=hunter2"], None)
