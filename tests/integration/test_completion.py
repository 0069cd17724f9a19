"""Words completed by real shells, which ask a real server for what it has."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from descartesd.client import Client
from descartesd.ctl.completing import complete
from tests.support.agents import left_empty, spec
from tests.support.eventually import eventually
from tests.support.server import BIN, Server
from tests.support.tmux import Tmux, Window

# For a prompt nobody would mistake for anything else.
PROMPT = "ready> "
STARTS = {
    "bash": ("bash --norc --noprofile -i", "PS1='{}'; stty echo"),
    "zsh": ("zsh -f -i", "autoload -U compinit; compinit -u -D; PS1='{}'"),
    # What it would suggest by itself looks like what it completes.
    "fish": (
        "fish --no-config -i",
        "set -g fish_autosuggestion_enabled 0; function fish_prompt; echo -n '{}'; end",
    ),
}
each_shell = pytest.mark.parametrize("shell", STARTS)


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """The administrator; afterwards every agent is gone."""
    with shared_server.client(wait_for_server_s=30) as client, left_empty(client):
        yield client


@pytest.fixture
def typing(
    shared_server: Server, client: Client, tmp_path: Path
) -> Iterator[Callable[[str], Window]]:
    """Opens a shell in a terminal, which completes words of descartesctl."""
    scripts = {shell: _script(shell, tmp_path) for shell in STARTS}
    with Tmux(shared_server) as tmux:

        def opened(shell: str) -> Window:
            command, prepare = STARTS[shell]
            window = tmux.window("env", f"HOME={tmp_path}", "TERM=tmux", *command.split(), cols=240)
            eventually(lambda: window.screen.strip() != "", timeout=30, step=0.05)
            window.writes(f"{prepare.format(PROMPT)}; source {scripts[shell]}; clear")
            window.types("Enter")
            eventually(lambda: window.screen.strip() == PROMPT.strip(), timeout=30, step=0.05)
            return window

        yield opened


def _script(shell: str, directory: Path) -> Path:
    done = subprocess.run(
        [BIN / "descartesctl", "completion", shell], capture_output=True, text=True, check=True
    )
    path = directory / f"completion.{shell}"
    path.write_text(done.stdout)
    return path


def completed(window: Window, typed: str, whole: str) -> None:
    """Type this and a Tab, until this stands there; then empty the line again.

    A server that takes too long to answer has nothing completed: Tab is pressed once more then.
    """
    window.writes(typed)
    for _ in range(4):
        window.types("Tab")
        if came(lambda: f"{PROMPT}{whole}" in window.screen):
            break
    window.shows(f"{PROMPT}{whole}", timeout=30)
    window.types("C-u")
    eventually(lambda: window.screen.split("\n")[0].strip() == PROMPT.strip(), timeout=30)


def came(is_there: Callable[[], bool]) -> bool:
    """Whether it is there within 6 seconds, twice the time the server is given."""
    try:
        return eventually(is_there, timeout=6, step=0.05)
    except AssertionError:
        return False


@pytest.mark.timeout(240)
@each_shell
def test_shell_completes_words_values_agents_and_files(
    shell: str, typing: Callable[[str], Window], client: Client, tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    client.agent.spawn(spec=spec("sleep", "300", name="web-server"))
    client.agent.spawn(spec=spec("sleep", "300", name="worker-paused"))
    client.agent.pause(id="worker-paused")
    (tmp_path / "alice.pub").touch()
    window = typing(shell)

    for typed, rest in {
        "ag": "ent",
        "agent list --st": "ate",
        "agent list --state=ru": "nning",
        "agent stop web": "-server",
        "agent resume w": "orker-paused",
        "--json agent show we": "b-server",
        f"cert add {tmp_path}/al": "ice.pub",
        f"cert issue ci --out={tmp_path}/al": "ice.pub",
    }.items():
        completed(window, f"descartesctl {typed}", f"descartesctl {typed}{rest}")


@each_shell
def test_shell_shows_what_it_may_be(shell: str, typing: Callable[[str], Window]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    window = typing(shell)

    window.writes("descartesctl server ")
    window.types("Tab", "Tab")

    screen = window.shows("health", "info", "stats", "methods", "drain", "reload", timeout=30)
    if shell != "bash":
        assert re.search(r"health\s.*Tell whether every part", screen)


def test_server_is_asked_for_what_it_has(shared_server: Server, client: Client) -> None:
    agent = client.agent.spawn(spec=spec("sleep", "300", name="asked-for"))
    line = f"descartesctl --profile {shared_server.admin}"

    def words(typed: str) -> list[str]:
        return eventually(
            lambda: [offer.word for offer in complete(f"{line} {typed}").words], timeout=30
        )

    assert words("agent show asked") == ["asked-for"]
    assert words(f"agent show {agent.id[:8]}") == [agent.id]
    assert words("agent kill ask") == ["asked-for"]
    assert words("action run pi") == ["ping"]
    assert words("agent spawn --backend=co") == ["--backend=codex"]
    assert words("cert show adm") == ["admin"]
    assert words("action run echo --agent as") == ["asked-for"]
    assert not complete(f"{line} agent resume ask").words
    assert not complete(f"{line} agent show asked-for ").words
