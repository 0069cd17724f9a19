"""A client that is a process of its own, as the one that gives it orders sees it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO, Any, TypeVar

import msgspec
from msgspec import Raw, Struct, UnsetType

from descartesd.ctl.scenarios.findings import CheckError
from descartesd.ctl.scenarios.worker import PATIENCE_S, Answer, Order
from descartesd.errors import DescartesError, InternalError, from_wire
from descartesd.wire.methods import Method

Req = TypeVar("Req", bound=Struct)
Rep = TypeVar("Rep", bound=Struct)

_MARGIN_S = 5.0
_END_S = 5.0
_READ_BYTES = 65_536


class Member:
    """One client process; `seconds` is how long its last request took, as it measured that."""

    def __init__(self, name: str, profile: str, log: IO[bytes], env: dict[str, str]) -> None:
        self.name = name
        self.seconds = 0.0
        # In a session of its own: Ctrl-C is for the one that gives the orders.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "descartesd.ctl.scenarios.worker", profile],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=env,
            start_new_session=True,
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def call(
        self,
        method: Method[Req, Rep],
        request: Req,
        *,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Rep:
        """Let it make a request; raises the error it was answered with."""
        self.ask(method, request, deadline_s=deadline_s, idem=idem)
        (answer,) = self.answers(method, 1)
        if isinstance(answer, DescartesError):
            raise answer
        return answer

    def ask(
        self,
        method: Method[Req, Any],
        *requests: Req,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> None:
        """Let it make requests, several of them at once, or open a stream; do not wait."""
        raw = [Raw(msgspec.json.encode(request)) for request in requests]
        order = Order(method=method.name, requests=raw, deadline_s=deadline_s, idem=idem)
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(msgspec.json.encode(order) + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def answers(self, method: Method[Any, Rep], count: int) -> list[Rep | DescartesError]:
        """Wait for what became of the requests, in their order."""
        found: list[Rep | DescartesError] = []
        for _ in range(count):
            answer = self._next()
            self.seconds = answer.seconds
            found.append(_error(answer) or msgspec.json.decode(_raw(answer), type=method.reply))
        return found

    def item(self, method: Method[Any, Rep]) -> Rep | None:
        """Wait for the next item of its stream, None at the end; raises the error that ended it."""
        answer = self._next()
        if (error := _error(answer)) is not None:
            raise error
        if isinstance(answer.result, UnsetType):
            return None
        return msgspec.json.decode(answer.result, type=method.reply)

    def leave(self) -> int:
        """Let it close its connection and end in order; its exit status."""
        _pipe(self._process.stdin).close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise CheckError(f"client '{self.name}' does not end") from None

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()

    def _next(self) -> Answer:
        stdout = _pipe(self._process.stdout).fileno()
        deadline = time.monotonic() + PATIENCE_S + _MARGIN_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([stdout], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise CheckError(f"client '{self.name}' says nothing any more")
            data = os.read(stdout, _READ_BYTES)
            if not data:
                raise self._gone()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return msgspec.json.decode(line, type=Answer)

    def _gone(self) -> CheckError:
        return CheckError(f"client '{self.name}' has ended on its own")


def _error(answer: Answer) -> DescartesError | None:
    error = answer.error
    if isinstance(error, UnsetType):
        return None
    return from_wire(
        error.code,
        error.message,
        hint=error.hint,
        retryable=error.retryable,
        details=error.details,
    )


def _raw(answer: Answer) -> Raw:
    if isinstance(answer.result, UnsetType):
        raise InternalError("a client process answered a request as if it were a stream")
    return answer.result


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise InternalError("a client process has no pipe")
    return stream
