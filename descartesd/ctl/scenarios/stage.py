"""Where the scenarios happen: a server in a directory of its own, and clients of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import descartesd
from descartesd.client import Client
from descartesd.ctl.scenarios import processes
from descartesd.ctl.scenarios.findings import CheckError
from descartesd.ctl.scenarios.member import Member
from descartesd.errors import DescartesError, UnavailableError
from descartesd.wire.agent import AgentRef, AgentSpec
from descartesd.wire.methods import AGENT_KILL, AGENT_REMOVE

PACKAGE = os.path.dirname(os.path.abspath(descartesd.__file__))
MAX_AGENTS = 100
MAX_REQUEST_BYTES = 131_072
MAX_OUTPUT_BYTES = 1_048_576
OPERATORS = ("ada", "bob", "cyd")
_PATIENCE_S = 10.0
_GRACE_S = 3.0
_PAGE = 1000
_POLL_S = 0.01
_RETRY_S = 0.2


class Stage:
    """A server directory, its server process, and its clients; `close` ends every process."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.directory = os.path.join(root, "server")
        self.config = os.path.join(self.directory, "descartesd.toml")
        # Where agents start: so they can be told from all other processes.
        self.work = os.path.join(root, "work")
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._admin: Client | None = None
        self._members: dict[str, Member] = {}
        self._log = open(os.path.join(root, "demo.log"), "ab")  # noqa: SIM115  # until `close`
        # Settings of whoever runs this are none of its own.
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith("DESCARTES")
        }

    # -- the server

    @property
    def endpoint(self) -> str:
        """Where the server listens."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def server_pid(self) -> int:
        """The server's process; 0 when none was started."""
        return self._server.pid if self._server else 0

    def make(self) -> None:
        """Make the server directory and configure it; raises CheckError."""
        self.expect("descartesd.main", "init", self.directory, "--endpoint", self.endpoint)
        os.mkdir(self.work)
        settings = {
            "max_agents": str(MAX_AGENTS),
            "request_timeout_secs": "20",
            "working_dir": f'"{self.work}"',
            "max_request_bytes": str(MAX_REQUEST_BYTES),
            "max_output_buffer_bytes": str(MAX_OUTPUT_BYTES),
        }
        with open(self.config, encoding="utf-8") as file:
            text = file.read()
        for key, value in settings.items():
            text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
            if count != 1:
                raise CheckError(f"the configuration has '{key}' {count} times")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def start(self) -> None:
        """Start the server and wait until it serves; raises CheckError when it does not."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "descartesd.main", "--config", self.config],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._env,
            # In a session of its own: Ctrl-C is for the demo, which ends the server in order.
            start_new_session=True,
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._serves():
            if self._server.poll() is not None:
                raise CheckError(f"the server ended at once: {self._last_words()}")
            if time.monotonic() > deadline:
                raise CheckError(f"the server does not serve at {self.endpoint}")
            time.sleep(_POLL_S)

    def ready(self) -> None:
        """See that a server serves, without clients and agents: so each scenario begins."""
        self._end_members()
        if not os.path.exists(self.config):
            self.make()
        if self._server is None or self._server.poll() is not None:
            self.start()
        while agents := self.admin.agent.list(limit=_PAGE).agents:
            for method in (AGENT_KILL, AGENT_REMOVE):
                calls = ((method, AgentRef(id=agent.id)) for agent in agents)
                for result in self.admin.pipeline(calls):
                    if isinstance(result, DescartesError):
                        raise result

    def crash(self) -> None:
        """End the server as a crash would: kill -9."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def stop(self) -> int:
        """End the server in order; its exit status."""
        if self._server is None:
            raise CheckError("there is no server to end")
        self._server.send_signal(signal.SIGTERM)
        return self._server.wait(_PATIENCE_S)

    def _serves(self) -> bool:
        try:
            with Client(self.profile("admin"), connect_timeout_s=_RETRY_S) as client:
                client.server.health()
        except UnavailableError:
            return False
        return True

    def _last_words(self) -> str:
        with open(self._log.name, encoding="utf-8", errors="replace") as log:
            lines = log.read().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    # -- its clients

    @property
    def admin(self) -> Client:
        """The administrator's client, of this process."""
        if self._admin is None:
            self._admin = Client(self.profile("admin"), wait_for_server_s=_PATIENCE_S)
        return self._admin

    def profile(self, name: str) -> str:
        """Path of a client's profile."""
        return os.path.join(self.directory, "profiles", f"{name}.toml")

    def member(self, name: str, role: str = "operator") -> Member:
        """A client with a process and a certificate of its own, each made when first asked for."""
        if name not in self._members:
            profile = self.profile(name)
            if not os.path.exists(profile):
                words = ("cert", "issue", name, "--role", role, "--dir", self.directory)
                self.expect("descartesd.ctl.main", *words)
            self._members[name] = Member(name, profile, self._log, self._env)
        return self._members[name]

    def operators(self) -> list[Member]:
        """Three clients that may start agents."""
        return [self.member(name) for name in OPERATORS]

    def dismiss(self, member: Member) -> int:
        """Let a client leave; the exit status of its process."""
        del self._members[member.name]
        return member.leave()

    def _end_members(self) -> None:
        while self._members:
            self._members.popitem()[1].end()

    # -- programs

    def python(self, source: str, *words: str, **fields: Any) -> AgentSpec:
        """The spec of an agent that runs Python."""
        return AgentSpec(command=[sys.executable, "-c", source, *words], **fields)

    def run(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of our programs to its end."""
        return subprocess.run(
            [sys.executable, "-m", module, *words],
            capture_output=True,
            text=True,
            env=self._env,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            timeout=2 * _PATIENCE_S,
            check=False,
        )

    def expect(self, module: str, *words: str) -> None:
        """Run one of our programs; raises CheckError unless it works."""
        done = self.run(module, *words)
        if done.returncode != 0:
            raise CheckError(f"'{module} {' '.join(words)}' says: {done.stderr.strip()}")

    def close(self) -> None:
        """End every process: the clients', the server with its agents, and whatever is left."""
        self._end_members()
        if self._admin is not None:
            self._admin.close()
        if self._server is not None and self._server.poll() is None:
            self._end_server(self._server)
        # What a server that was killed has left behind has no other end.
        deadline = time.monotonic() + _PATIENCE_S
        while (left := processes.inside(self.root)) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        self._log.close()

    def _end_server(self, server: subprocess.Popen[bytes]) -> None:
        # Told twice it gives its agents no further time.
        for _ in range(2):
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_GRACE_S)
                return
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
