"""What was asked for is told in words, and no value of a variable is."""

from __future__ import annotations

from descartesd.ctl.asked import details, summary
from descartesd.wire.agent import AgentSpec


def test_a_command_is_told_as_a_shell_would_take_it() -> None:
    spec = AgentSpec(command=["echo", "a b"], env={"B": "hidden", "A": "hidden"})

    assert summary(spec) == "echo 'a b'"
    told = dict(details(spec))
    assert (told["command"], told["env"]) == ("echo 'a b'", "A B")
    assert "hidden" not in str(told)


def test_a_backend_is_told_with_its_task_on_one_line() -> None:
    spec = AgentSpec(
        backend="claude",
        task="explain\nthis  code",
        model="opus",
        context="long",
        extra_args=["-x", "a b"],
        secret_env=["T"],
        env_file="/e",
    )

    assert summary(spec) == "claude: explain this code"
    told = dict(details(spec))
    assert told["task"] == "explain this code"
    assert told["context"] == "4 characters"
    assert told["arguments"] == "-x 'a b'"
    assert (told["secrets"], told["env file"], told["tools"]) == ("T", "/e", "-")


def test_a_chat_says_that_it_is_one() -> None:
    spec = AgentSpec(backend="claude", chat=True)

    assert summary(spec) == "claude: (chat)"
    assert dict(details(spec))["backend"] == "claude (chat)"
