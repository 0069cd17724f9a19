"""What a key stands for when its request was refused, cut short, or could not be recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from descartesd.agents.registry import INTENT_AGE_S, Registry
from descartesd.errors import (
    AbortedError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.methods.idempotency import Answers
from descartesd.wire.agent import Signalled

ME, KEY, METHOD, DIGEST = "uid:1", "key", "agent.spawn", b"digest"
DONE = Signalled(processes=3)
NOW = 1_800_000_000.0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(str(tmp_path / "registry.sqlite"))
    yield opened
    opened.close()


@pytest.fixture
def answers(registry: Registry) -> Answers:
    return Answers(registry, clock=lambda: NOW)


def decoded(raw: msgspec.Raw) -> Signalled:
    return msgspec.msgpack.decode(raw, type=Signalled)


def no_more(registry: Registry) -> None:
    (pages,) = registry._db.execute("PRAGMA page_count").fetchone()
    registry._db.execute(f"PRAGMA max_page_count = {pages}")


def room(registry: Registry) -> None:
    registry._db.execute("PRAGMA max_page_count = 1000000")


@pytest.mark.parametrize("error", [UnavailableError("no keeper"), ResourceExhaustedError("full")])
def test_refusal_that_invites_another_try_leaves_the_key_free(
    answers: Answers, error: UnavailableError | ResourceExhaustedError
) -> None:
    async def scenario() -> Signalled:
        answer = answers.begin(ME, KEY, METHOD, DIGEST)
        await answers.finish(answer, error)
        with pytest.raises(type(error)):
            await answer.result()
        assert answers.find(ME, KEY, METHOD, DIGEST) is None
        again = answers.begin(ME, KEY, METHOD, DIGEST)
        await answers.finish(again, DONE)
        return decoded(await again.result())

    assert asyncio.run(scenario()) == DONE


def test_any_other_refusal_is_the_answer(answers: Answers) -> None:
    async def scenario() -> None:
        await answers.finish(answers.begin(ME, KEY, METHOD, DIGEST), NotFoundError("none"))
        again = answers.find(ME, KEY, METHOD, DIGEST)
        assert again is not None
        with pytest.raises(NotFoundError):
            await again.result()

    asyncio.run(scenario())


def test_who_asks_for_what_a_dead_server_left_open_is_told_when_it_is_closed(
    answers: Answers, registry: Registry
) -> None:
    async def scenario() -> None:
        answers.begin(ME, KEY, METHOD, DIGEST)
        await answers.begun()
        following = Answers(registry, clock=lambda: NOW)
        waiting = following.find(ME, KEY, METHOD, DIGEST)
        assert waiting is not None
        assert not waiting.is_settled
        (intent,) = registry.open_intents()

        following.close(intent, AbortedError("cut short"))

        async with asyncio.timeout(1):
            with pytest.raises(AbortedError, match="cut short"):
                await waiting.result()

    asyncio.run(scenario())


def test_key_can_be_used_anew_a_day_after_its_answer(registry: Registry) -> None:
    async def scenario() -> None:
        now = [NOW]
        answers = Answers(registry, clock=lambda: now[0])
        await answers.finish(answers.begin(ME, KEY, METHOD, DIGEST), DONE)
        now[0] += INTENT_AGE_S + 1
        assert answers.find(ME, KEY, METHOD, b"tomorrow's") is None

        await answers.finish(answers.begin(ME, KEY, METHOD, b"tomorrow's"), DONE)

        assert answers.find(ME, KEY, METHOD, b"tomorrow's") is not None

    asyncio.run(scenario())


def test_work_is_not_begun_when_the_disk_is_full_and_begins_when_it_is_not(
    answers: Answers, registry: Registry
) -> None:
    long = "k" * 100_000

    async def scenario() -> None:
        no_more(registry)
        answer = answers.begin(ME, long, METHOD, DIGEST)
        with pytest.raises(UnavailableError, match="the registry cannot be written") as refusal:
            await answers.begun()
        await answers.finish(answer, refusal.value)
        with pytest.raises(UnavailableError):
            await answer.result()
        with pytest.raises(UnavailableError):
            answers.begin(ME, "another", METHOD, DIGEST)
        room(registry)
        assert answers.find(ME, long, METHOD, DIGEST) is None

        await answers.finish(answers.begin(ME, long, METHOD, DIGEST), DONE)

        found = answers.find(ME, long, METHOD, DIGEST)
        assert found is not None
        assert decoded(await found.result()) == DONE

    asyncio.run(scenario())


def test_work_whose_answer_cannot_be_recorded_is_answered_and_not_done_twice(
    answers: Answers, registry: Registry
) -> None:
    large = NotFoundError("x" * 100_000)

    async def scenario() -> None:
        answer = answers.begin(ME, KEY, METHOD, DIGEST)
        no_more(registry)
        await answers.finish(answer, large)
        with pytest.raises(NotFoundError):
            await answer.result()
        assert answers.find(ME, KEY, METHOD, DIGEST) is answer
        room(registry)

        found = answers.find(ME, KEY, METHOD, DIGEST)

        assert found is not None
        assert found is not answer
        with pytest.raises(NotFoundError):
            await found.result()
        assert registry.open_intents() == []

    asyncio.run(scenario())
