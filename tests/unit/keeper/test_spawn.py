"""The operation spawn, against a real keeper."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from descartesd.errors import (
    ConflictError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from descartesd.keeper import procfs
from tests.support.eventually import eventually
from tests.unit.keeper.harness import PYTHON, Keeper, alive, spawn_request

NOBODY = {"uid": 61_300, "gid": 61_300, "groups": []}


def test_spawn_answers_who_the_leader_is(keeper: Keeper) -> None:
    request = spawn_request("sleep", "60")
    keeper.spawned.append(request["agent_id"])

    facts = keeper.ask("spawn", **request)

    process = procfs.read(facts["pid"])
    assert process is not None
    assert facts["start_time"] == process.start_time
    assert process.session == process.pid
    status = keeper.status(request["agent_id"])
    assert status is not None
    assert (status["state"], status["attempt"], status["name"]) == ("running", 1, status["name"])
    assert status["started_at"] == facts["started_at"]


def test_start_times_are_those_the_kernel_tells(keeper: Keeper) -> None:
    # Enough of them for some to be started just when a tick ends, however fast the host is.
    requests = [spawn_request("sleep", "60") for _ in range(100)]
    keeper.spawned.extend(request["agent_id"] for request in requests)

    started = [keeper.ask("spawn", **request) for request in requests]
    told = {facts["pid"]: facts["start_time"] for facts in started}

    assert told == {pid: process.start_time for pid in told if (process := procfs.read(pid))}


def test_same_attempt_again_is_answered_without_a_second_process(keeper: Keeper) -> None:
    request = spawn_request("sleep", "60")
    keeper.spawned.append(request["agent_id"])

    first = keeper.ask("spawn", **request)
    second = keeper.ask("spawn", **request)
    keeper.ask("kill", agent_id=request["agent_id"])
    keeper.exited(request["agent_id"])
    third = keeper.ask("spawn", **request)

    assert first == second == third
    assert not alive(first["pid"])


def test_further_attempt_continues_the_output(keeper: Keeper) -> None:
    request = spawn_request("echo", "one")
    agent_id = keeper.spawn("echo", "one", agent_id=request["agent_id"])
    keeper.eof(agent_id)

    keeper.ask("spawn", **{**request, "attempt": 2, "argv": ["echo", "two"]})
    ended = keeper.eof(agent_id)

    assert keeper.out(agent_id) == b"one\ntwo\n"
    assert (ended["attempt"], ended["totals"]["stdout"]) == (2, 8)


def test_further_attempt_waits_until_the_earlier_tree_is_gone(keeper: Keeper) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do setsid sleep 60 & done; echo ready"
    request = spawn_request("sh", "-c", script)
    agent_id = keeper.spawn("sh", "-c", script, agent_id=request["agent_id"])
    keeper.exited(agent_id)

    keeper.ask("spawn", **{**request, "attempt": 2, "argv": ["sleep", "60"]})

    status = keeper.status(agent_id)
    assert status is not None
    assert (status["attempt"], status["state"], status["leftovers"]) == (2, "running", 0)
    assert alive(status["pid"])


def test_output_goes_on_after_a_forgotten_record(keeper: Keeper) -> None:
    agent_id = keeper.spawn("echo", "one")
    keeper.eof(agent_id)
    keeper.ask("forget", agent_id=agent_id)

    keeper.run("echo", "two", agent_id=agent_id, attempt=7)

    assert keeper.out(agent_id) == b"one\ntwo\n"


def test_further_attempt_of_a_running_agent_is_a_conflict(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sleep", "60", attempt=3)

    with pytest.raises(ConflictError, match=r"attempt 3 of agent .* is running"):
        keeper.spawn("true", agent_id=agent_id, attempt=4)
    with pytest.raises(ConflictError, match="attempt 2 is over"):
        keeper.spawn("true", agent_id=agent_id, attempt=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"argv": ["no-such-program"]}, "program 'no-such-program': not in any of"),
        ({"argv": ["/no/such"]}, "program '/no/such': No such file"),
        ({"argv": ["/etc/passwd"]}, "program '/etc/passwd': Permission denied"),
        ({"argv": ["/etc"]}, "program '/etc': Permission denied"),
        ({"argv": ["true", "x" * 200_000]}, "program 'true': Argument list too long"),
        ({"argv": ["true"], "cwd": "/no/such"}, "cwd '/no/such': No such file"),
        ({"argv": ["true"], "cwd": "/etc/passwd"}, "cwd '/etc/passwd': Not a directory"),
        ({"argv": ["true"], "cwd": "tmp"}, "cwd: expected an absolute path"),
        ({"argv": []}, "argv: expected a list of at least 1"),
        ({"argv": ["true", 1]}, "argv: expected a list"),
        ({"argv": ["true\0"]}, "argv: expected a list"),
        ({"argv": ["true"], "env": {"A=B": "1"}}, "env: expected names without '='"),
        ({"argv": ["true"], "env": {"A": 1}}, "value of 'A'"),
        ({"argv": ["true"], "stdin": "tty"}, "stdin: expected one of null, pipe"),
        ({"argv": ["true"], "attempt": 0}, "attempt: expected an integer from 1"),
        ({"argv": ["true"], "attempt": True}, "attempt: expected an integer"),
        ({"argv": ["true"], "output_bytes": -1}, "output_bytes: expected an integer"),
        ({"argv": ["true"], "stop": {"signal": 99, "grace_s": 1}}, "signal: expected an integer"),
        ({"argv": ["true"], "stop": {"signal": 9, "grace_s": -1}}, "grace_s: expected a finite"),
        ({"argv": ["true"], "agent_id": "../x"}, "agent_id: expected 1 to 64"),
        ({"argv": ["true"], "rlimits": {"cpu": 1}}, "no limit 'cpu'"),
        ({"argv": ["true"], "rlimits": {"nofile": 2**40}}, "over the keeper's own hard limit"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_spawn_that_cannot_work_leaves_nothing(
    keeper: Keeper, fields: dict[str, object], message: str
) -> None:
    before = keeper.descriptors(), set(os.listdir(keeper.output))
    request = {**spawn_request("true"), **fields}

    with pytest.raises(InvalidArgumentError) as error:
        keeper.ask("spawn", **request)

    assert message in error.value.message
    assert (keeper.descriptors(), set(os.listdir(keeper.output))) == before
    assert keeper.status(str(request["agent_id"])) is None


@pytest.mark.parametrize("user", [None, NOBODY], ids=["own", "another"])
def test_spawn_that_fails_leaves_no_private_directory_but_one_that_is_used(
    keeper: Keeper, user: dict[str, object] | None
) -> None:
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root starts agents as others")
    request = spawn_request("/etc/passwd", private_tmp=True, user=user)
    directory = Path(f"/tmp/descartes-{request['agent_id']}")

    with pytest.raises(InvalidArgumentError):
        keeper.ask("spawn", **request)
    assert not directory.exists()

    request["argv"] = ["sh", "-c", 'touch "$TMPDIR/used"']
    keeper.spawned.append(request["agent_id"])
    keeper.ask("spawn", **request)
    keeper.eof(request["agent_id"])
    request["argv"] = ["/etc/passwd"]
    with pytest.raises(InvalidArgumentError):
        keeper.ask("spawn", **{**request, "attempt": 2})
    assert (directory / "used").exists()


def test_errors_say_what_to_do_next(keeper: Keeper, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo hello\n")
    lost = tmp_path / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    lost.chmod(0o755)

    with pytest.raises(InvalidArgumentError, match="no execute permission") as unexecutable:
        keeper.ask("spawn", **spawn_request("script", path=[str(tmp_path)]))
    script.chmod(0o755)
    with pytest.raises(InvalidArgumentError, match="Exec format error") as no_format:
        keeper.ask("spawn", **spawn_request("script", path=[str(tmp_path)]))
    with pytest.raises(InvalidArgumentError, match="No such file") as no_interpreter:
        keeper.ask("spawn", **spawn_request(str(lost)))

    assert unexecutable.value.hint == f"chmod +x {script}"
    assert no_format.value.hint == "a script needs a first line such as #!/bin/sh"
    assert "interpreter" in (no_interpreter.value.hint or "")


def test_failed_further_attempt_leaves_the_earlier_one_as_it_was(keeper: Keeper) -> None:
    agent_id = keeper.spawn("sh", "-c", "echo one; exit 3")
    keeper.eof(agent_id)
    before = keeper.status(agent_id)

    with pytest.raises(InvalidArgumentError):
        keeper.spawn("no-such-program", agent_id=agent_id, attempt=2)

    assert keeper.status(agent_id) == before
    assert keeper.out(agent_id) == b"one\n"


def test_program_is_searched_in_the_directories_given_and_relative_to_cwd(
    keeper: Keeper, tmp_path: Path
) -> None:
    for directory in ("first", "second"):
        (tmp_path / directory).mkdir()
        program = tmp_path / directory / "program"
        program.write_text(f"#!/bin/sh\necho {directory} $0 $1\n")
        program.chmod(0o755)
    (tmp_path / "first" / "program").chmod(0o644)
    paths = [str(tmp_path / "first"), str(tmp_path / "second")]

    searched = keeper.spawn("program", "a", path=paths)
    relative = keeper.spawn("./program", "b", cwd=str(tmp_path / "second"))
    keeper.eof(searched)
    keeper.eof(relative)

    assert keeper.out(searched).decode() == f"second {tmp_path}/second/program a\n"
    assert keeper.out(relative) == b"second ./program b\n"


def test_capacity_ends_in_a_clean_error_and_frees_again(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper(wrapper=["sh", "-c", 'ulimit -n 80; exec "$@"', "sh"])
    started = []

    def fill() -> None:
        while True:
            started.append(keeper.spawn("sleep", "60"))

    with pytest.raises(ResourceExhaustedError, match="descriptors") as error:
        fill()

    assert started
    assert "LimitNOFILE" in (error.value.hint or "")
    assert keeper.ask("hello", version="1.0")["pid"] == keeper.process.pid
    keeper.ask("kill", agent_id=started[0])
    keeper.eof(started[0])
    keeper.ask("remove", agent_id=started[0])
    assert keeper.run("true")["exit_code"] == 0


def test_name_and_texts_are_utf8(keeper: Keeper) -> None:
    agent_id = keeper.spawn(*PYTHON, "import sys; print(ascii(sys.argv[1]))", "grüß", name="größe")
    keeper.eof(agent_id)

    status = keeper.status(agent_id)
    assert status is not None
    assert status["name"] == "größe"
    assert keeper.out(agent_id) == b"'gr\\xfc\\xdf'\n"


def test_further_attempt_does_not_wait_for_a_stranger_with_the_output_open(
    make_keeper: Callable[..., Keeper],
) -> None:
    keeper = make_keeper()
    # Own session, no environment, a parent that is gone: nothing tells whose it was.
    script = "env -i setsid sh -c '(sleep 60; echo late) & echo early'; exit 0"
    agent_id = keeper.spawn("sh", "-c", script)
    keeper.exited(agent_id)
    eventually(lambda: keeper.out(agent_id) == b"early\n")
    assert len(keeper.ask("strays")["strays"]) == 1

    keeper.spawn("echo", "second", agent_id=agent_id, attempt=2)
    keeper.eof(agent_id)

    assert keeper.out(agent_id) == b"early\nsecond\n"
