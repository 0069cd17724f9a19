"""Backends on a real server: started by name, spoken to, asked to pause, gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    UnimplementedError,
    WouldBlockError,
)
from descartesd.wire.agent import AgentInfo, AgentSpec
from descartesd.wire.event import Event
from descartesd.wire.methods import AGENT_ANSWER
from descartesd.wire.talk import AgentAnswer
from tests.support.agents import SLEEP, left_empty, output, spec, until_output, until_state
from tests.support.chatter import with_chatter
from tests.support.eventually import eventually
from tests.support.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with with_chatter() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as connected, left_empty(connected):
        yield connected


def chatter(**fields: Any) -> AgentSpec:
    return AgentSpec(backend="chatter", **fields)


def told(client: Client, agent: AgentInfo, attempt: int = 1) -> dict[str, Any]:
    """What the program found when it was started."""
    ended = client.agent.wait(id=agent.id)
    assert ended.state == "completed", ended
    lines = [json.loads(line) for line in output(client, agent.id).splitlines()]
    results = [line["result"] for line in lines if line["type"] == "result"]
    found: dict[str, Any] = json.loads(results[attempt - 1])
    return found


def test_a_backend_is_started_with_whole_arguments_and_its_environment(client: Client) -> None:
    agent = client.agent.spawn(
        spec=chatter(
            task="--help me\n'$HOME'",
            model="m-1",
            context="the context",
            extra_args=["-x", "a b"],
            env={"WHO": "spec's own"},
        )
    )

    found = told(client, agent)

    assert found["argv"] == ["--model", "m-1", "-x", "a b", "--", "--help me\n'$HOME'"]
    assert found["stdin"] == ""
    assert found["AGENT_CONTEXT"] == len("the context")
    assert found["FROM_BACKEND"] == 1
    assert found["WHO"] == len("spec's own")
    shown = client.agent.get(id=agent.id)
    assert shown.spec.command == []
    assert (shown.spec.backend, shown.spec.task) == ("chatter", "--help me\n'$HOME'")
    assert shown.session_id == "session-1"
    assert shown.name.startswith("chatter-")


def test_a_task_of_more_than_an_argument_goes_by_stdin_which_can_be_read_twice(
    client: Client,
) -> None:
    task = "ä line\n" * 20_000

    found = told(client, client.agent.spawn(spec=chatter(task=task)))

    assert found["argv"] == []
    assert found["stdin"] == task
    assert found["same"]


def test_a_task_goes_by_a_file_where_the_backend_says_so(client: Client) -> None:
    agent = client.agent.spawn(spec=AgentSpec(backend="filed", task="-in the file"))

    assert client.agent.wait(id=agent.id).state == "completed"
    assert output(client, agent.id) == b"-in the file"


def test_a_conversation_goes_on_with_another_task(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(task="first"))
    told(client, agent)

    client.agent.respawn(id=agent.id, resume=True, task="-second")
    assert told(client, agent, 2)["argv"] == ["--resume=session-1", "--", "-second"]
    client.agent.respawn(id=agent.id, resume=True)
    assert told(client, agent, 3)["argv"] == ["--resume=session-1", "--", "-second"]
    client.agent.respawn(id=agent.id)
    assert told(client, agent, 4)["argv"] == ["--", "-second"]
    assert client.agent.get(id=agent.id).spec.task == "-second"


def test_a_conversation_goes_on_after_a_crash_of_the_server() -> None:
    with with_chatter() as server:
        with server.client() as client:
            agent = client.agent.spawn(spec=chatter(task="first"))
            told(client, agent)
        server.crash_and_restart()
        with server.client() as client:
            client.agent.respawn(id=agent.id, resume=True)
            assert told(client, agent, 2)["argv"][0] == "--resume=session-1"


def test_what_cannot_go_on_says_why(client: Client) -> None:
    command = client.agent.spawn(spec=spec("true"))
    client.agent.wait(id=command.id)
    with pytest.raises(ConflictError, match="runs no backend"):
        client.agent.respawn(id=command.id, resume=True)
    with pytest.raises(InvalidArgumentError, match="task: it can be given anew with resume"):
        client.agent.respawn(id=command.id, task="t")
    filed = client.agent.spawn(spec=AgentSpec(backend="filed", task="t"))
    client.agent.wait(id=filed.id)
    with pytest.raises(ConflictError, match="told of no conversation"):
        client.agent.respawn(id=filed.id, resume=True)
    assert client.agent.get(id=filed.id).attempt == 1


def test_a_program_that_is_not_there_is_an_error_that_says_what_to_do(client: Client) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        client.agent.spawn(spec=AgentSpec(backend="absent", task="t", name="nobody"))

    assert refused.value.message.startswith("backend 'absent': program 'no-such-program': not in")
    assert refused.value.hint == "name it in the configuration: backends.absent.path"
    assert client.agent.list().total == 0


def test_a_chat_is_spoken_to(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task="hello"))
    until_output(client, agent.id, b"heard hello")

    client.agent.say(id=agent.id, text='two\nlines "quoted"')

    lines = until_output(client, agent.id, b"quoted").splitlines()
    assert json.loads(lines[-1])["result"] == 'heard two\nlines "quoted"'
    client.agent.close_stdin(id=agent.id)
    assert client.agent.wait(id=agent.id).state == "completed"
    with pytest.raises(ConflictError):
        client.agent.say(id=agent.id, text="too late")


@pytest.mark.parametrize(
    ("decision", "message", "heard"),
    [
        ("allow", None, {"type": "answer", "id": "q-1", "input": {"command": "ls"}}),
        ("deny", "not now", {"type": "answer", "id": "q-1", "message": "not now"}),
    ],
)
def test_a_question_is_shown_and_answered_once(
    client: Client, decision: Any, message: str | None, heard: dict[str, Any]
) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task='ask {"command": "ls"}'))
    waiting = eventually(lambda: client.agent.get(id=agent.id).question)
    assert (waiting.tool, json.loads(waiting.input)) == ("Bash", {"command": "ls"})

    client.agent.answer(id=agent.id, decision=decision, message=message)

    assert str(heard).encode() in until_output(client, agent.id, b"told ")
    with pytest.raises(ConflictError, match="waits for no answer"):
        client.agent.answer(id=agent.id, decision="allow")


def test_an_answer_is_to_the_question_it_names_or_to_none(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task='ask {"command": "ls"}'))
    seen = eventually(lambda: client.agent.get(id=agent.id).question)
    # Another is quicker, and the agent has a next question.
    client.agent.answer(id=agent.id, decision="deny")
    client.agent.say(id=agent.id, text='ask {"command": "rm -r /"}')
    waiting = eventually(lambda: client.agent.get(id=agent.id).question)

    with pytest.raises(ConflictError) as refused:
        client.agent.answer(id=agent.id, decision="allow", question=seen.id)
    client.agent.answer(id=agent.id, decision="deny", question=waiting.id)

    assert (seen.id, waiting.id) == ("q-1", "q-2")
    assert refused.value.message == (
        f"agent '{agent.name}' does not wait with question 'q-1', but with 'q-2'"
    )
    until_output(client, agent.id, b"q-2', 'message'")
    assert b"'input': {'command': 'rm" not in until_output(client, agent.id, b"told ")


def test_of_several_questions_any_can_be_answered_and_none_twice(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task='ask {"n": 1}'))
    client.agent.say(id=agent.id, text='ask {"n": 2}')
    with client.event.follow(since=0) as events:
        mine = (event for event in events if event.agent_id == agent.id and event.data)
        asked = [event.data["id"] for event in islice(filter(_is_question, mine), 2)]
    assert asked == ["q-1", "q-2"]

    client.agent.answer(id=agent.id, decision="allow", question="q-2")
    with pytest.raises(ConflictError, match="'q-2', but with 'q-1'"):
        client.agent.answer(id=agent.id, decision="allow", question="q-2")
    client.agent.answer(id=agent.id, decision="allow")

    said = until_output(client, agent.id, b"'q-1', 'input'")
    assert said.index(b"'q-2', 'input': {'n': 2}") < said.index(b"'q-1', 'input': {'n': 1}")


def _is_question(event: Event) -> bool:
    return event.kind == "question"


def test_of_two_answers_at_once_one_is_refused(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task="ask {}"))
    eventually(lambda: client.agent.get(id=agent.id).question)

    answers = client.pipeline(
        (AGENT_ANSWER, AgentAnswer(id=agent.id, decision=each)) for each in ("allow", "deny")
    )

    assert [isinstance(each, ConflictError) for each in answers] == [False, True]


@pytest.mark.parametrize("given", ["1e999", '{"n": ' + "9" * 4000 + "}"])
def test_what_a_tool_is_to_be_used_for_is_handed_back_as_it_came(
    client: Client, given: str
) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task=f"ask {given}"))
    eventually(lambda: client.agent.get(id=agent.id).question)

    client.agent.answer(id=agent.id, decision="allow")

    until_output(client, agent.id, b"told ")


def test_an_answer_no_stdin_can_hold_says_so_and_leaves_the_other(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True, task='ask "LONG"'))
    eventually(lambda: client.agent.get(id=agent.id).question)

    with pytest.raises(ConflictError, match="the answer has 3000") as refused:
        client.agent.answer(id=agent.id, decision="allow")
    with pytest.raises(InvalidArgumentError, match="message: it says why not"):
        client.agent.answer(id=agent.id, decision="allow", message="go")
    client.agent.answer(id=agent.id, decision="deny")

    assert refused.value.hint == f"answer it with: descartesctl agent answer {agent.name} deny"
    until_output(client, agent.id, b"told ")


def test_a_chat_pauses_itself_and_goes_on_with_what_is_said_next(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True))

    paused = client.agent.pause(id=agent.id, mode="cooperative")
    again = client.agent.pause(id=agent.id, mode="cooperative")
    frozen = client.agent.pause(id=agent.id)
    resumed = client.agent.resume(id=agent.id)
    client.agent.pause(id=agent.id, mode="cooperative")
    client.agent.say(id=agent.id, text="go on")

    assert (paused.state, paused.pause_mode) == ("paused", "cooperative")
    assert again.pause_mode == "cooperative"
    assert frozen.state == "paused"
    assert frozen.pause_mode in ("tree", "cgroup")
    assert resumed.state == "running"
    assert client.agent.get(id=agent.id).state == "running"
    until_output(client, agent.id, b"heard go on")


def test_a_pause_of_its_own_survives_a_crash_of_the_server() -> None:
    with with_chatter() as server:
        with server.client() as client:
            agent = client.agent.spawn(spec=chatter(chat=True))
            client.agent.pause(id=agent.id, mode="cooperative")
        server.crash_and_restart()
        with server.client() as client:
            found = client.agent.get(id=agent.id)
            assert (found.state, found.pause_mode) == ("paused", "cooperative")
            client.agent.say(id=agent.id, text="go on")
            until_state(client, agent.id, "running")


def test_who_is_no_chat_says_so(client: Client) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))

    with pytest.raises(ConflictError, match="is no chat"):
        client.agent.say(id=agent.id, text="hello")
    with pytest.raises(ConflictError, match="is no chat"):
        client.agent.answer(id=agent.id, decision="deny")
    with pytest.raises(UnimplementedError, match="it runs a command") as refused:
        client.agent.pause(id=agent.id, mode="cooperative")
    assert refused.value.hint == "pause it without --cooperative (mode 'freeze')"


def test_who_has_ended_is_told_by_the_verb_that_was_asked_for(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True))
    client.agent.kill(id=agent.id)

    with pytest.raises(ConflictError, match="is terminated: say needs running"):
        client.agent.say(id=agent.id, text="hello")
    with pytest.raises(ConflictError, match="is terminated: answer needs running"):
        client.agent.answer(id=agent.id, decision="deny")


def test_a_line_is_taken_whole_or_not_at_all(client: Client) -> None:
    agent = client.agent.spawn(spec=chatter(chat=True))
    until_output(client, agent.id, b"init")
    client.agent.pause(id=agent.id)
    said = 0
    try:
        while said < 8:
            client.agent.say(id=agent.id, text="x" * 100_000)
            said += 1
    except WouldBlockError:
        assert said < 8
    client.agent.resume(id=agent.id)

    client.agent.say(id=agent.id, text="the end")

    until_output(client, agent.id, b"heard the end")
    assert output(client, agent.id).count(b"heard x") == said


def test_the_command_line_speaks_too(server: Server, client: Client) -> None:
    def ctl(*words: str) -> dict[str, Any]:
        done = server.ctl("--json", "agent", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    ctl("spawn", "--backend", "chatter", "--chat", "--task", "ask {}", "--name", "talker")
    eventually(lambda: client.agent.get(id="talker").question)
    shown = ctl("show", "talker")
    assert (shown["activity"], shown["question"]["id"]) == ("waiting", "q-1")
    other = server.ctl("--json", "agent", "answer", "talker", "allow", "--question", "q-0")
    assert (other.returncode, json.loads(other.stderr)["error"]["code"]) == (7, "conflict")
    answered = ctl("answer", "talker", "deny", "--question", "q-1", "--message", "no")
    assert answered["name"] == "talker"
    assert ctl("say", "talker", "well?")["state"] == "running"
    until_output(client, "talker", b"heard well?")
    assert ctl("pause", "--cooperative", "talker")["pause_mode"] == "cooperative"
    ctl("kill", "talker")
    ctl("respawn", "--resume", "--task", "again", "talker")
    until_output(client, "talker", b"heard again")
