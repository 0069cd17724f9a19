"""What agents say of themselves: shown while they run, exact over crashes, and acted on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import AgentInfo, Limits, Restart, Tty
from descartesd.wire.event import Event
from tests.support.agents import left_empty, python, sh, spec, until_output, until_state
from tests.support.eventually import eventually
from tests.support.fakes import fake
from tests.support.follower import Follower
from tests.support.server import Server

# Prints what it is told, line by line, as soon as the file it watches has it.
PLAYER = """
import os, sys, time
path, at = sys.argv[1], 0
while True:
    with open(path, "rb") as file:
        file.seek(at)
        data = file.read()
    at += len(data)
    if data.endswith(b"END\\n"):
        os.write(1, data[:-4])
        break
    os.write(1, data)
    time.sleep(0.005)
"""


class Player:
    """Has an agent print lines at the moment a test wants them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def spec(self, **fields: object) -> object:
        return python(PLAYER, str(self.path), events=True, **fields)

    def say(self, *lines: object, end: bytes = b"") -> None:
        with self.path.open("ab") as file:
            for line in lines:
                file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
            file.write(end)


INIT = {"type": "system", "subtype": "init", "session_id": "s1"}


def result(cost: float = 0.5, tokens: int = 10, *, is_error: bool = False) -> dict[str, object]:
    return {
        "usage": {"input_tokens": tokens},
        "total_cost_usd": cost,
        "is_error": is_error,
        "session_id": "s1",
        "type": "result",
    }


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    with shared_server.client() as client, left_empty(client):
        yield client


@pytest.fixture
def player(tmp_path: Path) -> Player:
    return Player(tmp_path / "lines")


def until(client: Client, agent_id: str, **wanted: object) -> AgentInfo:
    """Wait until an agent is shown with all of this."""
    shown: list[AgentInfo] = []

    def is_shown() -> bool:
        shown[:] = [client.agent.get(id=agent_id)]
        return all(getattr(shown[0], name) == value for name, value in wanted.items())

    try:
        eventually(is_shown)
    except AssertionError as exc:
        raise AssertionError(f"expected {wanted}, last shown {shown[0]}") from exc
    return shown[0]


# -- what is shown


@pytest.mark.parametrize(
    ("dialect", "tokens", "cost"),
    [
        ("claude", 40, 0.04),
        ("codex", 40, None),
        ("opencode", 41, 0.041),
        ("gemini", 40, None),
        ("pi", 40, 0.04),
        ("seed", None, None),
    ],
)
def test_each_dialect_is_told_apart_and_heard_to_its_end(
    client: Client, dialect: str, tokens: int | None, cost: float | None
) -> None:
    agent = client.agent.spawn(spec=fake(dialect, "[[garbage]] [[run: sleep 0.2]] [[spend: 40]]"))
    until(client, agent.id, activity="thinking" if dialect == "opencode" else "working")

    ended = client.agent.wait(id=agent.id)

    assert (ended.state, ended.activity) == ("completed", "unknown")
    assert (ended.tokens, ended.cost_usd) == (tokens, cost and pytest.approx(cost))
    assert (ended.session_id is None) == (dialect == "seed")
    assert ended.event_lines.ignored == 4
    assert ended.event_lines.read >= 4


def test_activity_is_shown_within_a_fifth_of_a_second(client: Client, player: Player) -> None:
    agent = client.agent.spawn(spec=player.spec())
    tool = {"type": "tool_use", "id": "t"}
    delays = []
    for activity, line in [
        ("thinking", INIT),
        ("working", {**INIT, "type": "assistant", "message": {"content": [tool]}}),
        ("idle", result()),
    ] * 4:
        player.say(line)
        began = time.monotonic()
        until(client, agent.id, activity=activity)
        delays.append(time.monotonic() - began)

    assert sorted(delays)[-2] < 0.2, delays


def test_changes_are_told_to_who_follows_and_a_flood_of_them_is_not(
    shared_server: Server, client: Client, player: Player
) -> None:
    since = client.server.hello().last_event
    with Follower(str(shared_server.admin), since=since) as follower:
        eventually(lambda: follower.connections == 1)
        agent = client.agent.spawn(spec=player.spec())

        def told(kind: str) -> list[Event]:
            return [e for e in follower.events if (e.kind, e.agent_id) == (kind, agent.id)]

        player.say({"type": "progress_update", "progress": 0.25})
        eventually(lambda: told("progress"))
        for number in range(2000):
            player.say({"type": "status_update", "status": ("idle", "running")[number % 2]})
        player.say({"type": "progress_update", "progress": 0.75})
        until(client, agent.id, progress=0.75)
        eventually(lambda: len(told("progress")) == 2)

    assert [e.data for e in told("progress")] == [{"progress": 0.25}, {"progress": 0.75}]
    assert 1 <= len(told("activity")) <= 5
    assert told("activity")[-1].data == {"activity": "working"}


def test_nobody_listens_to_an_agent_without_events(shared_server: Server, client: Client) -> None:
    assert shared_server.process is not None
    pid = shared_server.process.pid
    agent = client.agent.spawn(spec=sh('echo \'{"type":"system"}\'; exec sleep 60'))
    until_output(client, agent.id, b"system")

    assert _watches(pid) == 0
    shown = client.agent.get(id=agent.id)
    assert (shown.activity, shown.event_lines.ignored) == ("unknown", 0)

    heard = client.agent.spawn(spec=sh("echo; exec sleep 60", events=True))
    until_output(client, heard.id, b"\n")
    eventually(lambda: _watches(pid) > 0)
    client.agent.kill(id=heard.id)
    eventually(lambda: _watches(pid) == 0)


def _watches(pid: int) -> int:
    directory = f"/proc/{pid}/fdinfo"
    texts = [Path(directory, name).read_text() for name in os.listdir(directory)]
    return sum(text.count("inotify wd:") for text in texts)


def test_what_is_too_long_or_of_another_agent_is_passed_over(
    client: Client, player: Player
) -> None:
    agent = client.agent.spawn(spec=player.spec(limits=Limits(output_bytes=64 << 20)))
    big = {**INIT, "type": "assistant", "message": {"content": "x" * 400_000}}
    player.say(INIT, big, b'{"type":"result","is_error":false,"x":"' + b"y" * (9 << 20) + b'"}\n')
    player.say({"type": "lifecycle", "agent_id": "somebody", "event": "completed"}, end=b"END\n")

    ended = client.agent.wait(id=agent.id)

    lines = ended.event_lines
    assert (lines.read, lines.ignored, lines.foreign, lines.too_long) == (2, 0, 1, 1)
    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason) == ("failed", "no_result")


def test_title_of_a_terminal_is_shown(client: Client) -> None:
    agent = client.agent.spawn(spec=fake("codex", "", "--tui", tty=Tty(), events=False))
    until(client, agent.id, title="✳ codex")

    client.agent.write(id=agent.id, data=b"b")
    eventually(lambda: (client.agent.get(id=agent.id).title or "")[:1] in "⠋⠙⠹⠸")

    client.agent.write(id=agent.id, data=b"q")
    ended = client.agent.wait(id=agent.id)
    assert (ended.state, ended.activity) == ("completed", "unknown")


def test_first_run_dialog_of_a_terminal_takes_enter_for_no(client: Client) -> None:
    agent = client.agent.spawn(
        spec=fake("claude", "", "--tui", "--first-run", tty=Tty(), events=False)
    )
    until_output(client, agent.id, b"no, exit")

    client.agent.write(id=agent.id, data=b"\r")

    assert client.agent.wait(id=agent.id).state == "failed"


# -- how it ends


@pytest.mark.parametrize(
    ("dialect", "task", "state", "reason"),
    [
        ("claude", "[[exit: 0]]", "failed", "no_result"),
        ("claude", "[[http: 401]]", "failed", "exit"),
        ("claude", "[[exit: 3]]", "failed", "exit"),
        ("claude", "[[die: KILL]]", "failed", "signal"),
        ("gemini", "[[http: 401]]", "failed", "exit"),
        ("gemini", "[[exit: 0]]", "failed", "no_result"),
        ("seed", "[[exit: 0]]", "failed", "no_result"),
        ("codex", "[[detach: sleep 300]]", "completed", "exit"),
    ],
)
def test_exit_status_alone_is_not_believed(
    client: Client, dialect: str, task: str, state: str, reason: str
) -> None:
    agent = client.agent.spawn(spec=fake(dialect, task))

    ended = client.agent.wait(id=agent.id)

    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason) == (state, reason)


def test_command_that_speaks_no_dialect_ends_as_its_exit_status_says(client: Client) -> None:
    agent = client.agent.spawn(spec=sh("""echo '{"type":"x"}'; echo text""", events=True))

    assert client.agent.wait(id=agent.id).state == "completed"


@pytest.mark.parametrize(("dialect", "number"), [("claude", "INT"), ("gemini", "TERM")])
def test_exit_with_zero_after_a_signal_is_no_success(
    client: Client, dialect: str, number: str
) -> None:
    agent = client.agent.spawn(spec=fake(dialect, "[[hang]]"))
    until(client, agent.id, activity="thinking")

    client.agent.signal(id=agent.id, signal=number)

    ended = client.agent.wait(id=agent.id)
    assert ended.outcome is not None
    assert (ended.state, ended.outcome.reason, ended.outcome.exit_code) == (
        "failed",
        "no_result",
        0,
    )


def test_stopped_agent_is_terminated_whatever_it_said(client: Client) -> None:
    agent = client.agent.spawn(spec=fake("claude", "[[hang]]"))
    until(client, agent.id, activity="thinking")

    assert client.agent.stop(id=agent.id).state == "terminated"


def test_last_line_needs_no_newline(client: Client, player: Player) -> None:
    agent = client.agent.spawn(spec=player.spec())
    player.say(INIT, json.dumps(result()).encode(), end=b"END\n")

    ended = client.agent.wait(id=agent.id)

    assert (ended.state, ended.tokens) == ("completed", 10)


def test_verdict_behind_megabytes_is_waited_for(client: Client) -> None:
    script = """
import os
os.write(1, b'{"type":"system","subtype":"init","session_id":"s"}\\n')
for _ in range(8): os.write(1, (b"x" * 1000 + b"\\n") * 1000)
os.write(1, b'{"type":"result","session_id":"s","is_error":false}\\n')
"""
    agent = client.agent.spawn(spec=python(script, events=True))

    ended = client.agent.wait(id=agent.id)

    assert (ended.state, ended.event_lines.ignored) == ("completed", 8000)


# -- over attempts and crashes


def test_sums_go_on_over_attempts_and_the_rest_begins_anew(client: Client, player: Player) -> None:
    agent = client.agent.spawn(spec=player.spec())
    player.say(INIT, {"type": "progress_update", "progress": 0.5}, result(), end=b"END\n")
    client.agent.wait(id=agent.id)
    player.path.write_bytes(b"")

    again = client.agent.respawn(id=agent.id)
    assert (again.progress, again.tokens, again.session_id) == (None, 10, "s1")

    # The conversation goes on: its cost is told as a sum, its tokens are not.
    player.say(INIT, result(cost=0.75), end=b"END\n")
    ended = client.agent.wait(id=agent.id)
    assert (ended.state, ended.tokens, ended.cost_usd) == ("completed", 20, 0.75)


def test_attempt_without_a_result_is_started_again_by_its_policy(
    client: Client, tmp_path: Path
) -> None:
    lines = [json.dumps(line) for line in (INIT, result())]
    script = f"""echo '{lines[0]}'; [ -e seen ] && echo '{lines[1]}'; touch seen"""
    restart = Restart(policy="on-failure", delay_s=0.05)
    agent = client.agent.spawn(spec=sh(script, events=True, cwd=str(tmp_path), restart=restart))

    ended = until(client, agent.id, state="completed")

    assert (ended.attempt, ended.restarts, ended.tokens) == (2, 1, 10)
    assert ended.event_lines.read == 3


def test_crash_of_the_daemon_loses_and_doubles_nothing(server: Server, player: Player) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=player.spec())
        player.say(INIT, *[result(cost=n, tokens=1) for n in range(100)], b'{"type":"resu')
        until(client, agent.id, tokens=100, cost_usd=99)
    server.kill()
    # Said while nobody listens, from the middle of a line on.
    rest = json.dumps({**result(cost=100, tokens=1), "type": "result"})[1:]
    player.say(f'lt",{rest}\n'.encode(), *[result(cost=n, tokens=1) for n in range(101, 200)])
    server.start()

    with server.client() as client:
        shown = until(client, agent.id, tokens=200, cost_usd=199)
        assert (shown.event_lines.read, shown.event_lines.ignored) == (201, 0)
    server.crash_and_restart()
    with server.client() as client, left_empty(client):
        player.say(result(cost=200, tokens=1), end=b"END\n")
        ended = client.agent.wait(id=agent.id)
        assert (ended.state, ended.tokens, ended.cost_usd) == ("completed", 201, 200)


@pytest.mark.parametrize(
    ("is_error", "state", "reason"), [(False, "completed", "exit"), (True, "failed", "no_result")]
)
def test_end_without_a_daemon_is_judged_by_what_was_said(
    server: Server, player: Player, is_error: bool, state: str, reason: str
) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=player.spec())
        player.say(INIT)
        pid = until(client, agent.id, activity="thinking").pid
    server.kill()
    player.say(result(is_error=is_error), end=b"END\n")
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    server.start()

    with server.client() as client, left_empty(client):
        ended = client.agent.wait(id=agent.id)
        assert ended.outcome is not None
        assert (ended.state, ended.outcome.reason, ended.tokens) == (state, reason, 10)


# -- budgets


@pytest.mark.parametrize(
    ("limits", "which", "spent"),
    [
        (Limits(tokens=15), "tokens", 20),
        (Limits(cost_usd=0.7), "cost_usd", 0.75),
    ],
)
def test_agent_is_paused_once_when_its_budget_is_spent(
    client: Client, player: Player, limits: Limits, which: str, spent: float
) -> None:
    since = client.server.hello().last_event
    agent = client.agent.spawn(spec=player.spec(limits=limits))
    player.say(INIT, result())
    until(client, agent.id, tokens=10, state="running")
    player.say(INIT, result(cost=0.75))

    until(client, agent.id, state="paused", tokens=20)
    client.agent.resume(id=agent.id)
    player.say(INIT, result(cost=1.0), end=b"END\n")
    ended = client.agent.wait(id=agent.id)

    assert (ended.state, ended.tokens) == ("completed", 30)
    with client.event.follow(since=since) as stream:
        events = []
        for event in stream:
            events.append((event.kind, event.state, event.data))
            if event.kind == "completed":
                break
    told = [data for kind, _, data in events if kind == "budget_spent"]
    assert told == [{"which": which, "limit": getattr(limits, which), "spent": spent}]
    assert [state for _, state, _ in events].count("paused") == 1


def test_budget_needs_events_to_be_known(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match=r"spec\.limits\.tokens.*events"):
        client.agent.spawn(spec=spec("true", limits=Limits(tokens=5)))


# -- questions


def test_question_is_told_shown_and_gone_once_answered(client: Client) -> None:
    since = client.server.hello().last_event
    agent = client.agent.spawn(spec=fake("claude", "", "--chat", stdin="pipe"))
    message = {"role": "user", "content": "[[ask: Bash]] [[spend: 3]]"}
    _tell(client, agent.id, {"type": "user", "message": message})

    shown = until(client, agent.id, activity="waiting")
    assert shown.question is not None
    assert (shown.question.tool, json.loads(shown.question.input)) == (
        "Bash",
        {"command": "rm -rf build"},
    )
    with client.event.follow(since=since) as stream:
        event = next(event for event in stream if event.kind == "question")
    assert event.data == {
        "id": shown.question.id,
        "tool": "Bash",
        "input": shown.question.input,
    }

    response = {"request_id": shown.question.id, "response": {"behavior": "allow"}}
    _tell(client, agent.id, {"type": "control_response", "response": response})
    until(client, agent.id, activity="idle", question=None, tokens=3)
    _tell(client, agent.id, {"type": "user", "message": {"role": "user", "content": "again"}})
    until(client, agent.id, tokens=10)
    client.agent.close_stdin(id=agent.id)
    assert client.agent.wait(id=agent.id).state == "completed"


def test_question_outlives_a_crash_of_the_daemon(server: Server) -> None:
    with server.client() as client:
        agent = client.agent.spawn(spec=fake("claude", "", "--chat", stdin="pipe"))
        message = {"role": "user", "content": "[[ask: Bash]]"}
        _tell(client, agent.id, {"type": "user", "message": message})
        asked = until(client, agent.id, activity="waiting").question
    server.crash_and_restart()

    with server.client() as client, left_empty(client):
        shown = client.agent.get(id=agent.id)
        assert (shown.activity, shown.question) == ("waiting", asked)


def _tell(client: Client, agent_id: str, line: object) -> None:
    client.agent.write(id=agent_id, data=json.dumps(line).encode() + b"\n")


# -- what it may cost others


def test_flood_of_events_does_not_slow_others(shared_server: Server, client: Client) -> None:
    flood = "import os\nwhile True: os.write(1, b'{}\\n{\"type\":\\nx\\n' * 5000)"
    for _ in range(2):
        client.agent.spawn(spec=python(flood, events=True))
    eventually(lambda: all(a.event_lines.ignored > 10_000 for a in client.agent.list().agents))
    delays = []
    for _ in range(200):
        began = time.monotonic()
        client.server.hello()
        delays.append(time.monotonic() - began)

    assert sorted(delays)[190] < 0.05, sorted(delays)[-20:]


def test_tools_of_the_double_are_stopped_and_ended_with_it(client: Client, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    tick = f"while :; do echo >> {ticks}; sleep 0.02; done"
    agent = client.agent.spawn(spec=fake("gemini", f"[[detach: {tick}]] [[run: {tick}]]"))
    until(client, agent.id, activity="working")
    eventually(lambda: ticks.exists() and ticks.stat().st_size > 4)

    client.agent.pause(id=agent.id)
    before = ticks.stat().st_size
    until_state(client, agent.id, "paused")
    # Something else takes its time meanwhile.
    client.agent.wait(id=client.agent.spawn(spec=sh("sleep 0.2")).id)
    assert ticks.stat().st_size == before

    client.agent.kill(id=agent.id)
    after = ticks.stat().st_size
    client.agent.wait(id=client.agent.spawn(spec=sh("sleep 0.1")).id)
    assert ticks.stat().st_size == after
