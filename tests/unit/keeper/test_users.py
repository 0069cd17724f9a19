"""Agents of other users: who they are, what they may open, and what they do not inherit."""

from __future__ import annotations

import os
import pwd
import select
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError, PermissionDeniedError
from descartesd.keeper import procfs
from descartesd.keeper.users import User, begin_as, do_as
from tests.support.eventually import eventually
from tests.unit.keeper.harness import Keeper, alive

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
# A uid nobody has, so that no other program runs as it.
UID = 61_234
OTHER = {"uid": UID, "gid": UID, "groups": [UID, 61_235]}
# Besides what it needs: the tests' interpreter may lie in a directory of root's.
CAPABILITIES = "+setuid,+setgid,+chown,+kill,+dac_read_search"
# The keeper's own directory is the one its socket is in, "$5".
BECOME_A_SERVICE = (
    f'chown {UID - 1} "${{5%/*}}" && exec setpriv --reuid={UID - 1} --regid={UID - 1}'
    f' --clear-groups --inh-caps={CAPABILITIES} --ambient-caps={CAPABILITIES} "$@"'
)
AS_A_SERVICE = ("sh", "-c", BECOME_A_SERVICE, "sh")


@pytest.fixture(params=["as root", "with capabilities"])
def changing(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    """A keeper that may start agents as others."""
    keeper = Keeper(wrapper=AS_A_SERVICE if request.param == "with capabilities" else ())
    try:
        yield keeper
        keeper.clear()
    finally:
        keeper.close()


@needs_root
def test_agent_is_the_user_asked_for_and_has_no_capability(changing: Keeper) -> None:
    assert "users" in changing.ask("hello", version="1.0")["features"]

    agent_id = changing.spawn("sh", "-c", "id -u; id -g; id -G; cat /proc/self/status", user=OTHER)

    assert changing.exited(agent_id)["exit_code"] == 0
    uid, gid, groups, *status = changing.out(agent_id).decode().splitlines()
    assert (uid, gid, groups) == (f"{UID}", f"{UID}", f"{UID} 61235")
    facts = dict(line.split(":\t") for line in status if ":\t" in line)
    assert facts["Uid"].split() == facts["Gid"].split() == [f"{UID}"] * 4
    for name in ("CapPrm", "CapEff", "CapAmb"):
        assert int(facts[name], 16) == 0


@needs_root
@pytest.mark.parametrize("tty", [None, {"rows": 24, "cols": 80}])
def test_agent_may_open_its_output_anew(changing: Keeper, tty: dict[str, int] | None) -> None:
    script = "echo one > /dev/stdout; echo two > /dev/stderr; echo three >> /proc/self/fd/1"
    agent_id = changing.spawn("sh", "-c", script, user=OTHER, **({"tty": tty} if tty else {}))

    assert changing.exited(agent_id)["exit_code"] == 0
    changing.eof(agent_id)
    written = changing.out(agent_id) + changing.out(agent_id, "stderr")
    assert sorted(written.split()) == [b"one", b"three", b"two"]
    assert stat.S_IMODE(os.stat("/dev/null").st_mode) == 0o666
    assert os.stat("/dev/null").st_uid == 0


@needs_root
def test_program_and_cwd_are_looked_up_as_the_agents_user(changing: Keeper, tmp_path: Path) -> None:
    (closed := tmp_path / "closed").mkdir(mode=0o700)
    (program := closed / "program").write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.chown(closed, UID - 2, UID - 2)

    for fields in ({}, {"trial": True}):
        with pytest.raises(InvalidArgumentError, match=f"cwd '{closed}': Permission denied"):
            changing.spawn("true", cwd=str(closed), user=OTHER, **fields)
        with pytest.raises(InvalidArgumentError, match="'program': not in any of"):
            changing.spawn("program", path=[str(closed)], user=OTHER, **fields)
        with pytest.raises(InvalidArgumentError, match=f"'{program}': Permission denied"):
            changing.spawn(str(program), user=OTHER, **fields)
    assert changing.children() == []


@needs_root
def test_verbs_reach_an_agent_of_another_user(changing: Keeper) -> None:
    agent_id = changing.spawn(
        "sh", "-c", "trap 'exit 5' TERM; sleep 300 & echo on; wait", user=OTHER
    )
    changing.wait_out(agent_id, b"on")

    assert changing.ask("signal", agent_id=agent_id, signal=signal.SIGCONT) == {"count": 2}
    changing.ask("pause", agent_id=agent_id)
    changing.ask("resume", agent_id=agent_id)
    changing.ask("stop", agent_id=agent_id)

    assert changing.exited(agent_id)["exit_code"] == 5
    assert changing.ask("strays") == {"strays": []}


@needs_root
@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_what_left_its_agent_unseen_is_known_by_the_name_it_has(
    changing: Keeper, verb: str
) -> None:
    def left() -> int:
        return int(changing.wait_out(agent_id, b"\n").split()[0])

    # In a session of its own, and an orphan before anybody has looked.
    script = "(setsid sleep 300 & echo $!); sleep 300"
    agent_id = changing.spawn("sh", "-c", script, user=OTHER)
    eventually(lambda: left() in changing.children(), timeout=20)

    changing.ask("pause", agent_id=agent_id)
    assert (process := procfs.read(left())) is not None
    assert procfs.is_still(process)
    changing.ask("resume", agent_id=agent_id)
    assert changing.ask("strays") == {"strays": []}
    changing.ask(verb, agent_id=agent_id)

    changing.exited(agent_id)
    assert not alive(left())
    assert changing.children() == []


@needs_root
def test_what_names_no_agent_is_told_and_left_alone(changing: Keeper) -> None:
    script = "(setsid env -i sleep 301 & echo $!); sleep 300"
    agent_id = changing.spawn("sh", "-c", script, user=OTHER)
    pid = int(changing.wait_out(agent_id, b"\n").split()[0])
    eventually(lambda: pid in changing.children(), timeout=20)
    eventually(lambda: procfs.command(pid) == "sleep 301", timeout=20)

    changing.ask("kill", agent_id=agent_id)

    changing.exited(agent_id)
    (stray,) = changing.ask("strays")["strays"]
    assert (stray["pid"], stray["command"]) == (pid, "sleep 301")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: changing.children() == [], timeout=20)


@needs_root
def test_agent_reaches_neither_its_keeper_nor_its_files(changing: Keeper) -> None:
    keeper = changing.process.pid
    script = (
        f"kill -0 {keeper}; cat {changing.output}/*; echo x >> {changing.output}/x;"
        f" cat /proc/{keeper}/environ; ls /proc/{keeper}/fd; cat < {changing.socket}"
    )
    agent_id = changing.spawn("sh", "-c", f"echo begun; {script}; true", user=OTHER)

    assert changing.exited(agent_id)["exit_code"] == 0
    assert changing.out(agent_id) == b"begun\n"
    refusals = [line for line in changing.out(agent_id, "stderr").decode().split("\n") if line]
    assert len(refusals) == 6
    assert all("ermi" in line for line in refusals)


@needs_root
def test_private_directory_is_the_users_and_goes_with_the_agent(changing: Keeper) -> None:
    script = (
        'stat -c "%a %u" "$TMPDIR"; echo "$TMPDIR"; mkdir -p "$TMPDIR/a/b";'
        ' ln -s /etc "$TMPDIR/a/c"; touch "$TMPDIR/a/b/d"; chmod 0 "$TMPDIR/a/b" "$TMPDIR/a"'
    )
    agent_id = changing.spawn("sh", "-c", script, user=OTHER, private_tmp=True)
    assert changing.exited(agent_id)["exit_code"] == 0
    mode, path = changing.out(agent_id).decode().splitlines()

    assert mode == f"700 {UID}"
    assert path.endswith(f"/descartes-{agent_id}")
    changing.spawn("true", agent_id=agent_id, attempt=2, user=OTHER, private_tmp=True)
    changing.exited(agent_id)

    changing.ask("remove", agent_id=agent_id)

    assert not os.path.lexists(path)
    assert os.path.exists("/etc/passwd")
    assert changing.children() == []


@needs_root
def test_tasks_are_limited_where_nothing_else_runs_as_the_user(changing: Keeper) -> None:
    many = "i=0; while [ $i -lt 20 ]; do sleep 300 & i=$((i + 1)); done; echo all"
    agent_id = changing.spawn("sh", "-c", many, user=OTHER, limits={"tasks": 8})

    ended = changing.exited(agent_id)

    assert ended["limits_enforced"] == {"tasks": True}
    assert ended["exit_code"] == 2
    assert b"fork" in changing.out(agent_id, "stderr")


def test_keeper_that_may_not_change_refuses_other_users(keeper: Keeper) -> None:
    wrapper = ("setpriv", "--bounding-set=-setuid") if os.getuid() == 0 else ()
    weak = Keeper(wrapper=wrapper)
    try:
        assert "users" not in weak.ask("hello", version="1.0")["features"]
        with pytest.raises(PermissionDeniedError, match="starts nothing as another"):
            weak.spawn("true", user=OTHER)
        own = {"uid": os.getuid(), "gid": os.getgid(), "groups": []}
        assert weak.run("true", user=own)["exit_code"] == 0
    finally:
        weak.close()


@needs_root
def test_work_as_another_tells_its_result_or_its_error() -> None:
    nobody = pwd.getpwnam("nobody")
    user = User(nobody.pw_uid, nobody.pw_gid, [])

    def refuse() -> None:
        raise InvalidArgumentError("no", hint="never")

    assert do_as(user, os.geteuid) == nobody.pw_uid
    assert do_as(user, lambda: b"\0" * 200_000) == b"\0" * 200_000
    with pytest.raises(PermissionError) as denied:
        do_as(user, lambda: os.listdir("/root"))
    assert denied.value.filename == "/root"
    with pytest.raises(InvalidArgumentError, match="no") as refused:
        do_as(user, refuse)
    assert refused.value.hint == "never"
    assert os.geteuid() == 0


def test_long_work_holds_no_descriptor_of_its_parent() -> None:
    reader, writer = os.pipe()
    pid = begin_as(None, signal.pause)
    try:
        os.close(writer)

        ended, _, _ = select.select([reader], [], [], 5)

        assert ended
        assert os.read(reader, 1) == b""
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
