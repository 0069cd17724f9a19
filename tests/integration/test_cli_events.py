"""Sessions with descartesctl: following what happens, and being told how an agent ended."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.server import BIN, Server


class Following:
    """A descartesctl that runs, and what it has printed so far."""

    def __init__(self, server: Server, directory: Path, *words: str | Path) -> None:
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [BIN / "descartesctl", "--profile", server.admin, *words],
                stdout=out,
                stderr=err,
                env=server.environ,
            )

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def notes(self) -> list[str]:
        return self._err.read_text().splitlines()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=10)


@contextmanager
def following(server: Server, directory: Path, *words: str | Path) -> Iterator[Following]:
    made = Following(server, directory, *words)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def of(lines: list[str], name: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["name"] == name]


def test_every_event_is_one_line_of_json_with_every_key(server: Server, tmp_path: Path) -> None:
    server.ctl("agent", "spawn", "--wait", "--name", "a", "--", "sh", "-c", "exit 3")

    with following(server, tmp_path, "--json", "event", "follow", "--since", "0") as follower:
        eventually(lambda: of(follower.lines, "a")[-1:] and of(follower.lines, "a")[-1]["outcome"])
        ended = of(follower.lines, "a")[-1]
        seqs = [json.loads(line)["seq"] for line in follower.lines]

        assert follower.interrupt() == 130

    assert (ended["kind"], ended["state"], ended["previous"]) == ("error", "failed", "running")
    assert ended["outcome"]["exit_code"] == 3
    assert set(ended) == {
        "seq", "time", "kind", "agent_id", "name", "state", "previous", "attempt", "outcome",
        "message", "data", "owner",
    }  # fmt: skip
    assert seqs == list(range(1, len(seqs) + 1))
    assert follower.notes == []


def test_since_is_exclusive_and_quiet_prints_numbers(server: Server) -> None:
    server.ctl("agent", "spawn", "--wait", "--", "true")

    done = server.ctl("--quiet", "event", "follow", "--since", "1", "--timeout", "1")
    ahead = server.ctl("event", "follow", "--since", "999999")

    assert done.stdout.split()[:2] == [b"2", b"3"]
    assert done.returncode == 6
    assert ahead.returncode == 2
    assert b"hint: " in ahead.stderr


def test_follower_goes_on_over_a_crash_of_the_server_and_tells(
    server: Server, tmp_path: Path
) -> None:
    with following(server, tmp_path, "event", "follow", "--since", "0") as follower:
        eventually(lambda: follower.lines)
        server.crash_and_restart()
        server.ctl("agent", "spawn", "--name", "after", "--", "sleep", "60")
        eventually(lambda: any(" after " in line for line in follower.lines), timeout=20)

        assert follower.interrupt() == 130

    kinds = [line.split()[1] for line in follower.lines]
    assert kinds.count("server_started") == 2
    assert follower.notes == [
        f"the connection to '{server.endpoint}' was lost; waiting for it",
        f"connected to '{server.endpoint}' again",
    ]


def test_followed_spawn_tells_of_a_lost_connection_too(server: Server, tmp_path: Path) -> None:
    script = "echo up; until [ -e done ]; do sleep 0.1; done; echo down"
    words = ("agent", "spawn", "--follow", "--cwd", tmp_path, "--", "sh", "-c", script)
    with following(server, tmp_path, *words) as follower:
        eventually(lambda: follower.lines == ["up"])
        server.crash_and_restart()
        eventually(lambda: len(follower.notes) == 2, timeout=20)
        (tmp_path / "done").touch()

        assert follower.process.wait(timeout=10) == 0

    assert follower.lines == ["up", "down"]
    assert follower.notes[:2] == [
        f"the connection to '{server.endpoint}' was lost; waiting for it",
        f"connected to '{server.endpoint}' again",
    ]


def test_followers_that_reach_their_time_out_say_so(server: Server) -> None:
    program = ("sh", "-c", "echo up; sleep 60")

    spawned = server.ctl(
        "agent", "spawn", "--name", "a", "--follow", "--timeout", "1", "--", *program
    )
    logs = server.ctl("agent", "logs", "-f", "--timeout", "1", "a")
    events = server.ctl("event", "follow", "--since", "0", "--timeout", "1")
    waited = server.ctl("agent", "wait", "--timeout", "1", "a")

    assert (spawned.stdout, logs.stdout) == (b"up\n", b"up\n")
    assert b"error: agent 'a' had not ended within 1 s\n" in spawned.stderr
    assert b"error: 'agent.follow' was ended after 1 s, as asked\n" in logs.stderr
    assert b"error: 'event.follow' was ended after 1 s, as asked\n" in events.stderr
    assert b"error: no answer to 'agent.wait' within 1 s\n" in waited.stderr
    assert b"may still happen" not in logs.stderr + events.stderr + waited.stderr
    assert {done.returncode for done in (spawned, logs, events, waited)} == {6}


def test_followed_spawn_tells_at_the_end_how_it_ended(server: Server) -> None:
    words = ("agent", "spawn", "--follow", "--name", "a", "--replace", "--")

    good = server.ctl(*words, "echo", "hi")
    bad = server.ctl(*words, "sh", "-c", "echo hi; exit 3")
    killed = server.ctl(*words, "sh", "-c", "kill -9 $$")
    as_json = server.ctl("--json", *words, "echo", "hi")

    assert (good.stdout, good.stderr, good.returncode) == (b"hi\n", b"a: completed, exit 0\n", 0)
    assert (bad.stdout, bad.stderr, bad.returncode) == (b"hi\n", b"a: failed, exit 3\n", 1)
    assert (killed.stderr, killed.returncode) == (b"a: failed, KILL\n", 1)
    assert (json.loads(as_json.stdout.splitlines()[0])["data"], as_json.stderr) == ("hi\n", b"")


def test_followed_agent_that_is_lost_with_its_keeper_is_told(
    server: Server, tmp_path: Path
) -> None:
    words = ("agent", "spawn", "--follow", "--name", "a", "--", "sh", "-c", "echo up; sleep 60")
    with following(server, tmp_path, *words) as follower:
        eventually(lambda: follower.lines == ["up"])
        keeper = server.keeper_pid
        assert keeper is not None
        subprocess.run(["kill", "-KILL", str(keeper)], check=True)

        assert follower.process.wait(timeout=20) == 1

    assert follower.notes == ["a: lost, keeper_lost"]


def test_interrupted_spawn_says_that_the_agent_goes_on(server: Server, tmp_path: Path) -> None:
    words = ("agent", "spawn", "--name", "a", "--follow", "--", "sh", "-c", "echo up; sleep 60")
    with following(server, tmp_path, *words) as follower:
        eventually(lambda: follower.lines == ["up"])

        assert follower.interrupt() == 130

    agent = json.loads(server.ctl("--json", "agent", "show", "a").stdout)
    assert agent["state"] == "running"
    assert follower.notes == [f"a goes on; see it with: descartesctl agent show {agent['id']}"]
