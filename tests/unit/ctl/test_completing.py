"""What is offered for a line that is being typed, where no server has to be asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import get_args

import pytest

from descartesd.ctl.command import NOUNS, SINGLE, actions_of, build_parser, find_command
from descartesd.ctl.completing import complete, split_line
from descartesd.wire.agent import State
from descartesd.wire.methods import METHODS
from tests.support.server import BIN


def words(line: str) -> list[str]:
    return [offer.word for offer in complete(f"descartesctl {line}").words]


def kind(line: str) -> str:
    return complete(f"descartesctl {line}").kind


def titles() -> Iterator[tuple[str, str, str]]:
    for noun, (_, verbs) in NOUNS.items():
        for verb, module in verbs.items():
            yield f"{noun} {verb}", module, verb
    for name, single in SINGLE.items():
        yield name, single.module, single.verb


def test_line_begins_with_a_noun_or_a_single_command() -> None:
    assert words("") == [*NOUNS, *SINGLE]
    assert words("--json --timeout 3 ") == [*NOUNS, *SINGLE]
    assert words("ag") == ["agent"]


@pytest.mark.parametrize("noun", NOUNS)
def test_noun_is_followed_by_its_verbs(noun: str) -> None:
    assert words(f"{noun} ") == list(NOUNS[noun].verbs)
    assert words(f"{noun} --quiet ") == list(NOUNS[noun].verbs)


@pytest.mark.parametrize(("title", "module", "verb"), list(titles()))
def test_every_option_of_every_command_is_offered(title: str, module: str, verb: str) -> None:
    actions = actions_of(build_parser(title, find_command(module, verb)))

    known = {action.option_strings[-1] for action in actions if action.option_strings}
    assert set(words(f"{title} -")) == {*known, "--help"}


def test_option_that_was_given_is_offered_again_only_where_it_adds() -> None:
    again = words("agent list --owner uid:0 --state running --")

    assert "--owner" not in again
    assert "--state" in again


def test_value_of_an_option_is_offered_behind_a_blank_and_behind_an_equals_sign() -> None:
    assert words("agent list --state ") == list(get_args(State))
    assert words("agent list --state=pa") == ["--state=paused"]
    assert words("agent logs web --stream ") == ["stdout", "stderr"]
    assert words("cert token --role op") == ["operator"]
    assert words("agent spawn --name --") == []


def test_word_is_offered_by_its_place() -> None:
    assert words("agent signal US") == ["USR1", "USR2"]
    assert words("agent answer web ") == ["allow", "deny"]
    assert words("agent answer --question q1 web d") == ["deny"]
    assert words("policy explain ci cert.") == [name for name in METHODS if name[:5] == "cert."]
    assert words("cert rotate ") == ["host", "authority"]
    assert words("cert rotate host ") == []
    assert words("help exit") == ["exit-codes"]


def test_files_and_programs_are_left_to_the_shell() -> None:
    assert kind("cert add ") == "files"
    assert kind("cert issue ci --out ") == "files"
    assert kind("cert issue ci --out=") == "files"
    assert kind("audit verify --dir ") == "directories"
    assert kind("agent spawn --cwd ") == "directories"
    assert kind("agent spawn --name web -- ma") == "programs"
    assert kind("agent spawn -- make Ma") == "files"
    assert kind("agent list ") == "words"


def test_profiles_are_named_beside_files(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert complete("descartesctl --profile ").words == []

    subprocess.run(["mkdir", "-p", f"{tmp_path}/.config/descartes"], check=True)
    for name in ("boss.toml", "notes.txt"):
        subprocess.run(["touch", f"{tmp_path}/.config/descartes/{name}"], check=True)

    assert words("--profile ") == ["boss"]
    assert kind("--profile ") == "files"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("descartesctl ", ["descartesctl", ""]),
        ("descartesctl 'a b' c", ["descartesctl", "a b", "c"]),
        ("descartesctl --label 'k in (a", ["descartesctl", "--label", "k in (a"]),
        ('descartesctl "a', ["descartesctl", "a"]),
        ("descartesctl a\\", ["descartesctl", "a"]),
    ],
)
def test_line_is_split_as_a_shell_does_it(line: str, parts: list[str]) -> None:
    assert split_line(line) == parts


def test_nothing_is_offered_where_nothing_is_known() -> None:
    assert words("agnt ") == []
    assert words("agent stp ") == []
    assert words("--nothing agent ") == []
    assert words("agent show --nothing=x --profile /nowhere/at/all.toml ") == []
    assert complete("").words


def test_answer_is_lines_for_a_shell_and_a_document_for_programs() -> None:
    asking = [BIN / "descartesctl", "completion", "bash", "--line", "descartesctl event "]
    plain = subprocess.run(asking, capture_output=True, text=True, check=True)
    document = subprocess.run([*asking, "--json"], capture_output=True, text=True, check=True)

    first, line = plain.stdout.splitlines()
    assert first == "words"
    word, about = line.split("\t")
    assert word == "follow"
    assert json.loads(document.stdout) == {
        "kind": "words",
        "words": [{"word": word, "about": about}],
    }
