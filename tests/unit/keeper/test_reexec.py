"""A keeper that turns into the program installed now: agents, output and statuses go on."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from descartesd.errors import (
    ConflictError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
    UnimplementedError,
)
from descartesd.keeper import handover
from descartesd.keeper.agent import Agent
from descartesd.keeper.index import TimeIndex
from descartesd.keeper.loop import boottime
from descartesd.keeper.output import Stream
from descartesd.keeper.stdin import Stdin, Writers
from tests.support.eventually import eventually
from tests.support.hangingfs import hanging
from tests.unit.keeper.harness import PYTHON, Keeper, alive, spawn_request, state
from tests.unit.keeper.test_users import AS_A_SERVICE, OTHER, needs_root

SIZE = {"rows": 31, "cols": 101}
# What a keeper runs that was told to do something first, in whichever life `when` is true.
BEFORE = """
import os, signal, sys, time
fresh = "DESCARTES_KEEPER_STATE" not in os.environ
checking = "--check-state" in sys.argv
taking_over = not (fresh or checking)
{first}
from descartesd.keeper import main
{then}
main.main()
"""
# Numbered lines on both streams until its stdin ends.
TALKER = """
import os, select
number = 0
while not select.select([0], [], [], 0.002)[0]:
    os.write(1, b"line %07d\\n" % number)
    os.write(2, b"error %07d\\n" % number)
    number += 1
os.write(1, b"last %07d\\n" % number)
raise SystemExit(7)
"""
# Reads nothing until the gate is there, then says what it was given.
LATE_READER = """
import hashlib, os, sys, time
while not os.path.exists({gate!r}):
    time.sleep(0.01)
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), flush=True)
"""


def before(first: str = "", then: str = "") -> tuple[str, str]:
    """A program as the keeper's that does something before it is one."""
    return "-c", BEFORE.format(first=first, then=then)


def told(keeper: Keeper, agent_id: str) -> dict[str, object]:
    status = keeper.status(agent_id)
    assert status is not None
    return status


def lasting(status: dict[str, object]) -> dict[str, object]:
    """What of a status does not change while the agent goes on."""
    return {key: value for key, value in status.items() if key != "totals"}


def test_it_is_the_same_process_and_serves_the_same_daemon(keeper: Keeper) -> None:
    first = keeper.ask("hello", version="1.3")

    second = keeper.ask("reexec")

    assert second == {**first, "reexecutions": first["reexecutions"] + 1}
    assert second == keeper.ask("hello", version="1.3")
    assert second["pid"] == keeper.process.pid


def test_ten_times_in_a_row_nothing_is_lost_or_doubled(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    talkers = [keeper.spawn(*PYTHON, TALKER, stdin="pipe") for _ in range(19)]
    screen = keeper.spawn("sh", "-c", "stty -echo; echo ready; cat", tty=SIZE)
    agents = [*talkers, screen]
    facts = {agent_id: lasting(told(keeper, agent_id)) for agent_id in agents}
    keeper.ask("reexec")
    keeper.wait_out(screen, b"ready")
    for agent_id in talkers:
        eventually(partial(keeper.out, agent_id, "stderr"))
    opened = keeper.descriptors()

    for number in range(9):
        at_once = keeper.client.begin("reexec")
        # Taken by the program before or after, never by both.
        dying = keeper.client.begin("spawn", **spawn_request("sh", "-c", f"exit {number}"))
        keeper.client.end(at_once)
        assert keeper.client.end(dying)["pid"] > 0
        keeper.ask("write", agent_id=screen, data=b"%d\n" % number, writer="w", offset=2 * number)

    assert keeper.ask("hello", version="1.3")["reexecutions"] == 10
    assert {each: lasting(told(keeper, each)) for each in agents} == facts
    eventually(lambda: keeper.descriptors() <= opened)
    ends = [event for event in keeper.client.events if event["event"] == "exited"]
    assert [event["agent"]["exit_code"] for event in ends] == list(range(9))
    for agent_id in talkers:
        keeper.ask("close_stdin", agent_id=agent_id)
    for agent_id in talkers:
        assert keeper.eof(agent_id)["exit_code"] == 7
        *lines, last = keeper.out(agent_id).split(b"\n")[:-1]
        count = int(last.split()[1])
        assert count > 20
        assert lines == [b"line %07d" % each for each in range(count)]
        errors = keeper.out(agent_id, "stderr").split(b"\n")[:-1]
        assert errors == [b"error %07d" % each for each in range(count)]
    assert keeper.wait_out(screen, b"8\r\n").split()[1:] == [b"%d" % each for each in range(9)]


def test_agent_that_dies_meanwhile_has_its_true_status(make_keeper: Callable[..., Keeper]) -> None:
    wait = "os.kill(int(open('/tmp/victim-%d' % os.getpid()).read()), signal.SIGUSR1)"
    # Before anything of the keeper is loaded; until its end it is asked for, not reaped.
    dead = "os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)"
    keeper = make_keeper(program=before(f"if taking_over:\n    {wait}\n    {dead}"))
    path = Path(f"/tmp/victim-{keeper.process.pid}")
    agent_id = keeper.spawn(
        "sh", "-c", "trap 'echo dying; exit 5' USR1; while :; do sleep 0.05; done"
    )
    path.write_text(str(told(keeper, agent_id)["pid"]))
    try:
        keeper.ask("reexec")
    finally:
        path.unlink()

    assert keeper.exited(agent_id)["exit_code"] == 5
    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"dying\n"


def test_signal_that_comes_meanwhile_ends_everything_in_order(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper(
        program=before("if taking_over: os.kill(os.getpid(), signal.SIGTERM)"),
    )
    agent_id = keeper.spawn(
        "sh", "-c", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done"
    )

    keeper.client.begin("reexec")

    assert keeper.wait() == 0
    assert keeper.out(agent_id) == b"bye\n"


def test_input_that_was_taken_is_delivered_once(keeper: Keeper, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    reader = LATE_READER.format(gate=str(gate))
    agent_id = keeper.spawn(*PYTHON, reader, stdin="pipe")
    data = os.urandom(200_000)
    for start in range(0, len(data), 50_000):
        chunk = data[start : start + 50_000]
        keeper.ask("write", agent_id=agent_id, data=chunk, writer="one_fd", offset=start)
    keeper.ask("close_stdin", agent_id=agent_id)

    keeper.ask("reexec")

    assert told(keeper, agent_id)["stdin_open"] is False
    with pytest.raises(ConflictError, match="stdin is closed"):
        keeper.ask("write", agent_id=agent_id, data=b"more")
    gate.touch()
    assert keeper.exited(agent_id)["exit_code"] == 0
    keeper.eof(agent_id)
    assert keeper.out(agent_id).split() == [hashlib.sha256(data).hexdigest().encode()]


def test_writer_is_known_by_what_it_has_sent(keeper: Keeper) -> None:
    agent_id = keeper.spawn("cat", stdin="pipe")
    keeper.ask("write", agent_id=agent_id, data=b"first\n", writer="w", offset=0)

    keeper.ask("reexec")

    again = keeper.ask("write", agent_id=agent_id, data=b"first\nsecond\n", writer="w", offset=0)
    assert again == {"accepted": 13, "offset": 13}
    with pytest.raises(ConflictError, match="leaves a hole"):
        keeper.ask("write", agent_id=agent_id, data=b"x", writer="w", offset=14)
    keeper.ask("close_stdin", agent_id=agent_id)
    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"first\nsecond\n"


def test_terminal_keeps_its_size_and_can_get_another(keeper: Keeper) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do read x && echo got $x; done"
    agent_id = keeper.spawn("sh", "-c", script, tty=SIZE)
    keeper.wait_out(agent_id, b"31 101\r\n")

    keeper.ask("reexec")
    keeper.ask("write", agent_id=agent_id, data=b"one\n")
    keeper.wait_out(agent_id, b"got one\r\n")
    keeper.ask("resize", agent_id=agent_id, rows=20, cols=60)
    keeper.ask("write", agent_id=agent_id, data=b"two\n")

    keeper.wait_out(agent_id, b"20 60\r\n")
    assert b"hung up" not in keeper.out(agent_id)


def test_what_was_paused_stays_so_and_what_was_to_end_ends(keeper: Keeper) -> None:
    paused = keeper.spawn("sleep", "300")
    keeper.ask("pause", agent_id=paused)
    deaf = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    stopped, limited, fenced = (
        keeper.spawn(*deaf, **fields)
        for fields in (
            {},
            {"limits": {"run_seconds": 0.5}, "stop": {"signal": 9, "grace_s": 0.1}},
            {},
        )
    )
    for agent_id in (stopped, limited, fenced):
        keeper.wait_out(agent_id, b"ready")
    keeper.ask("stop", agent_id=stopped, grace_s=1.0)
    keeper.ask("fence", agent_id=fenced, deadline=boottime() + 1.0)

    keeper.ask("reexec")

    assert told(keeper, paused)["state"] == "paused"
    assert keeper.exited(stopped)["ended_by"] == "stop"
    assert keeper.exited(limited)["ended_by"] == "run_time"
    assert keeper.exited(fenced)["ended_by"] == "fence"
    pid = told(keeper, paused)["pid"]
    assert isinstance(pid, int)
    assert state(pid) == "T"
    keeper.ask("resume", agent_id=paused)
    assert state(pid) in "SR"


def test_what_an_agent_has_left_is_still_its_own(keeper: Keeper) -> None:
    script = "setsid sh -c 'echo $$; exec sleep 300' & wait $!; sleep 300"
    agent_id = keeper.spawn("sh", "-c", script)
    left = int(keeper.wait_out(agent_id, b"\n"))

    keeper.ask("reexec")
    keeper.ask("signal", agent_id=agent_id, signal=signal.SIGWINCH)
    keeper.ask("kill", agent_id=agent_id)

    assert keeper.exited(agent_id)["signal"] == signal.SIGKILL
    eventually(lambda: not alive(left))


@pytest.mark.parametrize("is_late", [False, True])
def test_what_was_left_is_ended_by_the_next_program_and_counted_once(
    make_keeper: Callable[..., Keeper], *, is_late: bool
) -> None:
    # Too late, or never before the next program, however long that takes to begin.
    limit_s = 1.0 if is_late else 3600.0
    powerless = (
        "from descartesd.keeper import tree, wait\n"
        f"if fresh: tree.Tree.signal, wait.COUNT_LIMIT_S = lambda *_: False, {limit_s}"
    )
    keeper = make_keeper(program=before(then=powerless))
    agent_id = keeper.spawn("sh", "-c", "setsid sh -c 'echo $$; exec sleep 300' & read x")
    left = int(keeper.wait_out(agent_id, b"\n"))
    if is_late:
        # Told without waiting any longer for the end of what was left.
        assert keeper.exited(agent_id)["leftovers"] == 1
    eventually(lambda: not keeper.children() or keeper.children() == [left])

    keeper.ask("reexec")

    assert keeper.exited(agent_id)["leftovers"] == 1
    eventually(lambda: not alive(left))
    assert told(keeper, agent_id)["leftovers"] == 1
    assert keeper.run("true")["exit_code"] == 0
    assert [event for event in keeper.client.events if event["event"] == "exited"] == []


def test_output_that_waits_for_room_is_written_afterwards(keeper: Keeper) -> None:
    request = spawn_request("sh", "-c", "echo one; read x; echo two", stdin="pipe")
    obstacle = Path(keeper.output) / f"{request['agent_id']}.stdout"
    obstacle.mkdir()
    keeper.spawned.append(request["agent_id"])
    keeper.ask("spawn", **request)
    eventually(lambda: told(keeper, request["agent_id"])["output_error"])

    keeper.ask("reexec")

    assert told(keeper, request["agent_id"])["output_error"]
    obstacle.rmdir()
    keeper.ask("close_stdin", agent_id=request["agent_id"])
    keeper.eof(request["agent_id"])
    assert keeper.out(request["agent_id"]) == b"one\ntwo\n"


def test_facts_and_answers_nobody_has_read_come_once(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    requests = [spawn_request("true") for _ in range(120)]
    asked = [keeper.client.begin("spawn", **request) for request in requests]
    # Each names every agent, so that the answers fill the socket, and more.
    asked += [keeper.client.begin("list") for _ in range(40)]
    asked.append(keeper.client.begin("reexec"))
    asked += [keeper.client.begin("list", limit=1) for _ in range(3)]

    for request_id in asked:
        keeper.client.end(request_id)

    assert keeper.client.replies == {}
    ends = [keeper.eof(request["agent_id"]) for request in requests]
    assert {status["exit_code"] for status in ends} == {0}
    again = [event for event in keeper.client.events if event["event"] == "eof"]
    assert again == []


def test_next_attempt_of_an_ended_agent_goes_on_with_its_output(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "echo first; exit 1")
    keeper.eof(agent_id)

    keeper.ask("reexec")
    keeper.ask("spawn", **spawn_request("echo", "second", agent_id=agent_id, attempt=2))

    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"first\nsecond\n"
    with pytest.raises(ConflictError, match="attempt 1 is over"):
        keeper.ask("spawn", **spawn_request("true", agent_id=agent_id, attempt=1))


@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        ("if checking: sys.exit('out of order')", "", "out of order"),
        ("if checking: os.kill(os.getpid(), 9)", "", "it ended with status -9"),
        (
            "",
            "if checking: main.handover.FORMAT = 0",
            "the state of the keeper is of format 1: this one reads 0",
        ),
        (
            "",
            "if checking: main.handover.PLAIN += ('colour',)",
            "cannot go on from the state of the keeper before: KeyError: 'colour'",
        ),
    ],
)
def test_program_that_cannot_take_over_never_gets_to(
    make_keeper: Callable[..., Keeper], first: str, then: str, why: str
) -> None:
    keeper = make_keeper(program=before(first, then))
    agent_id = keeper.spawn("cat", stdin="pipe")

    with pytest.raises(UnimplementedError, match=f"cannot take over .*: .*{why}") as refused:
        keeper.ask("reexec")

    assert refused.value.hint is not None
    assert keeper.ask("hello", version="1.3")["reexecutions"] == 0
    keeper.ask("write", agent_id=agent_id, data=b"on\n")
    keeper.ask("close_stdin", agent_id=agent_id)
    assert keeper.exited(agent_id)["exit_code"] == 0
    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"on\n"


@pytest.fixture
def told_by() -> Iterator[socket.socket]:
    """Where a keeper tells systemd how it is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(f"\0kpr-{os.getpid()}")
        yield made


def test_execve_that_fails_changes_nothing(
    make_keeper: Callable[..., Keeper], told_by: socket.socket
) -> None:
    fail = (
        "def fail(*_):\n    os.execve = execve\n    raise OSError(12, 'no memory')\n"
        "execve, os.execve = os.execve, fail\n"
    )
    keeper = make_keeper(program=before(then=fail), env={"NOTIFY_SOCKET": f"@kpr-{os.getpid()}"})
    agent_id = keeper.spawn("cat", stdin="pipe")

    with pytest.raises(InternalError, match="no memory"):
        keeper.ask("reexec")

    assert keeper.ask("hello", version="1.3")["reexecutions"] == 0
    # By exec: a shell that forks blocks signals itself.
    look = "ls /proc/$$/fd; exec grep -E 'SigBlk|CapAmb' /proc/self/status"
    child = keeper.run("sh", "-c", look)
    words = keeper.out(child["agent_id"]).split()
    assert words[:3] == [b"0", b"1", b"2"]
    assert {int(each, 16) for each in words[4::2]} == {0}
    assert keeper.ask("reexec")["reexecutions"] == 1
    keeper.ask("kill", agent_id=agent_id)
    keeper.exited(agent_id)
    heard = []
    while select.select([told_by], [], [], 0)[0]:
        heard.append(told_by.recv(4096).partition(b"=")[0])
    assert heard == [b"READY", b"RELOADING", b"READY", b"RELOADING", b"READY"]


def test_what_takes_too_long_is_not_waited_for(
    make_keeper: Callable[..., Keeper], tmp_path: Path
) -> None:
    quick = "from descartesd.keeper import reexec; reexec.QUIET_LIMIT_S = 0.1"
    keeper = make_keeper(program=before(then=quick))
    with hanging(tmp_path / "hung") as hung:
        waits = keeper.client.begin("spawn", **spawn_request("true", cwd=str(hung.path)))
        with pytest.raises(UnavailableError, match=r"not ended within 0\.1 s"):
            keeper.ask("reexec")
        assert keeper.run("true")["exit_code"] == 0
        hung.die()
        with pytest.raises(InvalidArgumentError):
            keeper.client.end(waits)

    assert keeper.ask("reexec")["reexecutions"] == 1


def test_one_at_a_time(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    first, second = keeper.client.begin("reexec"), keeper.client.begin("reexec")

    with pytest.raises(ConflictError, match="already"):
        keeper.client.end(second)
    assert keeper.client.end(first)["reexecutions"] == 1


def test_daemon_that_leaves_or_comes_meanwhile_is_no_matter(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    agent_id = keeper.spawn("cat", stdin="pipe")
    keeper.client.begin("reexec")
    keeper.client.close()

    keeper.client = keeper.connect()

    eventually(lambda: keeper.ask("hello", version="1.3")["reexecutions"] == 1, timeout=20)
    assert told(keeper, agent_id)["state"] == "running"


@needs_root
def test_capabilities_of_a_service_are_kept_and_no_agent_has_one(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper(wrapper=AS_A_SERVICE)

    keeper.ask("reexec")

    assert "users" in keeper.ask("hello", version="1.3")["features"]
    show = ("sh", "-c", "id -u; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status")
    for fields in ({}, {"user": OTHER}):
        status = keeper.run(*show, **fields)
        uid, *sets = keeper.out(status["agent_id"]).decode().splitlines()
        assert int(uid) in (OTHER["uid"], OTHER["uid"] - 1)  # type: ignore[operator]
        assert {int(line.split()[1], 16) for line in sets} == {0}


def test_agents_inherit_what_they_did_before(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper("--open-files", "512")
    show = "ulimit -n; umask; pwd; cat /proc/$$/status | grep -E 'Sig(Blk|Ign)'; ls /proc/$$/fd"
    first = keeper.run("sh", "-c", show)

    keeper.ask("reexec")

    second = keeper.run("sh", "-c", show)
    assert keeper.out(second["agent_id"]) == keeper.out(first["agent_id"])
    assert keeper.out(second["agent_id"]).startswith(b"512\n0022\n/\n")
    environ = Path(f"/proc/{keeper.process.pid}/environ").read_bytes()
    assert environ.count(handover.VARIABLE.encode()) == 1


def test_nothing_an_agent_is_made_of_is_forgotten() -> None:
    derived = {
        # The timers, by when they are due; the task begins anew; the rest under other names.
        *(f"{name}_timer" for name in (*handover.TIMERS, "fence")), "task", "on_swept",
        "pidfd", "group", "met", "signalled", "stdin", "stdout", "stderr", "terminal", "writers",
    }  # fmt: skip

    assert {*handover.PLAIN, *derived} == set(Agent.__slots__)
    assert set(Stream.__slots__) == {
        "_file", "_held", "_index", "_is_overdue", "_limit", "_on_end", "_path", "_pipe", "_pump",
        "_punched", "_window", "error", "total",
    }  # fmt: skip
    assert set(TimeIndex.__slots__) == {
        "_count", "_fd", "_last_offset", "_last_time", "_path", "head",
    }  # fmt: skip
    assert set(Stdin.__slots__) == {"_buffer", "_fd", "_is_ending", "_loop", "_terminal"}
    assert set(Writers.__slots__) == {"_offsets"}
