"""The program descartes-keeper: command line, what it inherits and passes on, its ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.server import SETTABLE_SIGNALS
from tests.unit.keeper.harness import Client, Keeper

PROGRAM = [sys.executable, "-m", "descartesd.keeper"]


def refused(*arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a keeper that does not start."""
    ended = subprocess.run([*PROGRAM, *arguments], capture_output=True, check=False, timeout=10)
    return ended.returncode, ended.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--socket is missing"),
        (["--socket", "/tmp/x"], "--output-dir is missing"),
        (["--socket"], "--socket is missing"),
        (["--colour", "blue"], "no option '--colour'"),
        (["--socket=/tmp/x", "--output-dir=/tmp/y", "--idle-exit=soon"], "number of seconds, got"),
        (["--socket=/tmp/x", "--output-dir=/tmp/y", "--idle-exit=-1"], "number of seconds, got"),
    ],
)
def test_wrong_usage_is_exit_2_with_the_usage(arguments: list[str], sentence: str) -> None:
    status, said = refused(*arguments)

    assert status == 2
    assert sentence in said
    assert "usage: descartes-keeper --socket PATH --output-dir DIR" in said


def test_second_keeper_on_a_socket_is_refused(keeper: Keeper) -> None:
    status, said = refused("--socket", keeper.socket, "--output-dir", keeper.output)

    assert status == 78
    assert said == f"descartes-keeper: another keeper serves '{keeper.socket}'\n"
    assert keeper.ask("strays") == {"strays": []}


def test_socket_path_too_long_for_the_kernel_is_refused(tmp_path: Path) -> None:
    path = f"/tmp/{'x' * 120}"

    status, said = refused("--socket", path, "--output-dir", str(tmp_path))

    assert status == 78
    assert f"socket path '{path}' is 125 bytes: at most 107" in said


def test_output_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    status, said = refused("--socket", "/tmp/kpr-x", "--output-dir", str(tmp_path / "file" / "out"))

    assert status == 78
    assert "cannot start: " in said
    assert "Traceback" not in said


def test_stale_socket_file_is_replaced(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    keeper.process.kill()
    keeper.wait()
    assert os.path.exists(keeper.socket)

    again = subprocess.Popen(
        [*PROGRAM, "--socket", keeper.socket, "--output-dir", keeper.output, "--idle-exit", "0.2"]
    )
    client = eventually(lambda: _connect(keeper.socket))
    assert client is not None

    assert client.ask("hello", version="1.0")["pid"] == again.pid
    client.close()
    assert again.wait(10) == 0
    assert not os.path.exists(keeper.socket)


def _connect(path: str) -> Client | None:
    try:
        return Client(path)
    except OSError:
        return None


def test_agents_do_not_inherit_ignored_signals_masks_or_descriptors(
    make_keeper: Callable[..., Keeper],
) -> None:
    def prepare() -> None:
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGTSTP):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
        os.dup2(os.open("/dev/null", os.O_RDONLY), 77, inheritable=True)
        os.umask(0)

    keeper = make_keeper(prepare=prepare)
    agent_id = keeper.spawn("sh", "-c", "umask; cat /proc/self/status; ls /proc/$$/fd")
    keeper.eof(agent_id)

    umask, *lines = keeper.out(agent_id).decode().split("\n")
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert umask == "0022"
    assert int(status["SigIgn"], 16) & SETTABLE_SIGNALS == int(status["SigBlk"], 16) == 0
    # A shell keeps none but its standard ones.
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2"]
    assert not os.path.exists(f"/proc/{keeper.process.pid}/fd/77")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_ending_signal_ends_agents_in_order(
    make_keeper: Callable[..., Keeper], signum: int
) -> None:
    keeper = make_keeper()
    marks = keeper.directory / "marks"
    script = f"trap 'echo polite >> {marks}; exit' TERM; echo up; while :; do sleep 0.02; done"
    polite = keeper.spawn("sh", "-c", script)
    deaf = keeper.spawn(
        "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done",
        stop={"signal": 15, "grace_s": 0.2},
    )  # fmt: skip
    for agent_id in (polite, deaf):
        keeper.wait_out(agent_id, b"up")

    keeper.process.send_signal(signum)

    assert keeper.exited(polite)["ended_by"] == "stop"
    assert keeper.exited(deaf)["signal"] == signal.SIGKILL
    assert keeper.wait() == 0
    assert marks.read_text() == "polite\n"
    assert not os.path.exists(keeper.socket)


@pytest.mark.parametrize(
    "signum", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGPIPE]
)
def test_other_signals_do_nothing(keeper: Keeper, signum: int) -> None:
    keeper.process.send_signal(signum)

    assert keeper.ask("hello", version="1.0")["pid"] == keeper.process.pid


def test_keeper_leaves_when_idle_and_not_before(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper("--idle-exit", "0.15")
    agent_id = keeper.spawn("true")
    keeper.eof(agent_id)
    keeper.client.close()
    # A record nobody has asked for is a reason to stay.
    with pytest.raises(subprocess.TimeoutExpired):
        keeper.process.wait(0.35)

    keeper.client = Client(keeper.socket)
    keeper.ask("forget", agent_id=agent_id)
    with pytest.raises(subprocess.TimeoutExpired):
        keeper.process.wait(0.35)
    keeper.client.close()

    assert keeper.wait() == 0


def test_keeper_outlives_whoever_read_its_stderr(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    assert keeper.process.stderr is not None
    keeper.process.stderr.close()

    keeper.client.sock.send(b"\xff")
    keeper.client.close()
    keeper.client = keeper.connect()

    assert keeper.ask("hello", version="1.0")["pid"] == keeper.process.pid


def test_standard_descriptors_need_not_be_open(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper(wrapper=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])

    agent_id = keeper.run("sh", "-c", "echo out; echo err >&2; cat", stdin="null")["agent_id"]

    assert keeper.out(agent_id) == b"out\n"
    assert keeper.out(agent_id, "stderr") == b"err\n"


def test_empty_keeper_is_small(make_keeper: Callable[..., Keeper]) -> None:
    keeper = make_keeper()
    status = Path(f"/proc/{keeper.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))

    assert int(line.split()[1]) <= 15 * 1024
    loaded = Path(f"/proc/{keeper.process.pid}/maps").read_text()
    assert "libzmq" not in loaded
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.connect(keeper.socket)
