"""A real keeper in a process of its own, and the daemon's end of its socket."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from descartesd.errors import from_wire
from descartesd.keeper import procfs, protocol
from tests.support.eventually import eventually

PATH = ["/usr/local/bin", "/usr/bin", "/bin"]
PYTHON = [sys.executable, "-I", "-S", "-c"]


class Client:
    """Speaks to a keeper as the daemon does; facts wait in `events` until asked for."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.sock.settimeout(10)
        self.events: list[dict[str, Any]] = []
        self.replies: dict[int, dict[str, Any]] = {}
        self._asked = 0

    def begin(self, op: str, **fields: Any) -> int:
        """Send a request; returns its id."""
        self._asked += 1
        protocol.send(self.sock, {"id": self._asked, "op": op, **fields})
        return self._asked

    def end(self, request_id: int) -> Any:
        """The result of a request; raises the error it was answered with."""
        while request_id not in self.replies:
            self.read()
        reply = self.replies.pop(request_id)
        if "error" in reply:
            error = reply["error"]
            raise from_wire(error["code"], error["message"], hint=error.get("hint"))
        return reply["ok"]

    def ask(self, op: str, **fields: Any) -> Any:
        """Send a request and wait for its result."""
        return self.end(self.begin(op, **fields))

    def read(self) -> None:
        """Take one packet."""
        message = protocol.receive(self.sock)
        if message is None:
            raise EOFError("the keeper closed the connection")
        if "event" in message:
            self.events.append(message)
            if message["event"] == "exited" and message["agent"]["eof"]:
                # It stands for both facts.
                self.events.append({**message, "event": "eof"})
        else:
            self.replies[message["id"]] = message

    def event(self, kind: str, agent_id: str) -> dict[str, Any]:
        """Wait for a fact about an agent and take it: its status."""
        while True:
            for event in self.events:
                if event["event"] == kind and event["agent"]["agent_id"] == agent_id:
                    self.events.remove(event)
                    return dict(event["agent"])
            self.read()

    def close(self) -> None:
        """Leave the keeper."""
        self.sock.close()


class Keeper:
    """One keeper process with a directory of its own, and a client connected to it."""

    def __init__(
        self,
        *options: str,
        prepare: Callable[[], None] | None = None,
        wrapper: Sequence[str] = (),
        uid: int | None = None,
        program: Sequence[str] = ("-m", "descartesd.keeper"),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`uid`: whom it runs as, with no capability but to find the interpreter anywhere.

        `program` is what the interpreter is told to run, `env` is added to the environment.
        """
        self.directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="kpr-"))
        self.socket = str(self.directory / "s")
        self.output = str(self.directory / "out")
        self.spawned: list[str] = []
        if uid is not None:
            os.chown(self.directory, uid, uid)
            wrapper = [
                *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
                *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
                *wrapper,
            ]
        command = [*wrapper, sys.executable, *program]
        self.process = subprocess.Popen(
            [*command, "--socket", self.socket, "--output-dir", self.output, *options],
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )
        self.client = self.connect()

    def connect(self) -> Client:
        """A further connection; the keeper drops the earlier one."""

        def try_it() -> Client | None:
            try:
                return Client(self.socket)
            except OSError:
                assert self.process.poll() is None
                return None

        client = eventually(try_it)
        assert client is not None
        return client

    def ask(self, op: str, **fields: Any) -> Any:
        """Send a request and wait for its result."""
        return self.client.ask(op, **fields)

    def spawn(self, *argv: str, **fields: Any) -> str:
        """Start an agent; returns its id."""
        request = spawn_request(*argv, **fields)
        self.spawned.append(request["agent_id"])
        self.ask("spawn", **request)
        return str(request["agent_id"])

    def run(self, *argv: str, **fields: Any) -> dict[str, Any]:
        """Start an agent and wait for its exit and the end of its output: its last status."""
        agent_id = self.spawn(*argv, **fields)
        self.exited(agent_id)
        return self.eof(agent_id)

    def exited(self, agent_id: str) -> dict[str, Any]:
        """Wait for the fact that an agent has exited."""
        return self.client.event("exited", agent_id)

    def eof(self, agent_id: str) -> dict[str, Any]:
        """Wait for the fact that an agent's output has ended."""
        return self.client.event("eof", agent_id)

    def status(self, agent_id: str) -> dict[str, Any] | None:
        """One agent out of the whole list."""
        cursor = None
        while True:
            page = self.ask("list", cursor=cursor)
            for agent in page["agents"]:
                if agent["agent_id"] == agent_id:
                    return dict(agent)
            cursor = page["next"]
            if cursor is None:
                return None

    def out(self, agent_id: str, stream: str = "stdout") -> bytes:
        """What an agent wrote; the file is made by its first byte."""
        try:
            return Path(protocol.data_path(self.output, agent_id, stream)).read_bytes()
        except FileNotFoundError:
            return b""

    def wait_out(self, agent_id: str, wanted: bytes) -> bytes:
        """Wait until an agent has written `wanted`; returns all it wrote by then."""
        return eventually(lambda: text if wanted in (text := self.out(agent_id)) else b"")

    def children(self) -> list[int]:
        """The pids of the keeper's children."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def descriptors(self) -> int:
        """How many descriptors the keeper has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def clear(self) -> None:
        """Kill and remove whatever was spawned."""
        for agent_id in self.spawned:
            if self.status(agent_id):
                self.ask("kill", agent_id=agent_id)
                eventually(lambda: (self.status(agent_id) or {})["eof"])  # noqa: B023 - now
            self.ask("remove", agent_id=agent_id)
        self.spawned.clear()
        self.client.events.clear()

    def wait(self) -> int:
        """Wait for the end of the process; returns its exit status."""
        return self.process.wait(10)

    def stderr(self) -> str:
        """What the keeper has said; to be asked after its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        """End the keeper and its agents, if that has not happened, and delete its directory."""
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        shutil.rmtree(self.directory)


_numbers = itertools.count(1)


def spawn_request(*argv: str, **fields: Any) -> dict[str, Any]:
    """The fields of a spawn; `env` is added to what every agent gets."""
    # Unique on the host: a keeper ends what is left of lost agents wherever it finds their ids.
    agent_id = fields.get("agent_id") or f"agent{os.getpid()}n{next(_numbers):05}"
    env = {"PATH": ":".join(PATH), "DESCARTES_AGENT_ID": agent_id, **fields.pop("env", {})}
    return {
        "agent_id": agent_id,
        "name": agent_id,
        "attempt": 1,
        "argv": list(argv),
        "cwd": "/",
        "env": env,
        "path": PATH,
        "stdin": "null",
        "output_bytes": 64 * 1024 * 1024,
        "stop": {"signal": signal.SIGTERM, "grace_s": 5.0},
        **fields,
    }


class Gate:
    """A named pipe: agents that run `wait_there` end once it is opened."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "gate"
        os.mkfifo(self._path)
        self.wait_there = f"read line < {self._path}"

    def open_until(self, is_over: Callable[[], bool]) -> None:
        """Wake whoever waits, again and again until it is over."""

        def wake() -> bool:
            self._open()
            return is_over()

        eventually(wake, timeout=10)

    def _open(self) -> None:
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as exc:
            assert exc.errno == errno.ENXIO  # noqa: PT017 - nobody waits


def alive(pid: int) -> bool:
    """Whether a process still runs, stopped or not; a zombie does not."""
    process = procfs.read(pid)
    return process is not None and not process.is_gone


def state(pid: int) -> str:
    """The state letter of a process, `X` when it is gone."""
    process = procfs.read(pid)
    return process.state if process else "X"
