"""Limits, use and users of agents, through the command line and a crash of the daemon."""

from __future__ import annotations

import json
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import InvalidArgumentError, PermissionDeniedError
from descartesd.keys.profile import Profile
from descartesd.wire.agent import AgentInfo, Limits
from tests.support.agents import SLEEP, left_empty, python, sh, spec, until_output
from tests.support.eventually import eventually
from tests.support.groups import agents_in, control_group, running_in
from tests.support.server import Server, running

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root starts agents as others")
BUSY = "while :; do :; done"
NOBODY = 65_534


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client() as client, left_empty(client):
        yield client


def show(server: Server, name: str) -> dict[str, Any]:
    """An agent as the command line tells it."""
    done = server.ctl("--json", "agent", "show", name)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def used(client: Client, agent_id: str, cpu_seconds: float) -> AgentInfo:
    """Wait until an agent is known to have used that much."""

    def found() -> AgentInfo | None:
        agent = client.agent.get(id=agent_id)
        return agent if agent.usage is not None and agent.usage.cpu_seconds > cpu_seconds else None

    agent = eventually(found, timeout=10)
    assert agent is not None
    return agent


def test_limits_are_given_shown_and_told_from_those_not_kept(
    shared_server: Server, client: Client
) -> None:
    words = ["--memory", "64M", "--cpu", "50%", "--tasks", "20", "--open-files", "99"]
    more = ["--run-time", "1h", "--output-bytes", "1M"]
    refused = shared_server.ctl("agent", "spawn", *words, *more, "--", *SLEEP)
    assert refused.returncode == 9
    assert b"this host cannot enforce it" in refused.stderr
    assert b"--best-effort" in refused.stderr
    assert client.agent.list().total == 0

    done = shared_server.ctl(
        "agent", "spawn", "--name", "kept", *words, *more, "--best-effort", "--", *SLEEP
    )

    assert done.returncode == 0, done.stderr
    agent = show(shared_server, "kept")
    limits = agent["spec"]["limits"]
    assert (limits["memory_bytes"], limits["cpu_percent"], limits["tasks"]) == (1 << 26, 50, 20)
    assert (limits["open_files"], limits["run_seconds"]) == (99, 3600)
    real = {"open_files", "run_seconds", "output_bytes"}
    assert {name for name, is_real in agent["limits_enforced"].items() if is_real} == real
    assert set(agent["limits_enforced"]) == real | {"memory_bytes", "cpu_percent", "tasks"}
    told = shared_server.ctl("agent", "show", "kept").stdout.decode()
    assert "cpu_percent=50 (not enforced)" in told
    assert "open_files=99 " in told


def test_time_runs_out_though_the_daemon_has_crashed() -> None:
    with running() as server:
        limits = Limits(run_seconds=1.0, open_files=99)
        with server.client() as client:
            short = client.agent.spawn(
                spec=sh("trap 'exit 7' TERM; sleep 300 & wait", limits=limits)
            )
            long = client.agent.spawn(spec=spec(*SLEEP, limits=Limits(run_seconds=600)))
        server.kill()
        # Nobody but the keeper watches the clock now.
        eventually(lambda: not os.path.exists(f"/proc/{short.pid}"))
        server.start()

        with server.client() as client:
            ended = client.agent.wait(id=short.id)
            assert ended.state == "terminated"
            assert ended.outcome is not None
            assert (ended.outcome.reason, ended.outcome.exit_code) == ("run_time_limit", 7)
            assert ended.limits_enforced == {"run_seconds": True, "open_files": True}
            assert client.agent.get(id=long.id).state == "running"


def test_use_of_running_agents_is_shown_and_of_ended_ones_not(
    shared_server: Server, client: Client
) -> None:
    held = "held = b'x' * 30_000_000\nwhile True: pass"
    busy = client.agent.spawn(spec=python(held, name="busy"))

    usage = used(client, busy.id, 0.2).usage

    assert usage is not None
    assert usage.memory_bytes > 30_000_000
    assert usage.tasks == 1
    assert "of processor, 1 task" in shared_server.ctl("agent", "show", "busy").stdout.decode()
    assert client.agent.kill(id=busy.id).usage is None


def test_agents_in_control_groups_keep_theirs_over_a_crash_of_the_daemon() -> None:
    with control_group() as group, running_in(group) as server:
        limits = Limits(open_files=99, memory_bytes=1 << 30, best_effort=True)
        with server.client() as client:
            agent = client.agent.spawn(spec=sh(f"setsid sh -c '{BUSY}' & {BUSY}", limits=limits))
            assert used(client, agent.id, 0.1).usage is not None
            assert client.agent.pause(id=agent.id).pause_mode == "cgroup"
        server.crash_and_restart()

        with server.client() as client:
            adopted = client.agent.get(id=agent.id)
            assert (adopted.state, adopted.pause_mode) == ("paused", "cgroup")
            assert adopted.limits_enforced["open_files"] is True
            # By the controllers this host has for groups.
            controllers = (group / "cgroup.subtree_control").read_text().split()
            assert adopted.limits_enforced["memory_bytes"] is ("memory" in controllers)
            client.agent.resume(id=agent.id)
            assert client.agent.kill(id=agent.id).outcome is not None
            assert agents_in(group) == []


@needs_root
def test_agent_runs_as_the_user_asked_for(shared_server: Server, client: Client) -> None:
    os.chmod(shared_server.root, 0o755)
    words = ["--user", "nobody", "--cwd", "/", "--env", "TMPDIR=/tmp", "--name", "other", "--wait"]
    script = "id -u; echo $HOME $USER $LOGNAME $SHELL; echo x > /dev/stderr"
    done = shared_server.ctl("agent", "spawn", *words, "--", "sh", "-c", script)

    assert done.returncode == 0, done.stderr
    nobody = pwd.getpwnam("nobody")
    lines = until_output(client, "other", b"nobody").decode().splitlines()
    assert lines[0] == str(nobody.pw_uid)
    assert lines[1] == f"{nobody.pw_dir} nobody nobody {nobody.pw_shell}"
    assert client.agent.output(id="other", stream="stderr").data == b"x\n"
    with pytest.raises(InvalidArgumentError, match="this host has no user 'no-such-user'"):
        client.agent.spawn(spec=spec(*SLEEP, user="no-such-user"))


@needs_root
def test_local_user_gets_agents_of_its_own_and_none_of_roots() -> None:
    with running() as server:
        server.stop()
        with server.config.open("a") as config:
            config.write(f'\n[policy.local_uids]\n{NOBODY} = "operator"\n')
        # Where a stranger may make its agents' private directories.
        server.environ["TMPDIR"] = "/tmp"
        os.chmod(server.root, 0o755)
        server.start()
        with server.client() as client:
            client.agent.spawn(spec=spec("true", name="roots"))
            client.agent.wait(id="roots")
        child = os.fork()
        if child == 0:
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                _be_a_local_user(server)
                os._exit(42)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 42
        with server.client() as client:
            agent = client.agent.get(id="mine")
            found = client.agent.output(id=agent.id).data.decode().split()
            assert found[0] == str(NOBODY)
            assert found[1] == f"/tmp/descartes-{agent.id}"
            private = Path(found[1]).stat()
            assert (private.st_uid, stat.S_IMODE(private.st_mode)) == (NOBODY, 0o700)
            client.agent.remove(id=agent.id)
            client.agent.remove(id="roots")
            assert not Path(found[1]).exists()


def _be_a_local_user(server: Server) -> None:
    socket = server.directory / "run" / "control.sock"
    script = 'id -u; echo "$TMPDIR"; touch "$TMPDIR/mine"'
    with Client(Profile(endpoints=(f"ipc://{socket}",))) as client:
        client.agent.spawn(spec=sh(script, name="mine", cwd="/"))
        assert client.agent.wait(id="mine").state == "completed"
        for refused in (
            lambda: client.agent.spawn(spec=spec("true", user="root", cwd="/")),
            lambda: client.agent.respawn(id="roots"),
        ):
            try:
                refused()
            except PermissionDeniedError:
                continue
            raise AssertionError("it was given another's account")
