"""The scenes of the demo: what is done, and what must be seen for it to count."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from descartesd.client import Client
from descartesd.errors import DescartesError, UnavailableError
from descartesd.wire.agent import AgentInfo, AgentSpec

_PATIENCE_S = 10.0
_FILES = 200
_CLIENTS = (("ada", "operator"), ("bob", "operator"), ("eve", "observer"))

_WRITER = """
import itertools, os, sys, time
for number in itertools.count():
    print("line", number, flush=True)
    time.sleep(0.005)
    if os.path.exists(sys.argv[1]):
        break
"""
_HASHER = """
import hashlib, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
"""
_SUITE = """
import unittest
class Sums(unittest.TestCase):
    def test_sum(self): self.assertEqual(sum(range(101)), 5050)
    def test_sorted(self): self.assertEqual(sorted([3, 1, 2]), [1, 2, 3])
unittest.main()
"""
_TICKER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
_ADDER = "while read a b; do echo $((a+b)); done; exit 7"


class CheckError(Exception):
    """Something was not seen that must be."""


def check(holds: bool, sentence: str) -> None:
    """Raise CheckError with the sentence unless it holds."""
    if not holds:
        raise CheckError(sentence)


class Follower(threading.Thread):
    """Follows the stdout of an agent to its end, over whatever happens to the server."""

    def __init__(self, profile: str, agent: str) -> None:
        super().__init__(name=f"follow {agent}", daemon=True)
        self._profile = profile
        self._agent = agent
        self.digest = hashlib.sha256()
        self.error: DescartesError | None = None

    def run(self) -> None:
        """Collect every byte once."""
        try:
            with Client(self._profile, timeout_s=None) as client:
                for chunk in client.agent.follow(id=self._agent, streams=["stdout"]):
                    self.digest.update(chunk.data)
        except DescartesError as exc:
            self.error = exc


class Stage:
    """A server directory, its process and its clients."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.directory = os.path.join(root, "server")
        self.corpus = os.path.join(root, "corpus")
        # Once this file is there the writer has written enough.
        self.enough = os.path.join(root, "enough")
        self.clients: dict[str, Client] = {}
        self.agents: dict[str, AgentInfo] = {}
        self.follower: Follower | None = None
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def profile(self, name: str) -> str:
        """Path of a client's profile."""
        return os.path.join(self.directory, "profiles", f"{name}.toml")

    def run(self, *words: str) -> None:
        """Run one of our programs to its end; raises CheckError when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, check=False
        )
        check(done.returncode == 0, f"{words[0]} said: {done.stderr.strip()}")

    def start(self) -> None:
        """Start the server and wait until it serves."""
        with open(os.path.join(self.root, "server.log"), "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "descartesd.main", "--config",
                 os.path.join(self.directory, "descartesd.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        with Client(self.profile("admin"), wait_for_server_s=_PATIENCE_S) as client:
            client.server.health()

    def kill_daemon(self) -> None:
        """End the daemon as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Stop the server in order; its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def close(self) -> None:
        """End whatever still runs."""
        for client in self.clients.values():
            client.close()
        if self._process is None:
            return
        if self._process.poll() is not None and os.path.exists(self._keeper_socket):
            # Killed by a scene that then failed: only a server can end what the keeper still has.
            self.start()
        if self._process.poll() is None:
            self.stop()

    @property
    def _keeper_socket(self) -> str:
        return os.path.join(self.directory, "run", "keeper.sock")


def _server(stage: Stage) -> str:
    stage.port = _free_port()
    endpoint = f"tcp://127.0.0.1:{stage.port}"
    stage.run("descartesd.main", "init", stage.directory, "--endpoint", endpoint)
    stage.start()
    return f"{endpoint}, CURVE, keys made a moment ago"


def _free_port() -> int:
    import socket  # noqa: PLC0415  # only here

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _clients(stage: Stage) -> str:
    for name, role in _CLIENTS:
        stage.run(
            "descartesd.ctl.main", "cert", "issue", name, "--role", role, "--dir", stage.directory
        )
        stage.clients[name] = Client(stage.profile(name))
        identity = stage.clients[name].server.hello().identity
        check((identity.name, identity.role) == (name, role), f"{name} was taken for {identity}")
    try:
        stage.clients["eve"].agent.spawn(spec=AgentSpec(command=["true"]))
    except DescartesError as exc:
        check(exc.code == "permission_denied", f"an observer's spawn ended in {exc.code}")
    else:
        raise CheckError("an observer could start an agent")
    return "each known by its certificate; the observer may not spawn"


def _agents(stage: Stage) -> str:
    _make_corpus(Path(stage.corpus))
    suite = os.path.join(stage.root, "suite.py")
    Path(suite).write_text(_SUITE)
    python = sys.executable
    count = 'cat "$0"/* | wc -w'
    specs = {
        "words": AgentSpec(command=["sh", "-c", count, stage.corpus]),
        "hashes": AgentSpec(command=[python, "-c", _HASHER, stage.corpus]),
        "suite": AgentSpec(command=[python, suite]),
        "ticker": AgentSpec(command=["sh", "-c", _TICKER]),
        "adder": AgentSpec(command=["sh", "-c", _ADDER], stdin="pipe"),
        "writer": AgentSpec(command=[python, "-c", _WRITER, stage.enough]),
    }
    for number, (name, spec) in enumerate(specs.items()):
        client = stage.clients[_CLIENTS[number % 2][0]]
        named = AgentSpec(name=name, command=spec.command, stdin=spec.stdin)
        stage.agents[name] = client.agent.spawn(spec=named)
    stage.follower = Follower(stage.profile("eve"), "writer")
    stage.follower.start()
    return "started by two clients: " + ", ".join(specs)


def _make_corpus(corpus: Path) -> None:
    corpus.mkdir()
    for number in range(_FILES):
        (corpus / f"{number:03d}.txt").write_text(f"file {number} says hello\n" * number)


def _work(stage: Stage) -> str:
    ada = stage.clients["ada"]
    for name in ("words", "hashes", "suite"):
        ended = ada.agent.wait(id=name, deadline_s=_PATIENCE_S)
        check(ended.state == "completed", f"{name} is {ended.state}: {ended.outcome}")
    words = _FILES * (_FILES - 1) // 2 * 4
    check(int(_output(ada, "words")) == words, "the words were counted wrongly")
    expected = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n"
        for path in sorted(Path(stage.corpus).iterdir())
    )
    check(_output(ada, "hashes") == expected.encode(), "the checksums differ from our own")
    errors = ada.agent.output(id="suite", stream="stderr").data
    check(b"Ran 2 tests" in errors, "the test suite did not run its tests")
    return f"{words} words, {_FILES} checksums, 2 tests: all as counted here"


def _output(client: Client, agent: str) -> bytes:
    return client.agent.output(id=agent).data


def _pause(stage: Stage) -> str:
    bob = stage.clients["bob"]
    _until(lambda: _total(bob, "ticker") > 0, "the ticker writes nothing")
    paused = bob.agent.pause(id="ticker")
    check(paused.state == "paused", f"the ticker is {paused.state}")
    before = _total(bob, "ticker")
    time.sleep(0.3)
    check(_total(bob, "ticker") == before, "the paused ticker went on")
    bob.agent.resume(id="ticker")
    _until(lambda: _total(bob, "ticker") > before, "the resumed ticker does not go on")
    bob.agent.pause(id="ticker")
    return f"nothing ran for 0.3 s at byte {before}, then it went on; paused again"


def _total(client: Client, agent: str) -> int:
    return client.agent.get(id=agent).output.stdout.total


def _stdin(stage: Stage) -> str:
    bob = stage.clients["bob"]
    bob.write("adder", b"2 3\n40 2\n")
    _until(lambda: _output(bob, "adder") == b"5\n42\n", "the sums did not come")
    return "2+3 and 40+2 written, 5 and 42 read"


def _crash(stage: Stage) -> str:
    bob = stage.clients["bob"]
    names = ("ticker", "adder", "writer")
    before = {name: bob.agent.get(id=name) for name in names}
    stage.kill_daemon()
    killed = time.monotonic()
    stage.start()
    away = time.monotonic() - killed
    for name in names:
        after = bob.agent.get(id=name)
        known = (before[name].pid, before[name].state)
        check((after.pid, after.state) == known, f"{name} was {known}, is {after.state}")
    bob.write("adder", b"20 1\n")
    _until(lambda: _output(bob, "adder") == b"5\n42\n21\n", "stdin does not work any more")
    return f"killed -9, serving again after {away:.1f} s: same pids, same states, stdin works"


def _bytes(stage: Stage) -> str:
    ada = stage.clients["ada"]
    Path(stage.enough).touch()
    ended = ada.agent.wait(id="writer", deadline_s=_PATIENCE_S)
    check(ended.state == "completed", f"the writer is {ended.state}")
    written = _output(ada, "writer")
    lines = written.count(b"\n")
    expected = "".join(f"line {number}\n" for number in range(lines)).encode()
    check(lines > 0 and written == expected, "the file is not what the writer wrote")
    digest = hashlib.sha256(expected).hexdigest()
    follower = stage.follower
    if follower is None:
        raise CheckError("nobody followed")
    follower.join(_PATIENCE_S)
    check(follower.error is None, f"the follower stopped: {follower.error}")
    check(follower.digest.hexdigest() == digest, "the follower lost or doubled bytes")
    return f"{len(expected)} bytes over the crash, file and follower: sha256 {digest[:12]}…"


def _end(stage: Stage) -> str:
    bob = stage.clients["bob"]
    bob.agent.close_stdin(id="adder")
    outcome = bob.agent.wait(id="adder", deadline_s=_PATIENCE_S).outcome
    check(outcome is not None and outcome.exit_code == 7, f"the adder ended with {outcome}")
    stopped = bob.agent.stop(id="ticker")
    check(stopped.state == "terminated", f"the stopped ticker is {stopped.state}")
    pids = [agent.pid for agent in stage.agents.values() if agent.pid is not None]
    status = stage.stop()
    check(status == 0, f"the server ended with {status}")
    left = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    check(not left, f"processes {left} are left")
    try:
        Client(stage.profile("admin"), connect_timeout_s=1.0).server.health()
    except UnavailableError:
        return "exit status 7 as written; agents and server ended, no process left"
    raise CheckError("somebody still answers")


def _until(holds: Callable[[], bool], sentence: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        check(time.monotonic() < deadline, sentence)
        time.sleep(0.01)


SCENES: tuple[tuple[str, Callable[[Stage], str]], ...] = (
    ("a server in a directory of its own", _server),
    ("three clients", _clients),
    ("six agents", _agents),
    ("real work on real files", _work),
    ("pause and resume", _pause),
    ("talk to an agent's stdin", _stdin),
    ("kill -9 of the daemon", _crash),
    ("not a byte lost, none twice", _bytes),
    ("an orderly end", _end),
)
