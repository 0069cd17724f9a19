"""The registry."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from descartesd.agents.record import Agent
from descartesd.agents.registry import (
    INTENTS_PER_IDENTITY,
    REPLY_BYTES_PER_IDENTITY,
    Intent,
    Registry,
)
from descartesd.errors import StartupRefusedError
from descartesd.wire.agent import AgentSpec, Limits, Outcome


def agent(number: int) -> Agent:
    return Agent(
        id=f"{number:020d}",
        name=f"a{number}",
        owner="uid:0",
        spec=AgentSpec(command=["sleep", "1"], limits=Limits(output_bytes=70_000)),
        created_at=1.5,
        outcome=Outcome(reason="exit", exit_code=3),
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "registry.sqlite")


def test_agents_come_back_oldest_first(path: str) -> None:
    registry = Registry(path)
    for number in (2, 1, 3):
        registry.put_agent(agent(number))
    registry.drop_agent(agent(2).id)
    registry.close()

    reopened = Registry(path)

    assert list(reopened.agents()) == [agent(1), agent(3)]
    reopened.close()


def test_what_is_not_committed_is_forgotten(path: str) -> None:
    registry = Registry(path)
    registry.put_agent(agent(1))
    assert registry.save()
    registry.put_agent(agent(2))

    other = sqlite3.connect(path)
    count = other.execute("SELECT count(*) FROM agents").fetchone()
    other.close()
    registry.close()

    assert count == (1,)


def test_file_is_private_whatever_the_umask(path: str) -> None:
    before = os.umask(0)
    try:
        Registry(path).close()
    finally:
        os.umask(before)

    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


def test_newer_schema_is_refused_by_its_version(path: str) -> None:
    Registry(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(StartupRefusedError, match="schema version 99"):
        Registry(path)


def test_registry_of_the_first_schema_is_taken_over_whole(path: str) -> None:
    db = sqlite3.connect(path)
    db.executescript(
        """
        PRAGMA journal_mode=WAL;
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE agents (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL)
            WITHOUT ROWID;
        CREATE TABLE intents (
            identity TEXT NOT NULL, key TEXT NOT NULL, method TEXT NOT NULL, digest BLOB NOT NULL,
            agent_id TEXT, created_at REAL NOT NULL, finished_at REAL, reply BLOB,
            PRIMARY KEY (identity, key)
        ) WITHOUT ROWID;
        CREATE INDEX intents_finished ON intents (identity, finished_at);
        PRAGMA user_version=1;
        INSERT INTO meta VALUES ('boot_id', 'a-boot');
        INSERT INTO intents VALUES ('uid:0', 'k', 'agent.spawn', x'64', NULL, 1.0, NULL, NULL);
        """
    )
    row = {
        "id": f"{1:020d}", "name": "old", "owner": "uid:0", "created_at": 1.5, "state": "running",
        "spec": {
            "command": ["sleep", "1"], "name": None, "cwd": None, "env": {"A": "1"}, "labels": {},
            "stdin": "null", "limits": {"open_files": None, "output_bytes": None},
            "stop": {"signal": "TERM", "grace_s": 10.0},
        },
        "attempt": 1, "pid": 7, "start_time": 8, "started_at": 2.0, "ended_at": None,
        "paused_at": None, "pause_mode": None, "outcome": None, "eof": False,
        "output": {
            "stdout": {"total": 5, "truncated_before": 0},
            "stderr": {"total": 0, "truncated_before": 0},
        },
    }  # fmt: skip
    db.execute(
        "INSERT INTO agents VALUES (?, ?, ?)", (row["id"], "old", msgspec.msgpack.encode(row))
    )
    db.commit()
    db.close()

    registry = Registry(path)

    (found,) = registry.agents()
    assert (found.name, found.state, found.pid, found.output.stdout.total) == (
        "old",
        "running",
        7,
        5,
    )
    assert registry.meta("boot_id") == "a-boot"
    assert [each.key for each in registry.open_intents()] == ["k"]
    assert registry.event_bounds() == (0, 0)
    registry.put_event(1, b"event")
    registry.put_agent(found)
    assert registry.save()
    assert registry.events(0, 10) == [(1, b"event")]
    registry.close()


def test_log_is_moved_into_the_file_beside_the_loop(path: str) -> None:
    registry = Registry(path)
    registry.put_agent(agent(1))
    assert registry.save()
    before = Path(path).read_bytes()
    asyncio.run(registry.tidy())
    after = Path(path).read_bytes()
    registry.close()

    assert agent(1).id.encode() not in before
    assert agent(1).id.encode() in after


def test_damaged_file_is_refused_by_its_path(path: str) -> None:
    Path(path).write_bytes(b"not a database at all" * 100)

    with pytest.raises(StartupRefusedError, match=path):
        Registry(path)


def intent(key: str, at: float = 1.0) -> Intent:
    return Intent("uid:0", key, "agent.spawn", b"digest", None, at, None)


def test_intent_is_open_until_it_is_finished(path: str) -> None:
    registry = Registry(path)
    registry.begin_intent(intent("k"))
    registry.bind_intent("uid:0", "k", "some-agent")
    assert registry.save()
    open_before = registry.open_intents()
    registry.finish_intent("uid:0", "k", b"reply", 2.0)
    assert registry.save()

    found = registry.intent("uid:0", "k", 2.0)

    assert open_before == [intent("k")._replace(agent_id="some-agent")]
    assert registry.open_intents() == []
    assert found is not None
    assert found.reply == b"reply"
    assert registry.intent("uid:1", "k", 2.0) is None
    registry.close()


def test_oldest_answers_go_where_an_identity_has_too_many_bytes_of_them(path: str) -> None:
    def kept_of(sizes: dict[str, int]) -> list[str]:
        for key, size in sizes.items():
            registry.begin_intent(intent(key))
            registry.finish_intent("uid:0", key, bytes(size), next(clock))
        registry.expire_intents(3.0)
        assert registry.save()
        return [key for key in sizes if registry.intent("uid:0", key, 3.0)]

    registry = Registry(path)
    clock = itertools.count(1.0)
    nearly_all = REPLY_BYTES_PER_IDENTITY - 15

    assert kept_of({"first": 10, "second": 10, "third": nearly_all}) == ["second", "third"]
    # The newest stays, however large it is.
    assert kept_of({"fourth": REPLY_BYTES_PER_IDENTITY + 1}) == ["fourth"]
    registry.close()


def test_old_answers_go_while_the_server_is_tidied(path: str) -> None:
    registry = Registry(path)
    registry.begin_intent(intent("old"))
    registry.finish_intent("uid:0", "old", b"", 10.0)
    registry.begin_intent(intent("open"))
    assert registry.save()

    asyncio.run(registry.tidy())

    assert registry.intent("uid:0", "old", 11.0) is None
    assert registry.intent("uid:0", "open", 11.0) is not None
    registry.close()


def test_answers_expire_by_age_and_by_number(path: str) -> None:
    registry = Registry(path)
    registry.begin_intent(intent("old"))
    registry.finish_intent("uid:0", "old", b"", 10.0)
    now = 10.0 + 25 * 3600
    for number in range(INTENTS_PER_IDENTITY + 5):
        registry.begin_intent(intent(f"k{number}"))
        registry.finish_intent("uid:0", f"k{number}", b"", now + number)
    registry.begin_intent(intent("open"))

    registry.expire_intents(now)
    assert registry.save()

    assert registry.intent("uid:0", "old", now) is None
    assert registry.intent("uid:0", "k0", now) is None
    assert registry.intent("uid:0", f"k{INTENTS_PER_IDENTITY + 4}", now) is not None
    assert registry.intent("uid:0", "open", now) is not None
    registry.close()
