"""A real server in a directory of its own: made by `descartesd init`, run as a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from descartesd.client import Client
from tests.support.eventually import eventually

BIN = Path(sys.executable).parent
# One for the whole run, its parallel workers included: what it leaves can be told apart.
PREFIX = f"dsc-{os.environ.setdefault('DSC_RUN', str(os.getpid()))}-"

# As bits of /proc/PID/status: the C library keeps signals 32 and 33 for itself, and posix_spawn(3)
# hands them on ignored; no program can change that.
SETTABLE_SIGNALS = ~(1 << 31 | 1 << 32)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server directory. `settings` replace values in its configuration by dotted key."""

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        # A short path: a Unix socket's is limited to 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self.directory = self.root / "s"
        self.port = free_port()
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith("DESCARTES")
        }
        # The private directories of agents that are never removed go with it.
        self.environ["TMPDIR"] = str(self.root)
        for key, value in (settings or {}).items():
            section, _, rest = key.partition(".")
            self.environ[f"DESCARTES_{section}__{rest.replace('.', '__')}".upper()] = str(value)
        made = subprocess.run(
            [BIN / "descartesd", "init", self.directory, "--endpoint", self.endpoint],
            capture_output=True,
            text=True,
            env=self.environ,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.root / "server.log"

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.directory / "descartesd.toml"

    @property
    def admin(self) -> Path:
        return self.directory / "profiles" / "admin.toml"

    @property
    def local(self) -> Path:
        return self.directory / "profiles" / "local.toml"

    @property
    def public_key(self) -> str:
        return (self.directory / "run" / "server.pub").read_text().strip()

    def start(self, *, wait: bool = True) -> None:
        """Run it; with `wait`, until it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "descartesd", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
            )
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self, timeout: float = 45.0) -> None:
        assert self.process is not None
        with Client(str(self.admin), wait_for_server_s=timeout) as client:
            client.server.health()

    def client(self, profile: Path | None = None, **options: float) -> Client:
        """Return a client, by default the administrator's over tcp."""
        return Client(str(profile or self.admin), **options)  # type: ignore[arg-type]

    def ctl(
        self, *arguments: str | Path, profile: Path | None = None, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run descartesctl."""
        return subprocess.run(
            [BIN / "descartesctl", "--profile", profile or self.admin, *arguments],
            capture_output=True,
            input=stdin,
            env=self.environ,
            timeout=60,
            check=False,
        )

    def issue(self, name: str, role: str) -> Path:
        """Issue a certificate without the daemon and return its profile."""
        done = self.ctl("cert", "issue", name, "--role", role, "--dir", self.directory)
        assert done.returncode == 0, done.stderr.decode()
        return self.directory / "profiles" / f"{name}.toml"

    def kill(self) -> None:
        """Kill the daemon, not its keeper, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def crash_and_restart(self) -> None:
        self.kill()
        self.start()

    @property
    def keeper_pid(self) -> int | None:
        """Pid of the keeper of this server, if one runs."""
        wanted = str(self.directory / "run" / "keeper.sock")
        for process in psutil.process_iter(["cmdline"]):
            if wanted in (process.info["cmdline"] or ()):
                return int(process.pid)
        return None

    def stop(self) -> int:
        """Stop it in order; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """End everything and delete the directory."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.kill()
            self._end_keeper()
            shutil.rmtree(self.root)

    def _end_keeper(self) -> None:
        pid = self.keeper_pid
        if pid is None:
            return
        keeper = psutil.Process(pid)
        family = [keeper, *keeper.children(recursive=True)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=5)

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def running(settings: Mapping[str, object] | None = None) -> Iterator[Server]:
    """Run a server for the time of a block."""
    with Server(settings) as server:
        server.start()
        yield server


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(pid: int, timeout: float = 5.0) -> None:
    """Wait until a process is gone."""
    eventually(lambda: not alive(pid), timeout=timeout)
