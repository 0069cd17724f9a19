"""What the recorded lines of real agents say, file by file, and what a hostile one may print."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from descartesd.agents.dialects import DIALECTS
from descartesd.agents.dialects.report import Report
from descartesd.agents.hearing import Splitter, take
from descartesd.wire.said import EventLines

RECORDED = Path(__file__).parents[2] / "data" / "agent-events"


class Said(NamedTuple):
    """What an report is to say at the end; `activities` are those after each line, in order."""

    activities: str
    session: str | None
    tokens: int | None
    cost: float | None
    verdict: str | None


def _expected() -> dict[str, Said]:
    rows = (RECORDED / "expected.tsv").read_text().splitlines()[1:]
    found = {}
    for row in rows:
        name, *cells = (None if cell == "-" else cell for cell in row.split("\t"))
        activities, session, tokens, cost, verdict = cells
        sums = tokens and int(tokens), cost and float(cost)
        found[str(name)] = Said(str(activities), session, *sums, verdict)  # type: ignore[arg-type]
    return found


EXPECTED = _expected()


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.ndjson").read_bytes()


def heard(data: bytes, dialect: str, report: Report | None = None) -> tuple[Report, str]:
    """The report after all of the lines, and the activities it went through."""
    report = report or Report()
    activities = [str(report.activity)]
    for line in Splitter().feed(data):
        take(line, report, dialect, ("me",))
        if report.activity != activities[-1]:
            activities.append(report.activity)
    return report, " ".join(activities).removeprefix("unknown ")


def said(*lines: object, dialect: str = "auto", report: Report | None = None) -> Report:
    """The report after these lines."""
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    return heard(data, dialect, report)[0]


def test_every_recording_is_expected() -> None:
    assert {path.stem for path in RECORDED.glob("*.ndjson")} == set(EXPECTED) | {"copilot.run"}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("given", ["named", "auto"])
def test_recording_says(name: str, given: str) -> None:
    dialect = name.partition(".")[0] if given == "named" else "auto"

    report, activities = heard(recorded(name), dialect)

    expected = EXPECTED[name]
    assert activities == expected.activities
    assert report.session_id == expected.session
    assert report.tokens == expected.tokens
    assert report.cost_usd == (expected.cost and pytest.approx(expected.cost))
    assert report.verdict == expected.verdict
    assert report.lacks_result == (expected.verdict != "success")
    assert report.lines() == EventLines(read=recorded(name).count(b"\n"))


def test_program_without_a_dialect_is_only_counted() -> None:
    report, activities = heard(recorded("copilot.run"), "auto")

    assert (activities, report.lines()) == ("unknown", EventLines(ignored=49))
    assert not report.lacks_result


@pytest.mark.parametrize("name", [name for name in EXPECTED if "run" in name or "perm" in name])
def test_report_goes_on_from_its_record_after_any_line(name: str) -> None:
    whole, _ = heard(recorded(name), "auto")
    report = Report()

    for line in recorded(name).splitlines(keepends=True):
        report, _ = heard(line, "auto", report)
        report = msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report)

    assert report == whole


def test_question_is_asked_and_gone_once_answered() -> None:
    report = Report()
    asked = []

    for line in recorded("claude.states-permission").splitlines(keepends=True):
        heard(line, "claude", report)
        asked.append([(each.tool, each.id[:8], each.input) for each in report.questions])

    tool_input = (
        b'{"command":"rm -rf /tmp/nonexistent-zzz","description":"run the requested command"}'
    )
    assert asked[5:8] == [[], [("Bash", "fe03bc40", tool_input)], []]


def test_sums_go_on_over_attempts_and_count_a_resumed_conversation_once() -> None:
    report = Report()
    for attempt, name in enumerate(("claude.hello", "claude.resume", "claude.run"), 1):
        report.next_attempt(attempt, "initializing")
        heard(recorded(name), "claude", report)

    assert report.tokens == 12_321 + 12_350 + 24_733
    # The second tells the sum of the first two.
    assert report.cost_usd == pytest.approx(0.098908 + 0.099092)


def test_sum_that_began_anew_in_the_same_conversation_is_added() -> None:
    usage = {"type": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 5}}

    report = said({"type": "thread.started", "thread_id": "t1"}, usage, usage)
    assert report.tokens == 15

    smaller = {"type": "turn.completed", "usage": {"input_tokens": 3}}
    assert said(smaller, report=report).tokens == 18


def test_several_tools_at_once_are_work_until_the_last_is_done() -> None:
    def tool(number: int) -> dict[str, object]:
        return {
            "type": "assistant",
            "session_id": "s",
            "message": {"content": [{"type": "tool_use", "id": f"t{number}"}]},
        }

    def done(number: int) -> dict[str, object]:
        return {
            "type": "user",
            "session_id": "s",
            "message": {"content": [{"type": "tool_result", "tool_use_id": f"t{number}"}]},
        }

    report = said(tool(1), tool(2), done(1))
    assert report.activity == "working"
    assert said(done(2), report=report).activity == "thinking"


def test_missing_end_of_a_tool_is_made_up_for_by_what_the_model_says() -> None:
    report = said(
        {"type": "turn.started"},
        {"type": "item.started", "item": {"id": "i1", "type": "mcp_tool_call"}},
    )
    assert report.activity == "working"

    message = {"type": "item.completed", "item": {"id": "i2", "type": "agent_message"}}
    assert said(message, report=report).activity == "thinking"


def test_last_step_of_opencode_decides() -> None:
    stop = {"type": "step_finish", "sessionID": "s", "part": {"reason": "stop"}}

    report = said(stop, {"type": "step_start", "sessionID": "s"})
    assert report.lacks_result

    assert not said(stop, report=report).lacks_result


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.25, 0.25),
        ({"percentage": 40}, 0.4),
        ({"current_step": 1, "total_steps": 4, "message": "half"}, 0.25),
        ({"current_step": 1, "total_steps": 0}, None),
        (1.5, None),
        (-1, None),
        ({}, None),
    ],
)
def test_plain_dialect_tells_progress(progress: object, expected: float | None) -> None:
    report = said({"type": "progress_update", "agent_id": "me", "progress": progress})

    assert report.progress == expected


def test_plain_dialect_tells_all_seven_kinds() -> None:
    activities = []
    report = Report()
    for line in (
        {"type": "lifecycle", "event": "started"},
        {"type": "status_update", "status": "running"},
        {"type": "thought_update", "thought": "why"},
        {"type": "output", "stream": "stdout", "content": "x"},
        {"type": "error", "error": "no"},
        {"type": "heartbeat"},
        {"type": "status_update", "status": "idle"},
        {"type": "lifecycle", "event": "completed"},
    ):
        said({**line, "agent_id": "me", "timestamp": 1.0}, report=report)
        activities.append(report.activity)

    assert activities == ["thinking", "working", *["thinking"] * 4, "idle", "idle"]
    assert report.lines() == EventLines(read=8)
    assert report.verdict == "success"


def test_agent_that_tells_no_lifecycle_needs_no_final_event() -> None:
    assert not said({"type": "heartbeat", "agent_id": "me"}).lacks_result
    assert said({"type": "lifecycle", "event": "started"}).lacks_result


def test_event_of_another_agent_is_counted_and_not_believed() -> None:
    report = said(
        {"type": "status_update", "agent_id": "other", "status": "idle"},
        {"type": "lifecycle", "agent_id": "other", "event": "completed"},
    )

    assert (report.activity, report.verdict, report.foreign) == ("unknown", None, 2)


@pytest.mark.parametrize("session", ["--help", "a b", "a\nb", "x" * 200, ""])
def test_session_that_could_be_an_option_is_none(session: str) -> None:
    report = said({"type": "system", "subtype": "init", "session_id": session})

    assert report.session_id is None


def test_what_is_no_event_is_counted_and_never_raises() -> None:
    lines = [
        b"plain words", b"\xff\xfe\x00", b"{", b'{"type": ', b"[1, 2]", b"null", b'"text"', b"{}",
        b'{"type": 5}', b'{"type":"x","session_id":["x"]}', b'{"type":"assistant","message":7}',
        b"[" * 100_000, b'{"type":' * 10_000, b'{"type":"result","x":' + b"[" * 100_000,
        b'{"type":"' + b"\\ud800" + b'"}', b'{"type":"result","usage":{"input_tokens":1e400}}',
    ]  # fmt: skip

    report, _ = heard(b"\n".join(lines) + b"\n\n  \r\n", "auto")

    assert report.lines() == EventLines(ignored=len(lines))


def test_absurd_numbers_stay_within_bounds() -> None:
    report = said(
        {
            "type": "result",
            "session_id": "s",
            "is_error": False,
            "total_cost_usd": 1e300,
            "usage": {"input_tokens": 2**63, "output_tokens": 2**63},
        },
        {"type": "result", "session_id": "s", "is_error": False, "usage": {"input_tokens": -5}},
    )

    assert report.tokens == 1 << 53
    assert report.cost_usd == 1e9
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report


def test_report_stays_small_whatever_an_agent_prints() -> None:
    tool = {"type": "tool_use", "tool_name": "x"}
    question = {"type": "control_request", "request": {"subtype": "can_use_tool", "input": {}}}

    report = said(
        *({**tool, "tool_id": f"{n}{'x' * 1000}"} for n in range(1000)),
        *({**question, "request_id": f"q{n}"} for n in range(1000)),
    )

    assert [each.id for each in report.questions] == ["q996", "q997", "q998", "q999"]
    assert len(msgspec.msgpack.encode(report)) < 100_000


def test_question_asked_again_under_its_id_stays_what_was_seen() -> None:
    first, second = (
        {
            "type": "control_request",
            "request_id": "q",
            "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": run}},
        }
        for run in ("ls", "rm -r /")
    )

    report = said(first, second)

    assert [each.input for each in report.questions] == [b'{"command":"ls"}']


@pytest.mark.parametrize("dialect", DIALECTS)
def test_damaged_recordings_never_raise(dialect: str) -> None:
    draw = random.Random(dialect)
    for name in EXPECTED:
        data = bytearray(recorded(name)[:20_000])
        for _ in range(200):
            data[draw.randrange(len(data))] = draw.randrange(256)
        heard(bytes(data), dialect)
