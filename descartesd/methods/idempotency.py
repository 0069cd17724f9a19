"""Makes a re-sent request harmless: one key, one piece of work, one answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from descartesd.agents.registry import Intent, Registry
from descartesd.errors import ConflictError, DescartesError, UnavailableError
from descartesd.wire import codec
from descartesd.wire.envelope import WireError

# After so many bytes of answers, each counted as the least at least, the oldest may have to go.
_EXPIRE_BYTES = 16 << 20
_LEAST_BYTES = 16 << 10


class _Stored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer as the registry keeps it."""

    result: Raw | UnsetType = UNSET
    error: WireError | UnsetType = UNSET


class Answer:
    """The answer under a key, there already or still in the making."""

    __slots__ = ("_future", "identity", "key")

    def __init__(self, identity: str, key: str) -> None:
        self.identity = identity
        self.key = key
        self._future: asyncio.Future[Raw | DescartesError] = (
            asyncio.get_running_loop().create_future()
        )

    async def result(self) -> Raw:
        """Wait for the answer; raises the error it was."""
        outcome = await asyncio.shield(self._future)
        if isinstance(outcome, DescartesError):
            raise outcome
        return outcome

    @property
    def is_settled(self) -> bool:
        """Whether the answer is there."""
        return self._future.done()

    def settle(self, outcome: Raw | DescartesError) -> None:
        """Give the answer to everyone who waits."""
        if not self._future.done():
            self._future.set_result(outcome)


class Answers:
    """All keys: those being worked on in memory, the answered ones in the registry.

    A refusal that invites another try is no answer: nothing was done, and the key is free again.
    """

    def __init__(
        self,
        registry: Registry,
        secret: Callable[[], bytes] = bytes,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`secret` may raise UnavailableError until there is one."""
        self._registry = registry
        self._secret_of = secret
        self._secret: bytes | None = None
        self._clock = clock
        self._open: dict[tuple[str, str], tuple[Answer, str, bytes]] = {}
        self._unexpired_bytes = 0

    def digest(self, params: bytes | memoryview) -> bytes:
        """What tells a request from another: keyed, because a secret among them may be guessed.

        Raises UnavailableError while there is no key.
        """
        if self._secret is None:
            self._secret = self._secret_of()
        return hashlib.blake2b(params, key=self._secret, digest_size=32).digest()

    def find(self, identity: str, key: str, method: str, digest: bytes) -> Answer | None:
        """Find the answer under a key.

        Raises ConflictError when the key belongs to another request.
        """
        running = self._open.get((identity, key))
        if running is not None and running[0].is_settled and self._registry.save():
            # It was given while it could not be recorded.
            del self._open[identity, key]
            running = None
        if running is not None:
            answer, known_method, known_digest = running
            _same(key, method, digest, known_method, known_digest)
            return answer
        intent = self._registry.intent(identity, key, self._clock())
        if intent is None:
            return None
        _same(key, method, digest, intent.method, intent.digest)
        answer = Answer(identity, key)
        if intent.reply is not None:
            answer.settle(_restore(intent.reply))
        else:
            # Left open by a daemon that died: `close` answers it.
            self._open[identity, key] = (answer, method, digest)
        return answer

    def begin(self, identity: str, key: str, method: str, digest: bytes) -> Answer:
        """Record that the work under a key begins; it must be durable before the work is done.

        Raises UnavailableError while nothing can be recorded.
        """
        self._registry.check()
        intent = Intent(identity, key, method, digest, None, self._clock(), None)
        self._registry.begin_intent(intent)
        answer = Answer(identity, key)
        self._open[identity, key] = (answer, method, digest)
        return answer

    async def begun(self) -> None:
        """Wait until what `begin` recorded is durable; raises UnavailableError."""
        await self._registry.durable()

    async def finish(self, answer: Answer, outcome: Struct | DescartesError) -> None:
        """Record the answer, then give it."""
        settled = self._record(answer.identity, answer.key, outcome)
        # What is done is answered even if that cannot be recorded: then from memory, until it is.
        with contextlib.suppress(UnavailableError):
            await self._registry.durable()
            self._open.pop((answer.identity, answer.key), None)
        answer.settle(settled)

    def close(self, intent: Intent, outcome: Struct | DescartesError) -> None:
        """Answer what a daemon that died left open."""
        settled = self._record(intent.identity, intent.key, outcome)
        waiting = self._open.get((intent.identity, intent.key))
        if self._registry.save():
            self._open.pop((intent.identity, intent.key), None)
        if waiting is not None:
            waiting[0].settle(settled)

    def _record(
        self, identity: str, key: str, outcome: Struct | DescartesError
    ) -> Raw | DescartesError:
        settled: Raw | DescartesError
        if isinstance(outcome, DescartesError):
            stored = _Stored(error=codec.wire_error(outcome))
            settled = outcome
        else:
            settled = Raw(codec.encode(outcome))
            stored = _Stored(result=settled)
        now = self._clock()
        if isinstance(outcome, DescartesError) and outcome.retryable:
            self._registry.drop_intent(identity, key)
        else:
            reply = codec.encode(stored)
            self._registry.finish_intent(identity, key, reply, now)
            self._expire(len(reply), now)
        return settled

    def _expire(self, added_bytes: int, now: float) -> None:
        self._unexpired_bytes += max(added_bytes, _LEAST_BYTES)
        if self._unexpired_bytes >= _EXPIRE_BYTES:
            self._unexpired_bytes = 0
            self._registry.expire_intents(now)


def _same(key: str, method: str, digest: bytes, known_method: str, known_digest: bytes) -> None:
    if (method, digest) != (known_method, known_digest):
        raise ConflictError(
            f"the idempotency key '{key}' was used for another request, {known_method}",
            hint="use a new key for a new request",
        )


def _restore(reply: bytes) -> Raw | DescartesError:
    stored: Any = msgspec.msgpack.decode(reply, type=_Stored)
    if isinstance(stored.error, WireError):
        return codec.error_of(stored.error)
    return Raw(bytes(stored.result))
