"""Agents on a terminal: what they find, what they write and read, against a real keeper."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    ResourceExhaustedError,
    WouldBlockError,
)
from descartesd.keeper import procfs
from descartesd.keeper.agent import DESCRIPTORS
from descartesd.keeper.stdin import BUFFER_BYTES
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper, alive

SIZE = {"rows": 30, "cols": 100}
# What n_tty and the flip buffers before it take at most of what a program does not read.
TERMINAL_BYTES = 256 * 1024
SHELL = ("bash", "--norc", "--noprofile", "-i")
JOBS = b"sleep 301 & sleep 302 | sleep 303\n"


def sh(keeper: Keeper, script: str, **fields: object) -> str:
    """Start a shell script on a terminal."""
    return keeper.spawn("sh", "-c", script, tty=SIZE, **fields)


def terminal_of(pid: int) -> tuple[int, int]:
    """The device number of a process's controlling terminal, and the group in its foreground."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[4]), int(fields[5])


def test_agent_leads_a_session_on_a_terminal_of_its_own(keeper: Keeper) -> None:
    agent_id = sh(keeper, "tty; stty size; echo $TERM; ls /proc/self/fd; read x", env={"TERM": "x"})
    told = keeper.wait_out(agent_id, b"\r\nx\r\n").decode().split()
    pid = (keeper.status(agent_id) or {})["pid"]

    assert told[0].startswith("/dev/pts/")
    assert told[1:4] == ["30", "100", "x"]
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {told[0]}
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    process = procfs.read(pid)
    assert process is not None
    assert process.session == process.group == pid
    device, foreground = terminal_of(pid)
    assert (device, foreground) == (os.stat(told[0]).st_rdev, pid)


def test_agents_of_limits_have_their_terminal_too(keeper: Keeper) -> None:
    agent_id = sh(keeper, "tty; ulimit -n; : > /dev/tty", rlimits={"nofile": 99})
    keeper.eof(agent_id)

    assert keeper.out(agent_id).startswith(b"/dev/pts/")
    assert keeper.out(agent_id).endswith(b"\r\n99\r\n")


def test_everything_it_writes_is_stdout_and_ends_with_it(keeper: Keeper, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    (tmp_path / "data").write_bytes(data)
    agent_id = sh(keeper, f"stty raw; cat {tmp_path}/data; cat {tmp_path}/data >&2")

    last = keeper.eof(agent_id)

    assert last["totals"] == {"stdout": 2 * len(data), "stderr": 0}
    assert hashlib.sha256(keeper.out(agent_id)).digest() == hashlib.sha256(2 * data).digest()
    assert keeper.out(agent_id, "stderr") == b""


def test_it_reads_what_is_written_once_and_the_end_of_file(keeper: Keeper) -> None:
    agent_id = sh(keeper, "stty -echo; echo go; cat; echo first; cat; echo second")
    keeper.wait_out(agent_id, b"go")

    def write(data: bytes, offset: int) -> object:
        return keeper.ask("write", agent_id=agent_id, data=data, writer="w", offset=offset)

    assert write(b"one\n", 0) == {"accepted": 4, "offset": 4}
    assert write(b"one\ntwo\n", 0) == {"accepted": 8, "offset": 8}
    keeper.ask("close_stdin", agent_id=agent_id)
    keeper.wait_out(agent_id, b"first")
    assert (keeper.status(agent_id) or {})["stdin_open"]
    write(b"three\n", 8)
    keeper.ask("close_stdin", agent_id=agent_id)

    assert keeper.exited(agent_id)["exit_code"] == 0
    keeper.eof(agent_id)
    assert keeper.out(agent_id).split() == b"go one two first three second".split()


def test_end_of_file_is_the_character_the_program_has_chosen(keeper: Keeper) -> None:
    agent_id = sh(keeper, "stty -echo eof ^X; echo go; cat; echo over")
    keeper.wait_out(agent_id, b"go")

    keeper.ask("close_stdin", agent_id=agent_id)

    assert keeper.exited(agent_id)["exit_code"] == 0


def test_program_without_an_end_of_file_character_gets_the_usual_one(keeper: Keeper) -> None:
    agent_id = sh(keeper, "stty raw -echo eof undef; echo go; head -c 1 | od -An -tx1")
    keeper.wait_out(agent_id, b"go")

    keeper.ask("close_stdin", agent_id=agent_id)

    keeper.eof(agent_id)
    assert keeper.out(agent_id).endswith(b" 04\n")


def test_resize_is_seen_and_signalled(keeper: Keeper) -> None:
    agent_id = sh(keeper, "trap 'stty size' WINCH; echo go; while :; do sleep 0.02; done")
    keeper.wait_out(agent_id, b"go")

    assert keeper.ask("resize", agent_id=agent_id, rows=50, cols=132) == {}

    keeper.wait_out(agent_id, b"50 132")


def test_resize_needs_a_terminal_and_a_size(keeper: Keeper) -> None:
    piped = keeper.spawn("sleep", "60")
    ended = sh(keeper, "true")
    keeper.exited(ended)

    with pytest.raises(ConflictError, match=f"agent '{piped}' has no terminal"):
        keeper.ask("resize", agent_id=piped, **SIZE)
    with pytest.raises(ConflictError, match="has exited: resize needs a running one"):
        keeper.ask("resize", agent_id=ended, **SIZE)
    for size in ({"rows": 0, "cols": 1}, {"rows": 1}, {"rows": 1, "cols": 65_536}):
        with pytest.raises(InvalidArgumentError, match=r"rows|cols"):
            keeper.ask("resize", agent_id=piped, **size)
        with pytest.raises(InvalidArgumentError, match=r"rows|cols"):
            keeper.spawn("true", tty=size)
    with pytest.raises(InvalidArgumentError, match="tty: expected a map"):
        keeper.spawn("true", tty=True)


@pytest.mark.parametrize("mode", ["raw", "cooked"])
def test_program_that_does_not_read_blocks_only_its_writer(keeper: Keeper, mode: str) -> None:
    agent_id = sh(keeper, f"stty -echo {mode}; echo go; exec sleep 60")
    keeper.wait_out(agent_id, b"go")
    accepted = []

    def write_on() -> None:
        while sum(accepted) < 4 * TERMINAL_BYTES:
            reply = keeper.ask("write", agent_id=agent_id, data=b"line\n" * 10_000)
            accepted.append(reply["accepted"])

    with pytest.raises(WouldBlockError, match="does not read its stdin"):
        write_on()
    with pytest.raises(WouldBlockError, match="does not read its stdin"):
        keeper.ask("close_stdin", agent_id=agent_id)

    assert BUFFER_BYTES < sum(accepted) <= BUFFER_BYTES + TERMINAL_BYTES
    assert keeper.ask("hello", version="1.1")["pid"] == keeper.process.pid


def test_all_a_late_reader_was_sent_arrives(keeper: Keeper) -> None:
    count = 50_000
    agent_id = sh(keeper, f"stty raw -echo; echo go; head -c {6 * count} | cksum")
    keeper.wait_out(agent_id, b"go")
    data = b"".join(b"%05d\n" % number for number in range(count))
    offset = 0

    def is_all_written() -> bool:
        nonlocal offset
        try:
            part = data[offset : offset + 60_000]
            reply = keeper.ask("write", agent_id=agent_id, data=part, writer="w", offset=offset)
            offset = reply["offset"]
        except WouldBlockError:
            return False
        return offset == len(data)

    eventually(is_all_written, step=0.001)
    keeper.eof(agent_id)
    wanted = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout
    assert keeper.out(agent_id).endswith(wanted)


def test_program_that_leaves_its_terminal_and_comes_back_is_not_hung_up_on(keeper: Keeper) -> None:
    agent_id = sh(keeper, "exec <&- >&- 2>&-; sleep 0.2; echo back > /dev/tty")

    assert keeper.exited(agent_id)["exit_code"] == 0

    keeper.eof(agent_id)
    assert keeper.out(agent_id) == b"back\r\n"


def test_agent_whose_terminal_is_hung_up_can_still_be_ended(keeper: Keeper) -> None:
    if os.geteuid() != 0:
        pytest.skip("vhangup(2) needs the capability sys_tty_config")
    script = (
        "import ctypes, signal, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "ctypes.CDLL(None).vhangup()\n"
        "time.sleep(60)\n"
    )
    agent_id = keeper.spawn(*PYTHON, script, tty=SIZE)

    def is_hung_up() -> bool:
        try:
            keeper.ask("resize", agent_id=agent_id, **SIZE)
        except ConflictError as error:
            return "hung up" in error.message
        return False

    eventually(is_hung_up)
    keeper.ask("write", agent_id=agent_id, data=b"x")
    keeper.ask("close_stdin", agent_id=agent_id)
    assert (keeper.status(agent_id) or {})["state"] == "running"
    keeper.ask("kill", agent_id=agent_id)
    assert keeper.exited(agent_id)["signal"] == 9
    keeper.eof(agent_id)


def states(pids: list[int]) -> set[str]:
    """The states processes are in."""
    return {process.state for pid in pids if (process := procfs.read(pid))}


def jobs(keeper: Keeper) -> tuple[str, int]:
    """An interactive shell with a job in the background and a pipeline in the foreground."""
    agent_id = keeper.spawn(*SHELL, tty=SIZE)
    keeper.ask("write", agent_id=agent_id, data=JOBS)
    pid = (keeper.status(agent_id) or {})["pid"]
    eventually(lambda: len(procfs.children(pid, 1)) == 3 and terminal_of(pid)[1] != pid)
    return agent_id, pid


def test_job_in_the_foreground_stays_there_over_a_pause(keeper: Keeper) -> None:
    agent_id, pid = jobs(keeper)
    _, foreground = terminal_of(pid)
    family = [pid, *procfs.children(pid, 1)]

    for _ in range(5):
        keeper.ask("pause", agent_id=agent_id)
        assert states(family) == {"T"}
        keeper.ask("resume", agent_id=agent_id)
        eventually(lambda: states(family) == {"S"})

    assert terminal_of(pid)[1] == foreground
    assert b"Stopped" not in keeper.out(agent_id)


@pytest.mark.parametrize("verb", ["kill", "stop"])
def test_jobs_of_an_interactive_shell_end_with_it(keeper: Keeper, verb: str) -> None:
    agent_id, pid = jobs(keeper)
    family = [pid, *procfs.children(pid, 1)]
    assert len({os.getpgid(each) for each in family}) == 3

    # An interactive shell does not heed TERM.
    keeper.ask(verb, agent_id=agent_id, **({"grace_s": 0.1} if verb == "stop" else {}))

    assert keeper.exited(agent_id)["leftovers"] == 0
    keeper.eof(agent_id)
    eventually(lambda: not any(map(alive, family)))


def test_no_more_descriptors_than_counted_on_and_none_left(keeper: Keeper) -> None:
    before = keeper.descriptors()
    agent_id = sh(keeper, "echo x; read x")
    keeper.wait_out(agent_id, b"x")

    assert keeper.descriptors() - before <= DESCRIPTORS

    keeper.ask("write", agent_id=agent_id, data=b"\n")
    keeper.eof(agent_id)
    with pytest.raises(InvalidArgumentError):
        keeper.spawn("/no/such", tty=SIZE)
    assert keeper.descriptors() == before


def test_further_attempt_has_a_terminal_of_the_same_kind(keeper: Keeper) -> None:
    agent_id = sh(keeper, "stty size")
    keeper.eof(agent_id)

    sh(keeper, "stty size", agent_id=agent_id, attempt=2)
    keeper.eof(agent_id)

    assert keeper.out(agent_id) == b"30 100\r\n30 100\r\n"


def test_host_without_a_free_terminal_is_told_with_what_to_raise(
    make_keeper: Callable[..., Keeper],
) -> None:
    mount = "mount -t devpts -o newinstance,ptmxmode=666,max=1 devpts /dev/pts"
    enter = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may mount no terminals of its own")
    keeper = make_keeper(wrapper=enter)
    keeper.spawn("sleep", "60", tty=SIZE)
    before = keeper.descriptors()

    with pytest.raises(
        ResourceExhaustedError, match="no terminal for the agent: No space"
    ) as error:
        keeper.spawn("sleep", "60", tty=SIZE)

    assert "kernel.pty.max" in (error.value.hint or "")
    assert keeper.descriptors() == before
    keeper.spawn("sleep", "60")
