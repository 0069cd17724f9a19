"""A client in a process of its own: it reads orders as lines of JSON and answers with such lines.

A request is answered with one line, several are made at once and answered in their order; a stream
is answered with a line for each item and one more at its end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from descartesd.client import Client
from descartesd.errors import DescartesError
from descartesd.wire.envelope import WireError
from descartesd.wire.methods import METHODS

PATIENCE_S = 15.0


class Order(Struct):
    """Requests for one method of the table."""

    method: str
    requests: list[Raw]
    deadline_s: float | None = None
    idem: str | None = None


class Answer(Struct):
    """A reply, an item or an error, and the seconds it took; neither of them: a stream's end."""

    result: Raw | UnsetType = UNSET
    error: WireError | UnsetType = UNSET
    seconds: float = 0.0


def main() -> None:
    """Obey orders until there are no more; the argument is a profile."""
    with Client(sys.argv[1], timeout_s=PATIENCE_S, wait_for_server_s=PATIENCE_S) as client:
        for line in sys.stdin.buffer:
            for answer in _obey(client, msgspec.json.decode(line, type=Order)):
                sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
                sys.stdout.buffer.flush()


def _obey(client: Client, order: Order) -> Iterator[Answer]:
    method = METHODS[order.method]
    requests = [msgspec.json.decode(each, type=method.request) for each in order.requests]
    began = time.perf_counter()
    try:
        if method.stream:
            for item in client.stream(method, requests[0]):
                yield _answer(item)
            yield Answer()
        elif len(requests) == 1:
            reply = client.call(method, requests[0], deadline_s=order.deadline_s, idem=order.idem)
            yield _answer(reply, time.perf_counter() - began)
        else:
            for reply in client.pipeline((method, each) for each in requests):
                yield _answer(reply, time.perf_counter() - began)
    except DescartesError as error:
        yield _answer(error, time.perf_counter() - began)


def _answer(reply: Struct | DescartesError, seconds: float = 0.0) -> Answer:
    if not isinstance(reply, DescartesError):
        return Answer(result=Raw(msgspec.json.encode(reply)), seconds=seconds)
    error = WireError(
        code=reply.code,
        message=reply.message,
        retryable=reply.retryable,
        hint=reply.hint,
        details=reply.details,
    )
    return Answer(error=error, seconds=seconds)


if __name__ == "__main__":
    main()
