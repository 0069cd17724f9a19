"""No value becomes an option, and none is split or joined."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.builtin.backends import register_backends
from descartesd.template import (
    PLACES,
    check_argv,
    fill_argv,
    fill_json,
    fits_json,
    places,
    required,
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)
EVIL = st.one_of(
    TEXTS,
    st.sampled_from(["--", "-", "--help", "--dangerously-skip-permissions", "-p", "{task}", "="]),
)
WORDS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("task", "system_prompt", "subagents"), EVIL),
        **dict.fromkeys(("model", "tools", "session"), WORDS),
    },
)
BUILT_IN = {backend.name: backend for backend in register_backends()}
TEMPLATES = [
    (f"{name}.{field}", template)
    for name, backend in BUILT_IN.items()
    for field in ("start", "resume", "chat")
    if (template := getattr(backend, field))
]


def literals(template: Any) -> list[str]:
    parts = [[part] if isinstance(part, str) else part for part in template]
    return [element for part in parts for element in part]


@pytest.mark.parametrize(("name", "template"), TEMPLATES, ids=[name for name, _ in TEMPLATES])
@settings(database=None, max_examples=60)
@given(values=VALUES, extra=st.lists(WORDS, max_size=3))
def test_no_built_in_template_lets_a_value_become_an_option(
    name: str, template: Any, values: dict[str, str], extra: list[str]
) -> None:
    values = {"session": "s1", **values}

    argv = fill_argv(template, values, extra)

    own = {element for element in literals(template) if element.startswith("-")}
    end = argv.index("--") if "--" in argv else len(argv)
    for element in argv[1:end]:
        if element.startswith("-"):
            # It is the template's own, or its own up to the `=`.
            prefix, equals, _ = element.partition("=")
            assert element in own or any(each.startswith(f"{prefix}=") for each in own), element
            assert equals or element in own
    assert argv[0] == template[0]


@pytest.mark.parametrize(("name", "template"), TEMPLATES, ids=[name for name, _ in TEMPLATES])
@settings(database=None, max_examples=40)
@given(values=VALUES)
def test_every_value_is_one_element_or_the_end_of_one(
    name: str, template: Any, values: dict[str, str]
) -> None:
    values = {"session": "s1", **values}

    argv = fill_argv(template, values)

    for place in places(template) & values.keys():
        assert any(
            element == values[place] or element.endswith(f"={values[place]}") for element in argv
        )
    without = fill_argv(template, {"session": "s1"})
    assert len(argv) <= len(without) + 2 * len(values)


def test_no_built_in_template_bypasses_permissions() -> None:
    for name, template in TEMPLATES:
        for element in literals(template):
            lower = element.lower()
            assert not any(
                word in lower for word in ("dangerous", "bypass", "yolo", "auto-approve", "--auto")
            ), (name, element)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ([], "expected a program"),
        ([["claude"]], "expected a program"),
        (["{task}"], "expected a program"),
        (["p", "{task}"], "'{task}' may begin with '-'"),
        (["p", ["{task}"]], "'{task}' may begin with '-'"),
        (["p", ["--", "{model}"], "{task}"], "'{task}' may begin with '-'"),
        (["p", "--x", "{system_prompt}"], "may begin with '-'"),
        (["p", "{taks}"], "there is no '{taks}'"),
        (["p", "x{task}"], "stands within 'x{task}'"),
        (["p", "--", "{task} {model}"], "stands within"),
        (["p", ["--model"]], "expected a place"),
        (["p", "a\0b"], "NUL"),
    ],
)
def test_a_template_that_could_do_harm_is_refused(template: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=r"expected|NUL|there is no|stands|may begin") as refused:
        check_argv(template)

    assert fault in str(refused.value)


def test_braces_that_are_no_place_are_left_alone() -> None:
    template = ["p", "-c", 'x={name="fake"}', "--", "{task}"]

    check_argv(template)

    assert fill_argv(template, {"task": "t"}) == ["p", "-c", 'x={name="fake"}', "--", "t"]


def test_a_group_stands_there_only_when_all_it_names_is_given() -> None:
    template = ["p", ["--model", "{model}"], ["-s", "{session}", "-t={tools}"], "end"]

    assert fill_argv(template, {}) == ["p", "end"]
    assert fill_argv(template, {"model": "m", "tools": "t"}) == ["p", "--model", "m", "end"]
    assert required(template) == frozenset()
    assert places(template) == {"model", "session", "tools"}


def test_extra_arguments_stand_before_the_end_of_options() -> None:
    assert fill_argv(["p", "--", "{task}"], {"task": "t"}, ["-x"]) == ["p", "-x", "--", "t"]
    assert fill_argv(["p", "-q"], {}, ["-x"]) == ["p", "-q", "-x"]
    # Those of a task never count.
    assert fill_argv(["p", "-p={task}"], {"task": "--"}, ["-x"]) == ["p", "-p=--", "-x"]


def test_every_place_has_its_use() -> None:
    used = {place for _, template in TEMPLATES for place in places(template)}

    assert used <= PLACES
    assert PLACES - used == {"task_file"}


@settings(database=None)
@given(TEXTS)
def test_what_is_said_is_one_line_and_one_value(text: str) -> None:
    say = BUILT_IN["claude"].say
    assert say is not None

    line = fill_json(say, {"text": text})

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {"type": "user", "message": {"role": "user", "content": text}}


def test_what_is_said_ends_no_line_for_any_reader() -> None:
    line = fill_json('{"text": "{text}"}', {"text": "a\u2028b\u2029c\x85d\re"}).decode()

    assert line.splitlines() == [r'{"text":"a\u2028b\u2029c\u0085d\re"}']


def test_an_answer_carries_what_was_asked() -> None:
    allow = BUILT_IN["claude"].allow
    assert allow is not None

    line = json.loads(fill_json(allow, {"id": "q", "input": {"command": "{id}"}}))

    assert line["response"]["request_id"] == "q"
    assert line["response"]["response"]["updatedInput"] == {"command": "{id}"}


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        (b'{"a": {"id": "7", "more": 1}, "b": 2}', True),
        (b'{"a": {"id": "8"}}', False),
        (b'{"a": "7"}', False),
        (b"[]", False),
        (b"no json", False),
        (b"\xff", False),
        (b"[" * 5000, False),
        (b'{"a": {"id": "7"}, "b": "' + b"x" * 65_536 + b'"}', False),
    ],
)
def test_an_acknowledgement_has_all_that_is_wanted(line: bytes, fits: bool) -> None:
    assert fits_json('{"a": {"id": "{id}"}}', {"id": "7"}, line) is fits
