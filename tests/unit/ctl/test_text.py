from __future__ import annotations

import pytest

from descartesd.ctl.text import (
    age,
    agent_details,
    agent_row,
    coloured,
    moment,
    outcome,
    pairs,
    safe,
    seconds,
    size,
    table,
    timestamp,
)
from descartesd.wire.agent import AgentInfo, AgentSpec, Outcome, Restart


def agent(**fields: object) -> AgentInfo:
    known = {
        "id": "01hzx5q2k7m3n4p5r6s7",
        "name": "build-7",
        "owner": "uid:1000",
        "server_id": "s",
        "state": "running",
        "spec": AgentSpec(command=["sh", "-c", "echo hi"], env={"TOKEN": "hunter2"}),
        "created_at": 1000.0,
    }
    return AgentInfo(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (192, "3m12s"),
        (3600, "1h00m"),
        (7500, "2h05m"),
        (90000, "1d01h"),
    ],
)
def test_age_has_two_units_at_most(seconds: float, expected: str) -> None:
    assert age(seconds) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcode", "plain ünïcode"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("evil\u202etxt", "evil\\u202etxt"),
        ("\u2028", "\\u2028"),
    ],
)
def test_safe_escapes_what_a_terminal_would_obey(text: str, expected: str) -> None:
    assert safe(text) == expected


def test_table_is_aligned_with_two_spaces_and_has_no_trailing_ones() -> None:
    lines = table(("ID", "NAME"), [("a", "x\x1b"), ("bbb", "")])

    assert lines == ["ID   NAME", "a    x\\x1b", "bbb"]


def test_pairs_align_their_values() -> None:
    assert pairs([("a", "1"), ("long", "2")]) == ["a     1", "long  2"]
    assert pairs([]) == []


def test_row_of_an_agent_counts_its_age_from_the_start_to_the_end() -> None:
    row = agent_row(agent(started_at=1010.0, pid=7), 1075.0)
    ended = agent_row(
        agent(
            started_at=1010.0,
            ended_at=1020.0,
            state="failed",
            outcome=Outcome(reason="exit", exit_code=3),
        ),
        5000.0,
    )

    assert row == (
        "01hzx5q2k7m3n4p5r6s7", "build-7", "running", "1m05s", "7", "-", "sh -c 'echo hi'",
    )  # fmt: skip
    assert ended[2:6] == ("failed", "10s", "-", "exit 3")


def test_long_command_is_cut_in_a_row() -> None:
    row = agent_row(agent(spec=AgentSpec(command=["x" * 500])), 0)

    assert len(row[-1]) == 60
    assert row[-1].endswith("…")


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (None, "-"),
        (Outcome(reason="exit", exit_code=0), "exit 0"),
        (Outcome(reason="signal", signal=9), "KILL"),
        (Outcome(reason="signal", signal=63), "signal 63"),
        (Outcome(reason="stopped", signal=15), "stopped"),
        (Outcome(reason="keeper_lost"), "keeper_lost"),
    ],
)
def test_outcome_says_how_it_ended(ended: Outcome | None, expected: str) -> None:
    assert outcome(agent(outcome=ended)) == expected


def test_details_tell_why_it_could_not_be_started() -> None:
    ended = Outcome(reason="spawn_error", message="program 'x': not found")

    assert dict(agent_details(agent(outcome=ended), 1060.0))["outcome"] == (
        "spawn_error: program 'x': not found"
    )


def test_details_name_environment_variables_and_not_their_values() -> None:
    rows = dict(agent_details(agent(), 1060.0))

    assert rows["env"] == "TOKEN"
    assert rows["created"] == "1970-01-01 00:16:40Z (1m00s ago)"
    assert "hunter2" not in str(rows)
    assert "ended" not in rows


def test_row_says_what_an_agent_waits_for() -> None:
    waiting = agent_row(agent(state="queued", queue_position=3), 1060.0)
    failed = Outcome(reason="exit", exit_code=2)
    resting = agent_row(agent(state="backoff", outcome=failed, next_start_at=1075.5), 1060.0)

    assert (waiting[2], waiting[5]) == ("queued", "queued 3")
    assert (resting[2], resting[5]) == ("backoff", "exit 2, again in 15s")


def test_details_tell_of_queue_and_restarts() -> None:
    policy = Restart(policy="on-failure", max_restarts=5)
    wanted = AgentSpec(command=["true"], priority=-3, restart=policy)
    rows = dict(
        agent_details(
            agent(spec=wanted, restarts=2, queue_position=7, next_start_at=1075.5), 1060.0
        )
    )
    plain = dict(agent_details(agent(), 1060.0))

    assert (rows["restart"], rows["restarts"]) == ("on-failure", "2 of 5")
    assert (rows["priority"], rows["queue position"], rows["next start"]) == ("-3", "7", "in 15s")
    assert not {"restart", "restarts", "priority", "queue position", "next start"} & plain.keys()


def test_moment_that_never_was_is_a_dash() -> None:
    assert moment(None, 0) == "-"


def test_state_alone_is_coloured() -> None:
    assert coloured("a  running  b running", "running") == "a  \x1b[32mrunning\x1b[0m  b running"
    assert coloured("a  queued  b", "queued") == "a  queued  b"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (1000.25, "1970-01-01T00:16:40.250Z"),
        (1000.9996, "1970-01-01T00:16:41.000Z"),
    ],
)
def test_timestamp_is_utc_to_the_millisecond(when: float, expected: str) -> None:
    assert timestamp(when) == expected


@pytest.mark.parametrize(
    ("duration", "expected"), [(0.0000853, "85µs"), (0.00124, "1.2ms"), (3.4, "3.40s")]
)
def test_short_durations_keep_two_or_three_digits(duration: float, expected: str) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 50, "5120.0 TiB")],
)
def test_size_has_a_unit_of_1024(count: int, expected: str) -> None:
    assert size(count) == expected
