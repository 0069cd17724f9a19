"""Reading /proc, against real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from descartesd.keeper import procfs
from tests.support.eventually import eventually


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    env = {"DESCARTES_AGENT_IDEA": "no", "DESCARTES_AGENT_ID": "abc", "X": "DESCARTES_AGENT_ID=y"}
    made = subprocess.Popen(["/bin/sleep", "60"], env=env, start_new_session=True)
    yield made
    made.kill()
    made.wait()


def test_process_is_read_with_its_identity(child: subprocess.Popen[bytes]) -> None:
    process = procfs.read(child.pid)

    assert process is not None
    assert process[:1] + process[2:5] == (child.pid, os.getpid(), child.pid, child.pid)
    assert process.threads == 1
    assert procfs.start_time(child.pid) == process.start_time > 0


def test_names_with_spaces_and_parentheses_do_not_confuse(tmp_path: object) -> None:
    program = f"{tmp_path}/a) R (b 1 2"
    os.symlink("/bin/sleep", program)
    child = subprocess.Popen([program, "60"], start_new_session=True)

    def sleeping() -> bool:
        process = procfs.read(child.pid)
        return process is not None and (process.state, process.session) == ("S", child.pid)

    eventually(sleeping)
    process = procfs.read(child.pid)
    assert process is not None
    assert procfs.start_time(child.pid) == process.start_time
    child.kill()
    child.wait()
    assert procfs.read(child.pid) is None
    assert procfs.start_time(child.pid) is None


def test_agent_id_is_the_variables_value_and_no_other(child: subprocess.Popen[bytes]) -> None:
    assert eventually(lambda: procfs.agent_id(child.pid)) == "abc"
    assert procfs.agent_id(os.getpid()) is None
    assert procfs.agent_id(2**22 - 1) is None
    assert procfs.command(child.pid) == "/bin/sleep 60"


def test_agent_id_is_found_behind_a_large_environment() -> None:
    env = {f"V{number}": "x" * 1000 for number in range(100)} | {"DESCARTES_AGENT_ID": "last"}
    child = subprocess.Popen(["/bin/sleep", "60"], env=env)

    assert eventually(lambda: procfs.agent_id(child.pid)) == "last"
    child.kill()
    child.wait()


def test_zombie_has_a_name_but_no_command() -> None:
    child = subprocess.Popen(["/bin/true"])
    eventually(lambda: (procfs.read(child.pid) or (0,) * 6)[5] == "Z")

    assert procfs.command(child.pid) == "[true]"
    assert procfs.agent_id(child.pid) is None
    child.wait()


def test_children_of_every_thread_are_listed() -> None:
    script = (
        "import subprocess, threading, time\n"
        "def start():\n"
        "    subprocess.Popen(['sleep', '60']); time.sleep(60)\n"
        "for _ in range(3): threading.Thread(target=start, daemon=True).start()\n"
        "start()"
    )
    child = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)

    def four() -> bool:
        process = procfs.read(child.pid)
        return process is not None and len(procfs.children(child.pid, process.threads)) == 4

    eventually(four)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert procfs.children(child.pid, 1) == []


def test_many_children_are_all_listed() -> None:
    children = [subprocess.Popen(["/bin/sleep", "60"]) for _ in range(800)]

    listed = procfs.children(os.getpid(), 1 + threading.active_count())

    assert {child.pid for child in children} <= set(listed)
    for child in children:
        child.kill()
    for child in children:
        child.wait()


def test_stopped_process_is_still_and_a_running_thread_is_not(
    child: subprocess.Popen[bytes],
) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    eventually(lambda: procfs.is_still(procfs.read(child.pid)))  # type: ignore[arg-type] # it lives
    process = procfs.read(os.getpid())
    assert process is not None
    assert not procfs.is_still(process._replace(threads=2))
    assert not procfs.is_still(process._replace(threads=1, state="S"))


def test_this_process_is_among_all_of_them() -> None:
    assert os.getpid() in procfs.pids()
    assert procfs.knows_children() in (True, False)
