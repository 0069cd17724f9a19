"""Every built-in backend drives the program it is made for."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.wire.agent import AgentSpec, Tty
from tests.agents.conftest import installed
from tests.agents.homes import HOMES
from tests.fakes.model_api import model_api
from tests.support.agents import carrying, output, until_output
from tests.support.eventually import eventually
from tests.support.server import Server

pytestmark = [pytest.mark.real_agents, pytest.mark.timeout(180)]

TICK = Path(__file__).with_name("tick.py")
PATIENCE_S = 60.0


@pytest.fixture
def api() -> Iterator[str]:
    with model_api() as address:
        yield address


def serving(name: str, program: Path) -> Server:
    server = Server()
    # node is looked up in PATH by those that are scripts.
    text = f'[backends.{name}]\npath = "{program}"\n'
    with server.config.open("a") as file:
        file.write(text)
    server.start()
    return server


def fields(name: str, home: Path, api: str) -> dict[str, Any]:
    home.mkdir()
    return {"backend": name, "cwd": str(home), **HOMES[name](home, api)}


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def still(*paths: Path) -> bool:
    before = [size(path) for path in paths]
    time.sleep(1.0)  # what is shown is that nothing happens in it
    return before == [size(path) for path in paths]


def until_idle(client: Client, agent_id: str) -> None:
    """Wait until its turn is over; what is said before may be taken into that turn."""
    eventually(lambda: client.agent.get(id=agent_id).activity == "idle", timeout=PATIENCE_S)


def test_a_running_tool_is_paused_resumed_and_killed_with_all_it_started(
    program: tuple[str, Path], api: str, tmp_path: Path
) -> None:
    name, path = program
    ticks = tmp_path / "ticks"
    of_daemon = tmp_path / "ticks.daemon"
    task = f"[[run: {sys.executable} -I -S {TICK} {ticks}]]"
    with serving(name, path) as server, server.client() as client:
        agent = client.agent.spawn(
            spec=AgentSpec(task=task, **fields(name, tmp_path / "home", api))
        )
        try:
            eventually(lambda: size(ticks) > 2 and size(of_daemon) > 2, timeout=PATIENCE_S)
        except AssertionError:
            print(output(client, agent.id), output(client, agent.id, "stderr"))
            raise

        client.agent.pause(id=agent.id)
        assert still(ticks, of_daemon)
        before = size(ticks), size(of_daemon)
        client.agent.resume(id=agent.id)
        eventually(lambda: size(ticks) > before[0] and size(of_daemon) > before[1])
        assert client.agent.get(id=agent.id).activity in ("working", "thinking")
        ended = client.agent.kill(id=agent.id)

        assert ended.state == "terminated"
        assert carrying("DESCARTES_AGENT_ID", agent.id) == []
        assert still(ticks, of_daemon)


def test_a_conversation_goes_on_after_its_end(
    program: tuple[str, Path], api: str, tmp_path: Path
) -> None:
    name, path = program
    with serving(name, path) as server, server.client() as client:
        agent = client.agent.spawn(
            spec=AgentSpec(task="--help", **fields(name, tmp_path / "home", api))
        )
        first = client.agent.wait(id=agent.id, deadline_s=PATIENCE_S)
        written = output(client, agent.id)
        assert first.state == "completed", (first, written, output(client, agent.id, "stderr"))
        assert b"heard 1" in written or b"heard 2" in written
        assert first.session_id

        client.agent.respawn(id=agent.id, resume=True, task="-p and what else?")
        second = client.agent.wait(id=agent.id, deadline_s=PATIENCE_S)

        later = output(client, agent.id)[len(written) :]
        assert second.state == "completed", (second, later, output(client, agent.id, "stderr"))
        assert b"heard 2" in later or b"heard 3" in later
        assert second.session_id == first.session_id
        assert second.tokens


def test_a_long_task_goes_by_stdin(program: tuple[str, Path], api: str, tmp_path: Path) -> None:
    name, path = program
    with serving(name, path) as server, server.client() as client:
        task = " ".join(map(str, range(30_000)))
        agent = client.agent.spawn(
            spec=AgentSpec(task=task, **fields(name, tmp_path / "home", api))
        )
        ended = client.agent.wait(id=agent.id, deadline_s=PATIENCE_S)

        written = output(client, agent.id)
        assert ended.state == "completed", (written[-2000:], ended.outcome)
        assert b"heard" in written


def test_claude_is_spoken_to_interrupted_and_asked(api: str, tmp_path: Path) -> None:
    path = installed("claude")
    given = fields("claude", tmp_path / "home", api)
    del given["tools"]
    with serving("claude", path) as server, server.client() as client:
        agent = client.agent.spawn(spec=AgentSpec(chat=True, task="hello", **given))
        until_output(client, agent.id, b'"result":"heard 1"', timeout=PATIENCE_S)
        until_idle(client, agent.id)
        client.agent.say(id=agent.id, text="more")
        until_output(client, agent.id, b'"result":"heard 2"', timeout=PATIENCE_S)

        until_idle(client, agent.id)
        marked = tmp_path / "marked"
        client.agent.say(id=agent.id, text=f"[[run: touch {marked}]]")
        waiting = eventually(lambda: client.agent.get(id=agent.id).question, timeout=PATIENCE_S)
        assert waiting.tool == "Bash"
        client.agent.answer(id=agent.id, decision="allow")
        eventually(marked.exists, timeout=PATIENCE_S)
        until_idle(client, agent.id)

        ticks = tmp_path / "ticks"
        client.agent.say(id=agent.id, text=f"[[run: {sys.executable} -I -S {TICK} {ticks}]]")
        eventually(lambda: client.agent.get(id=agent.id).question, timeout=PATIENCE_S)
        client.agent.answer(id=agent.id, decision="allow")
        eventually(lambda: size(ticks) > 2, timeout=PATIENCE_S)
        paused = client.agent.pause(id=agent.id, mode="cooperative")
        assert (paused.state, paused.pause_mode) == ("paused", "cooperative")
        before = len(output(client, agent.id))
        client.agent.say(id=agent.id, text="still there?")
        until_idle(client, agent.id)
        assert client.agent.get(id=agent.id).state == "running"
        assert b'"result":"heard ' in output(client, agent.id)[before:]

        client.agent.close_stdin(id=agent.id)
        assert client.agent.wait(id=agent.id, deadline_s=PATIENCE_S).state == "completed"


def test_the_daemons_a_terminal_program_starts_for_itself_end_with_it(
    api: str, tmp_path: Path
) -> None:
    path = installed("codex")
    home = tmp_path / "home"
    given = fields("codex", home, api)
    with serving("codex", path) as server, server.client() as client:
        agent = client.agent.spawn(
            spec=AgentSpec(command=[str(path)], cwd=str(home), env=given["env"], tty=Tty())
        )

        def daemons() -> list[int]:
            found = carrying("DESCARTES_AGENT_ID", agent.id)
            return [each.pid for each in found if "app-server" in " ".join(each.cmdline())]

        eventually(daemons, timeout=PATIENCE_S)
        client.agent.kill(id=agent.id)

        assert carrying("DESCARTES_AGENT_ID", agent.id) == []
    # It has put a copy of itself there, of hundreds of megabytes.
    shutil.rmtree(home / "packages", ignore_errors=True)
