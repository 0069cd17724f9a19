"""[backends.NAME]: each fault is named with its whole key, and layers merge within a backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.agents.dialects import DIALECTS
from descartesd.config.backend import Backend
from descartesd.config.leaves import leaves
from descartesd.config.load import load_config
from descartesd.errors import StartupRefusedError


def loaded(tmp_path: Path, text: str, **environ: str) -> dict[str, Backend]:
    file = tmp_path / "d.toml"
    file.write_text(text)
    return load_config(str(file), environ=environ).backends


def test_a_backend_is_read_with_its_lists_and_tables(tmp_path: Path) -> None:
    text = """
[backends.mine]
command = ["mine", ["--model", "{model}"], "--", "{task}"]
say = '{"text": "{text}"}'
[backends.mine.env]
Mixed_Case = "kept"
"""

    assert loaded(tmp_path, text) == {
        "mine": Backend(
            command=("mine", ("--model", "{model}"), "--", "{task}"),
            say='{"text": "{text}"}',
            env={"Mixed_Case": "kept"},
        )
    }


def test_a_later_layer_replaces_a_setting_and_leaves_the_others(tmp_path: Path) -> None:
    text = """
[backends.claude]
path = "/file"
dialect = "pi"
env = {A = "1", B = "1"}
[environments.production.backends.claude]
path = "/environment"
env = {B = "2"}
"""

    found = loaded(
        tmp_path,
        text,
        DESCARTES_BACKENDS__claude__TASK_VIA="stdin",
        DESCARTES_BACKENDS__claude__ENV__C="3",
        DESCARTES_BACKENDS__other__COMMAND='["o", ["-m", "{model}"]]',
    )

    assert found == {
        "claude": Backend(
            path="/environment",
            dialect="pi",
            task_via="stdin",
            env={"A": "1", "B": "2", "C": "3"},
        ),
        "other": Backend(command=("o", ("-m", "{model}"))),
    }


def test_every_fault_is_named_with_its_key(tmp_path: Path) -> None:
    text = """
[backends]
plain = 5
[backends.Bad]
path = "/x"
[backends.mine]
command = ["mine", "{task}"]
resume = ["mine", 5]
chat = ["mine", "x{task}"]
paht = "/x"
path = "relative"
say = "{"
dialect = "unheard"
task_via = "mail"
env = {1A = "x", B = 5, dynaconf_merge = "x"}
tools = {read = "@int 5"}
"""

    with pytest.raises(StartupRefusedError) as refused:
        loaded(tmp_path, text, DESCARTES_BACKENDS__mine__PATH="here")

    said = refused.value.message.splitlines()
    wanted = [
        "d.toml: backends.plain: expected a table, got 5",
        "d.toml: backends.Bad: expected a lower-case letter",
        "d.toml: backends.mine.command: '{task}' may begin with '-'",
        "d.toml: backends.mine.resume: expected a list of texts",
        "d.toml: backends.mine.chat: '{task}' stands within 'x{task}'",
        "d.toml: backends.mine.paht: unknown key (did you mean 'path'?)",
        "d.toml: backends.mine.path: expected an absolute path",
        "d.toml: backends.mine.say: expected JSON",
        "d.toml: backends.mine.dialect: expected one of",
        "d.toml: backends.mine.task_via: expected one of",
        "d.toml: backends.mine.env.1A: expected letters, digits",
        "d.toml: backends.mine.env.B: expected a text, got 5",
        "d.toml: backends.mine.env.dynaconf_merge: expected letters, digits",
        "d.toml: backends.mine.tools.read: expected a value that does not begin with '@'",
        "DESCARTES_BACKENDS__mine__PATH: backends.mine.path: expected an absolute path",
    ]
    assert len(said) == len(wanted)
    assert [
        line for line, start in zip(said, wanted, strict=True) if not line.startswith(start)
    ] == []


@pytest.mark.parametrize("said", ['{"text": "text"}', '{"{text}": 1}', '["say {text}"]', "7"])
def test_a_say_that_would_say_nothing_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(StartupRefusedError) as refused:
        loaded(tmp_path, f"[backends.mine]\nchat = ['mine']\nsay = '{said}'\n")

    assert refused.value.message == (
        f"d.toml: backends.mine.say: expected a text in it that is '{{text}}', got '{said}'"
    )


def test_every_setting_of_a_backend_is_described_and_fits_its_own_default() -> None:
    for leaf in leaves(Backend).values():
        assert leaf.description.endswith(".")
        assert leaf.is_table or leaf.fault(leaf.default) is None


def test_every_dialect_can_be_configured() -> None:
    dialect = leaves(Backend)["dialect"]

    assert [name for name in (*DIALECTS, "none", "") if dialect.fault(name) is not None] == []
