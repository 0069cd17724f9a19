"""What a spec may ask of a backend, and what is started for it."""

from __future__ import annotations

from typing import Any

import pytest

from descartesd.agents.backend import Backends, Resume, check_fields, start, with_configured
from descartesd.api import Backend
from descartesd.builtin.backends import register_backends
from descartesd.config.backend import Backend as Settings
from descartesd.errors import InvalidArgumentError, StartupRefusedError, UnimplementedError
from descartesd.template import fill_json
from descartesd.wire.agent import AgentSpec, Tty

BACKENDS = Backends(register_backends())
SAY = BACKENDS.find("claude").say or ""


def checked(**fields: Any) -> AgentSpec:
    spec = AgentSpec(**fields)
    check_fields(spec, BACKENDS)
    return spec


def argv(resume: Resume | None = None, **fields: Any) -> list[str]:
    spec = checked(**fields)
    assert spec.backend is not None
    return start(spec, BACKENDS.find(spec.backend), resume).argv


def test_claude_is_given_all_it_was_asked_for_and_the_task_last() -> None:
    assert argv(
        backend="claude",
        task="--dangerously-skip-permissions",
        model="opus",
        tools="readonly",
        system_prompt="-be brief",
        subagents='{"reviewer": {}}',
        extra_args=["--max-turns", "3"],
    ) == [
        *("claude", "-p", "--output-format", "stream-json", "--verbose"),
        *("--model", "opus"),
        "--allowedTools=Read,Bash,Glob,Grep",
        "--append-system-prompt=-be brief",
        '--agents={"reviewer": {}}',
        *("--max-turns", "3"),
        *("--", "--dangerously-skip-permissions"),
    ]


@pytest.mark.parametrize(
    ("level", "tools"),
    [
        ("minimal", "Read,Write,Edit,Bash,Glob,Grep"),
        ("full", "Read,Write,Edit,Bash,Glob,Grep,Task,WebFetch,WebSearch"),
        ("orchestrator", "Read,Write,Edit,Bash,Glob,Grep,Task,WebFetch,WebSearch"),
        ("readonly", "Read,Bash,Glob,Grep"),
        ("read", "Read,Bash,Glob,Grep"),
        ("researcher", "Read,Bash,Glob,Grep,WebFetch,WebSearch"),
        ("planner", "Read,Write,Bash,Glob,Grep"),
        ("lispdeveloper", "Read,Bash,Glob,Grep"),
        ("Read,Bash(git:*)", "Read,Bash(git:*)"),
    ],
)
def test_a_tool_level_stands_for_its_tools(level: str, tools: str) -> None:
    assert f"--allowedTools={tools}" in argv(backend="claude", task="t", tools=level)


def test_the_older_name_of_claude_is_claude() -> None:
    assert argv(backend="claude-code-cli", task="t") == argv(backend="claude", task="t")


def test_gemini_takes_the_task_as_one_element() -> None:
    assert argv(backend="gemini", task="--yolo")[:2] == ["gemini", "-p=--yolo"]


def test_the_context_is_a_variable_of_the_environment() -> None:
    spec = checked(backend="codex", task="t", context="c")

    assert start(spec, BACKENDS.find("codex")).env["AGENT_CONTEXT"] == "c"


@pytest.mark.parametrize("name", ["claude", "codex", "opencode", "gemini"])
def test_a_task_too_long_for_an_argument_goes_by_stdin(name: str) -> None:
    spec = checked(backend=name, task="ä" * 70_000)

    started = start(spec, BACKENDS.find(name))

    assert started.stdin_data == spec.task.encode() if spec.task else None
    assert not any("ä" in element for element in started.argv)
    assert "--" not in started.argv


@pytest.mark.parametrize("name", ["claude", "codex", "opencode", "gemini"])
def test_a_conversation_goes_on_with_the_same_task_or_another(name: str) -> None:
    again = argv(Resume(session="s-1"), backend=name, task="first")
    anew = argv(Resume(session="s-1", task="-x"), backend=name, task="first")

    assert any("s-1" in element for element in again)
    assert any(element in ("first", "-p=first") for element in again)
    assert any(element in ("-x", "-p=-x") for element in anew)
    assert not any("first" in element for element in anew)


def test_a_chat_is_started_without_its_task_and_with_a_pipe() -> None:
    spec = checked(backend="claude", chat=True, task="hello")
    started = start(spec, BACKENDS.find("claude"))

    assert (started.stdin, started.stdin_data) == ("pipe", fill_json(SAY, {"text": "hello"}))
    assert "hello" not in started.argv
    assert "--input-format" in started.argv


def test_a_chat_that_goes_on_says_only_what_is_new() -> None:
    spec = checked(backend="claude", chat=True, task="hello")
    claude = BACKENDS.find("claude")

    assert start(spec, claude, Resume(session="s-1")).stdin_data is None
    anew = start(spec, claude, Resume(session="s-1", task="more"))
    assert anew.stdin_data == fill_json(SAY, {"text": "more"})
    assert anew.argv[anew.argv.index("--resume") + 1] == "s-1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "claud", "task": "t"}, "spec.backend: this server has no 'claud'"),
        ({"backend": "claude"}, "spec.task: backend 'claude' needs one"),
        ({"backend": "gemini", "task": "t", "tools": "full"}, "spec.tools: backend 'gemini'"),
        ({"backend": "codex", "task": "t", "system_prompt": "s"}, "spec.system_prompt: backend"),
        ({"backend": "claude", "task": "t", "tools": "minimol"}, "'minimol' is no level"),
        ({"backend": "claude", "task": "t", "subagents": "file.json"}, "spec.subagents: expected"),
        ({"backend": "claude", "task": "t", "subagents": "[]"}, "spec.subagents: expected a JSON"),
        ({"backend": "codex", "task": "t", "stdin": "pipe"}, "spec.stdin: backend 'codex'"),
        ({"backend": "claude", "chat": True, "tty": Tty()}, "spec.tty"),
        ({"backend": "claude", "chat": True, "task": "\x01" * 50_000}, "text: it makes a line"),
        ({"command": ["x"], "task": "t"}, "spec.task: a command has no use for it"),
        ({"command": ["x"], "chat": True}, "spec.chat: a command has no use for it"),
        ({"command": ["x"], "extra_args": ["a"]}, "spec.extra_args: a command has no use"),
    ],
)
def test_what_a_backend_has_no_use_for_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        checked(**fields)

    assert message in refused.value.message


def test_a_backend_without_a_chat_says_so() -> None:
    with pytest.raises(UnimplementedError, match="backend 'codex' has no chat"):
        checked(backend="codex", chat=True)


def test_a_configured_program_takes_the_place_of_a_built_in_one() -> None:
    settings = Settings(path="/opt/claude", env={"DISABLE_AUTOUPDATER": "0", "A": "1"})

    claude = with_configured(register_backends(), {"claude": settings}, "d.toml").find("claude")

    built_in = BACKENDS.find("claude")
    assert (claude.start[0], claude.resume[0], claude.chat[0]) == ("/opt/claude",) * 3
    assert claude.start[1:] == built_in.start[1:]
    assert claude.env == {**built_in.env, "DISABLE_AUTOUPDATER": "0", "A": "1"}


def test_a_configured_backend_needs_a_command() -> None:
    with pytest.raises(
        StartupRefusedError, match=r"d\.toml: backends\.mine\.command: it is missing"
    ):
        with_configured([], {"mine": Settings(path="/bin/true")}, "d.toml")


def test_a_chat_that_cannot_go_on_says_what_it_lacks() -> None:
    mute = Backend(name="mute", start=("p", "--", "{task}"), chat=("p",), say='"{text}"')

    with pytest.raises(UnimplementedError, match=r"chat has no place \{session\}") as refused:
        start(AgentSpec(backend="mute", chat=True), mute, Resume(session="s"))

    assert "--resume={session}" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("template", "via", "task", "started"),
    [
        (("p", "--", "{task}"), "argv", "t", (["p", "--", "t"], None)),
        (("p", "-"), "stdin", "t", (["p", "-"], b"t")),
        (("p", "-f", "{task_file}"), "file", "t", (["p", "-f", "/dev/stdin"], b"t")),
    ],
)
def test_a_task_goes_the_way_its_backend_says(
    template: Any, via: Any, task: str, started: tuple[list[str], bytes | None]
) -> None:
    backend = Backend(name="mine", start=template, task_via=via)
    spec = AgentSpec(backend="mine", task=task)

    check_fields(spec, Backends([backend]))
    found = start(spec, backend)

    assert (found.argv, found.stdin_data) == started


def test_a_long_task_that_may_only_be_an_argument_is_refused_with_what_to_do() -> None:
    backend = Backend(name="mine", start=("p", "--", "{task}"))

    with pytest.raises(InvalidArgumentError, match="it has 150000 bytes") as refused:
        check_fields(AgentSpec(backend="mine", task="x" * 150_000), Backends([backend]))

    assert "backends.mine.task_via" in str(refused.value.hint)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Mine", "start": ("p",)},
        {"name": "mine", "start": ()},
        {"name": "mine", "start": ("p",), "chat": ("p",)},
        {"name": "mine", "start": ("p",), "chat": ("p",), "say": "{"},
        {"name": "mine", "start": ("p",), "chat": ("p",), "say": '{"text": "x"}'},
        {"name": "mine", "start": ("p",), "interrupt": "{}"},
        {"name": "mine", "start": ("p",), "task_via": "file"},
        {"name": "mine", "start": ("p",), "task_via": "mail"},
    ],
)
def test_a_backend_that_cannot_be_is_refused_when_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"backend 'mine'|backend 'Mine'"):
        Backend(**fields)
