from __future__ import annotations

import io

import pytest

from descartesd.ctl.output import Output
from descartesd.ctl.said import columns, details
from descartesd.wire.agent import AgentInfo, AgentSpec
from descartesd.wire.said import EventLines, Question


def agent(**fields: object) -> AgentInfo:
    known = {
        "id": "01hzx5q2k7m3n4p5r6s7",
        "name": "build-7",
        "owner": "uid:1000",
        "server_id": "s",
        "state": "running",
        "spec": AgentSpec(command=["sh"]),
        "created_at": 1000.0,
    }
    return AgentInfo(**(known | fields))  # type: ignore[arg-type]


def test_listing_has_a_column_only_for_what_an_agent_has_said() -> None:
    assert list(columns([agent()])) == []
    assert list(columns([agent(), agent(activity="idle"), agent(tokens=0)])) == [
        "ACTIVITY",
        "TOKENS",
    ]


def test_columns_stand_before_the_command() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")

    Output(stdout=out).agents([agent(cost_usd=0.0491, progress=0.4), agent(title="t" * 99)])

    out.flush()
    head, first, second = out.buffer.getvalue().decode().splitlines()  # type: ignore[attr-defined]
    assert head.split()[-5:] == ["OUTCOME", "PROGRESS", "COST", "TITLE", "COMMAND"]
    assert first.split()[-4:] == ["40%", "$0.0491", "-", "sh"]
    assert second.split()[-2:] == ["t" * 39 + "…", "sh"]


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"activity": "waiting"}, ("activity", "waiting")),
        ({"activity": "unknown"}, ("activity", "-")),
        (
            {"question": Question(id="q", tool="Bash", input='{"a":1}')},
            ("question", 'Bash {"a":1}'),
        ),
        ({"question": Question(id="q", tool="Bash", input="{}")}, ("question id", "q")),
        ({"session_id": "s1"}, ("session", "s1")),
        ({"tokens": 0}, ("tokens", "0")),
        ({"cost_usd": 12.345}, ("cost", "$12.35")),
        (
            {"event_lines": EventLines(read=3, foreign=1, too_long=2)},
            ("events", "3 read, 1 of another agent, 2 too long"),
        ),
    ],
)
def test_details_tell_what_was_said(fields: dict[str, object], row: tuple[str, str]) -> None:
    assert row in details(agent(**fields))
