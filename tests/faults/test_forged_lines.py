"""What an agent or a client says forges no line of ours and moves no cursor."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.observe.logs import set_up
from descartesd.wire.agent import AgentSpec, Tty
from tests.support.eventually import eventually
from tests.support.server import running

# A line of its own, a cursor, DEL, a one-byte CSI, text that runs backwards, a tag.
EVIL = 'x\nerror: forged\r{"event":"forged"}\x1b[2J\x1b]0;owned\x07\x7f\x9b31m\u202eabc\U000e0001'


@contextmanager
def logging_to(style: str) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, quiet = root.handlers[:], root.level, logging.getLogger("asyncio").level
    stream = io.StringIO()
    try:
        set_up("info", style, stream)  # type: ignore[arg-type]
        yield stream
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("asyncio").setLevel(quiet)


def fail() -> None:
    raise ValueError(EVIL)


def log_an_exception() -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("test").exception("agent.broken", extra={"agent": EVIL})


def test_fault_35_a_line_of_the_json_log_is_one_line_and_all_of_it_can_be_seen() -> None:
    with logging_to("json") as stream:
        log_an_exception()

    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    entry = json.loads(line)
    assert entry["agent"] == EVIL
    assert EVIL in entry["traceback"]


def test_fault_35_a_traceback_in_the_log_for_people_cannot_be_taken_for_a_line() -> None:
    with logging_to("pretty") as stream:
        log_an_exception()

    first, *rest = stream.getvalue().rstrip("\n").split("\n")
    assert "agent.broken" in first
    assert first.isprintable()
    assert all(line.startswith("  | ") for line in rest)
    assert all(line.isprintable() for line in rest)


def seen(output: bytes) -> None:
    for line in output.decode().rstrip("\n").split("\n"):
        assert line.isprintable(), repr(line)
        assert not line.startswith(("error: forged", '{"event":"forged"}'))


def test_fault_35_descartesctl_prints_nothing_a_terminal_obeys_but_an_agent_s_output() -> None:
    title = AgentSpec(
        command=["sh", "-c", "printf '\\033]0;a\\302\\233b\\342\\200\\256c\\007'; sleep 600", EVIL],
        name="evil",
        tty=Tty(),
        system_prompt=None,
    )
    loud = AgentSpec(command=["sh", "-c", "printf '\\033[1mbold\\033[0m'"], name="loud")
    with running() as server, server.client() as client:
        client.agent.spawn(spec=title)
        client.agent.spawn(spec=loud)
        client.agent.wait(id="loud")
        with pytest.raises(InvalidArgumentError):
            client.agent.spawn(spec=AgentSpec(command=[f"/nowhere/{EVIL}"]))

        eventually(lambda: client.agent.get(id="evil").title is not None)
        for words in (
            *(("agent", "list"), ("agent", "show", "evil"), ("ps",), ("server", "health")),
            *(("audit", "show"), ("cert", "list"), ("doctor",)),
        ):
            for form in ((), ("--json",)):
                seen(server.ctl(*form, *words).stdout)
        for form in ((), ("--json",)):
            refused = server.ctl(*form, "agent", "spawn", "--", f"/nowhere/{EVIL}")
            assert refused.returncode == 2
            seen(refused.stderr)

        # What an agent wrote is its own affair, byte for byte.
        assert server.ctl("agent", "logs", "loud").stdout == b"\x1b[1mbold\x1b[0m"
        for line in server.log_text().splitlines():
            assert line.isprintable()
            assert json.loads(line)["event"] != "forged"
