"""One key, one piece of work, one answer: also after a restart."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from descartesd.agents.registry import INTENT_AGE_S, Registry
from descartesd.errors import AbortedError, ConflictError, DescartesError, NotFoundError
from descartesd.methods.idempotency import Answer, Answers
from descartesd.wire.agent import Signalled

ME, KEY, METHOD, DIGEST = "uid:1", "key", "agent.signal", b"digest"
DONE = Signalled(processes=3)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "registry.sqlite")


@pytest.fixture
def registry(path: str) -> Iterator[Registry]:
    opened = Registry(path)
    yield opened
    opened.close()


@pytest.fixture
def answers(registry: Registry, clock: Clock) -> Answers:
    return Answers(registry, clock=clock)


def decoded(raw: msgspec.Raw) -> Signalled:
    return msgspec.msgpack.decode(raw, type=Signalled)


async def answered(answers: Answers, key: str = KEY, outcome: object = DONE) -> Answer:
    """Do the work under a key."""
    answer = answers.begin(ME, key, METHOD, DIGEST)
    assert isinstance(outcome, msgspec.Struct | DescartesError)
    await answers.finish(answer, outcome)
    return answer


def test_a_new_key_has_no_answer(answers: Answers) -> None:
    assert answers.find(ME, KEY, METHOD, DIGEST) is None


def test_who_comes_while_the_work_is_done_waits_for_the_same_answer(answers: Answers) -> None:
    async def scenario() -> list[Signalled]:
        answer = answers.begin(ME, KEY, METHOD, DIGEST)
        joined = answers.find(ME, KEY, METHOD, DIGEST)
        assert joined is answer
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(answer.result()) for _ in range(3)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            await answers.finish(answer, DONE)
        return [decoded(task.result()) for task in waiting]

    assert asyncio.run(scenario()) == [DONE] * 3


def test_who_gives_up_waiting_takes_nothing_from_the_others(answers: Answers) -> None:
    async def scenario() -> Signalled:
        answer = answers.begin(ME, KEY, METHOD, DIGEST)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await answer.result()
        await answers.finish(answer, DONE)
        return decoded(await answer.result())

    assert asyncio.run(scenario()) == DONE


def test_the_answer_is_given_again(answers: Answers) -> None:
    async def scenario() -> Signalled:
        await answered(answers)
        again = answers.find(ME, KEY, METHOD, DIGEST)
        assert again is not None
        return decoded(await again.result())

    assert asyncio.run(scenario()) == DONE


def test_a_refusal_is_given_again_as_it_was(answers: Answers) -> None:
    error = NotFoundError("no agent 'x'", hint="look again", details={"near": "y"})

    async def scenario() -> DescartesError:
        first = await answered(answers, outcome=error)
        with pytest.raises(NotFoundError):
            await first.result()
        again = answers.find(ME, KEY, METHOD, DIGEST)
        assert again is not None
        with pytest.raises(NotFoundError) as caught:
            await again.result()
        return caught.value

    found = asyncio.run(scenario())

    assert (found.message, found.hint, found.details, found.retryable) == (
        error.message,
        error.hint,
        error.details,
        error.retryable,
    )


@pytest.mark.parametrize(
    ("method", "digest"), [("agent.spawn", DIGEST), (METHOD, b"other")], ids=["method", "params"]
)
@pytest.mark.parametrize("finished", [False, True], ids=["running", "answered"])
def test_a_key_used_for_another_request_is_a_conflict(
    answers: Answers, method: str, digest: bytes, finished: bool
) -> None:
    async def scenario() -> None:
        if finished:
            await answered(answers)
        else:
            answers.begin(ME, KEY, METHOD, DIGEST)
        with pytest.raises(ConflictError, match=r"was used for another request, agent\.signal"):
            answers.find(ME, KEY, method, digest)

    asyncio.run(scenario())


def test_everybody_has_keys_of_their_own(answers: Answers) -> None:
    async def scenario() -> None:
        await answered(answers)

    asyncio.run(scenario())

    assert answers.find("uid:2", KEY, METHOD, DIGEST) is None
    assert answers.find("uid:2", KEY, "agent.spawn", b"other") is None


def test_an_answer_is_durable_before_it_is_given(answers: Answers, path: str) -> None:
    async def scenario() -> None:
        await answered(answers)

    asyncio.run(scenario())

    # As another process sees it.
    with sqlite3.connect(path) as other:
        rows = other.execute("SELECT identity, key, reply IS NOT NULL FROM intents").fetchall()
    other.close()
    assert rows == [(ME, KEY, 1)]


def test_an_answer_outlives_the_server(path: str) -> None:
    async def scenario() -> Signalled:
        before = Registry(path)
        await answered(Answers(before))
        before.close()
        after = Registry(path)
        again = Answers(after).find(ME, KEY, METHOD, DIGEST)
        after.close()
        assert again is not None
        return decoded(await again.result())

    assert asyncio.run(scenario()) == DONE


def test_what_a_dead_server_left_open_is_answered_once_it_is_closed(
    answers: Answers, registry: Registry, clock: Clock
) -> None:
    async def scenario() -> None:
        answers.begin(ME, KEY, METHOD, DIGEST)
        await answers.begun()
        following = Answers(registry, clock=clock)
        (intent,) = registry.open_intents()
        following.close(intent, AbortedError("cut short"))
        assert registry.open_intents() == []
        again = following.find(ME, KEY, METHOD, DIGEST)
        assert again is not None
        with pytest.raises(AbortedError, match="cut short"):
            await again.result()

    asyncio.run(scenario())


def test_answers_older_than_a_day_are_dropped(answers: Answers, clock: Clock) -> None:
    async def scenario() -> None:
        await answered(answers, "old")
        clock.now += INTENT_AGE_S + 1
        for number in range(1000):
            await answered(answers, f"new-{number}")

    asyncio.run(scenario())

    assert answers.find(ME, "old", METHOD, DIGEST) is None
    assert answers.find(ME, "old", "agent.spawn", b"other") is None


def test_answers_younger_than_a_day_are_kept(answers: Answers, clock: Clock) -> None:
    async def scenario() -> Answer | None:
        await answered(answers, "young")
        clock.now += INTENT_AGE_S - 1
        for number in range(1000):
            await answered(answers, f"new-{number}")
        return answers.find(ME, "young", METHOD, DIGEST)

    assert asyncio.run(scenario()) is not None


def test_a_digest_tells_nothing_to_who_has_only_the_registry(registry: Registry) -> None:
    ours, theirs = Answers(registry, lambda: b"a" * 32), Answers(registry, lambda: b"b" * 32)

    assert ours.digest(b"params") == Answers(registry, lambda: b"a" * 32).digest(b"params")
    assert ours.digest(b"params") != theirs.digest(b"params")
    assert hashlib.sha256(b"params").digest() != ours.digest(b"params")
