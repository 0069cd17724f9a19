from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from descartesd.ctl.output import Output, chunk_item, error_item
from descartesd.errors import ConflictError, NotFoundError
from descartesd.wire.agent import OutputChunk
from tests.unit.ctl.test_text import agent

CTL = Path(sys.executable).parent / "descartesctl"


class Captured:
    """An Output and what it printed."""

    def __init__(self, *, json: bool = False, quiet: bool = False, encoding: str = "utf-8") -> None:
        self._out, self._err = io.BytesIO(), io.BytesIO()
        self.output = Output(
            json=json,
            quiet=quiet,
            stdout=io.TextIOWrapper(self._out, encoding=encoding),
            stderr=io.TextIOWrapper(self._err, encoding=encoding),
        )

    @property
    def out(self) -> bytes:
        return self._out.getvalue()

    @property
    def err(self) -> bytes:
        return self._err.getvalue()


def chunk(data: bytes, stream: str = "stdout") -> OutputChunk:
    return OutputChunk(
        stream=stream,  # type: ignore[arg-type]
        data=data,
        offset=5,
        next_offset=5 + len(data),
        total=100,
        truncated_before=0,
        eof=False,
        time=12.5,
    )


def test_listing_for_people_has_headers_and_a_line_each() -> None:
    printed = Captured()

    printed.output.agents([agent(), agent(name="other")])

    header, *lines = printed.out.decode().splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "AGE", "PID", "OUTCOME", "COMMAND"]
    assert [line.split()[1] for line in lines] == ["build-7", "other"]


def test_listing_as_json_is_one_object_with_the_total() -> None:
    printed = Captured(json=True)

    printed.output.agents([agent()])

    assert printed.out.count(b"\n") == 1
    listing = json.loads(printed.out)
    assert listing["total"] == 1
    assert listing["agents"][0]["spec"]["command"] == ["sh", "-c", "echo hi"]
    assert listing["agents"][0]["outcome"] is None


def test_quiet_prints_ids_only() -> None:
    printed = Captured(quiet=True)

    printed.output.agents([agent(), agent(id="b")])

    assert printed.out == b"01hzx5q2k7m3n4p5r6s7\nb\n"


def test_results_hold_an_agent_or_an_error_each() -> None:
    printed = Captured(json=True)

    printed.output.results(["x", "y"], [agent(), NotFoundError("no agent 'y'", hint="look")])

    document = json.loads(printed.out)
    assert (document["succeeded"], document["failed"]) == (1, 1)
    first, second = document["results"]
    assert (first["id"], first["ok"], first["agent"]["name"]) == ("x", True, "build-7")
    assert second == {
        "id": "y",
        "ok": False,
        "error": {
            "code": "not_found",
            "message": "no agent 'y'",
            "retryable": False,
            "hint": "look",
        },
    }
    assert printed.err == b""


def test_results_for_people_tell_each_refusal_on_stderr() -> None:
    printed = Captured()

    printed.output.results(["x", "y"], [agent(), NotFoundError("no agent 'y'")])
    printed.output.flush()

    assert len(printed.out.splitlines()) == 2
    assert printed.err == b"error: y: no agent 'y'\n"


def test_results_of_nothing_are_an_empty_table() -> None:
    printed = Captured()

    printed.output.results([], [])
    printed.output.flush()

    assert printed.out.decode().split()[:2] == ["ID", "NAME"]
    assert printed.err == b""


def test_results_without_their_agents_are_counted() -> None:
    printed, quiet, json_lines = Captured(), Captured(quiet=True), Captured(json=True)

    for each in (printed, quiet, json_lines):
        each.output.results(["x", "y"], [agent(), None])
        each.output.flush()

    assert len(printed.out.splitlines()) == 2
    assert printed.err == b"1 more succeeded, not shown\n"
    assert quiet.out.split() == [b"01hzx5q2k7m3n4p5r6s7", b"y"]
    document = json.loads(json_lines.out)
    assert (document["succeeded"], document["results"][1]) == (
        2,
        {"id": "y", "ok": True, "agent": None},
    )
    assert json_lines.err == b""


@pytest.mark.parametrize(
    ("manner", "expected"),
    [({}, b"it is so\n"), ({"quiet": True}, b"7\n"), ({"json": True}, b'{"a":1}\n')],
)
def test_item_of_a_stream_is_printed_at_once(manner: dict[str, bool], expected: bytes) -> None:
    printed = Captured(**manner)

    printed.output.item({"a": 1}, id="7", line="it is so")

    assert printed.out == expected


def test_note_is_for_people_and_no_data() -> None:
    printed, json_lines = Captured(), Captured(json=True)

    printed.output.note("by \x1b the way")
    json_lines.output.note("by the way")

    assert (printed.out, printed.err) == (b"", b"by \\x1b the way\n")
    assert (json_lines.out, json_lines.err) == (b"", b"")


def test_lines_of_an_error_are_below_one_another_and_none_passes_for_a_hint() -> None:
    printed = Captured()

    printed.output.error(ConflictError("d.toml: a\nhint: b\x1b[2J", hint="c"))

    assert printed.err.decode() == "error: d.toml: a\n       hint: b\\x1b[2J\nhint: c\n"


def test_error_for_people_is_escaped_and_its_hint_may_have_lines() -> None:
    printed = Captured()

    printed.output.error(ConflictError("agent '\x1b[2J' is paused", hint="do:\n[a]\nb = 1"))

    assert printed.err.decode() == "error: agent '\\x1b[2J' is paused\nhint: do:\n[a]\nb = 1\n"
    assert printed.out == b""


def test_error_as_json_is_one_line_without_empty_keys() -> None:
    printed = Captured(json=True)

    printed.output.error(ConflictError("it is so", details={"state": "paused"}))

    assert printed.err.count(b"\n") == 1
    assert json.loads(printed.err) == {
        "error": {
            "code": "conflict",
            "message": "it is so",
            "retryable": False,
            "details": {"state": "paused"},
        }
    }
    assert "hint" not in error_item(ConflictError("x"))


def test_output_of_an_agent_goes_verbatim_to_the_stream_of_its_name() -> None:
    printed = Captured()

    printed.output.chunk(chunk(b"\x00\xff\x1b[31m"))
    printed.output.chunk(chunk(b"oops", "stderr"))
    printed.output.chunk(chunk(b""))

    assert printed.out == b"\x00\xff\x1b[31m"
    assert printed.err == b"oops"


def test_output_of_an_agent_as_json_is_text_or_base64() -> None:
    printed = Captured(json=True)

    printed.output.chunk(chunk("grün\n".encode()))
    printed.output.chunk(chunk(b"\xff\x00", "stderr"))

    assert [json.loads(line) for line in printed.out.splitlines()] == [
        {"stream": "stdout", "offset": 5, "data": "grün\n", "time": 12.5},
        {"stream": "stderr", "offset": 5, "data_base64": "/wA=", "time": 12.5},
    ]
    assert "data_base64" not in chunk_item(chunk(b"x"))


def test_text_the_terminal_cannot_show_is_escaped() -> None:
    printed = Captured(encoding="ascii")

    printed.output.text("✓ grün")
    printed.output.flush()

    assert printed.out == b"\\u2713 gr\\xfcn\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colour_stands_on_a_terminal_without_no_color_alone(
    environ: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:
        output = Output(stdout=terminal)

        output.agent(agent())
        output.flush()

        printed = os.read(ours, 4096)
    os.close(ours)

    assert (b"\x1b[32mrunning\x1b[0m" in printed) is expected


def test_nothing_is_coloured_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    printed = Captured()

    printed.output.agent(agent())

    assert b"\x1b" not in printed.out


def test_reader_that_went_away_ends_it_quietly() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)

    done = subprocess.run(
        [CTL, "help", "exit-codes"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(write_end)

    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.parametrize("words", ["help exit-codes", "agent list --help", "--json help"])
@pytest.mark.parametrize(
    ("target", "status", "error"),
    [
        (">&-", 2, "standard output is closed"),
        (">/dev/full", 8, "standard output cannot be written: No space left on device"),
        (">&- 2>&-", 2, ""),
        (">/dev/full 2>/dev/full", 8, ""),
    ],
)
def test_standard_output_that_takes_nothing_is_an_error_that_names_it(
    words: str, target: str, status: int, error: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{CTL} {words} {target}"], capture_output=True, timeout=30, check=False
    )

    assert done.returncode == status
    assert error in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_closed_standard_error_hinders_nothing() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{CTL} help exit-codes 2>&-"], capture_output=True, timeout=30, check=False
    )

    assert done.returncode == 0
    assert done.stdout


def test_what_is_gone_of_an_agents_output_is_told_to_people() -> None:
    printed, quiet, json_lines = Captured(), Captured(quiet=True), Captured(json=True)
    first = replace(chunk(b"one\n"), truncated_before=5)
    second = replace(chunk(b"two\n"), offset=30, next_offset=34, truncated_before=30)
    third = replace(second, data=b"end\n", offset=34, next_offset=38)

    for each in (printed, quiet, json_lines):
        for part in (first, second, third):
            each.output.chunk(part)

    assert printed.out == quiet.out == b"one\ntwo\nend\n"
    assert printed.err.decode().splitlines() == [
        "the first 5 bytes of stdout were dropped: more was written than is kept",
        "21 further bytes of stdout were dropped: more was written than is kept",
    ]
    assert quiet.err == json_lines.err == b""
    assert len(json_lines.out.splitlines()) == 3
