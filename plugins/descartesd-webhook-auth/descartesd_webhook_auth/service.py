"""Asks a service over HTTP, in the event loop, and waits for it no longer than it may take.

One connection for each question: whatever goes wrong ends with it.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from descartesd_webhook_auth.settings import Config, Target, target_of

_MOST_BYTES = 64 * 1024
# A name is looked up again after so many seconds.
_KNOWN_S = 30.0
A = TypeVar("A", bound=Struct)


class NoAnswerError(Exception):
    """The service gave no answer that counts; the sentence has nothing secret in it."""


class Service:
    """A policy service at one URL. Raises OSError or ValueError where the settings cannot be used.

    It is made in any thread and used in the loop.
    """

    def __init__(self, config: Config, url: str) -> None:
        self._config = config
        self._target = target_of(url)
        self._tls = config.tls() if self._target.is_https else None
        # For what may block: one thread for names, one for the file of the token.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="webhook-auth")
        self._addresses = Addresses(self._target, self._pool)
        self._free = asyncio.Semaphore(config.at_once)
        config.token()

    async def ask(self, question: dict[str, Any], kind: type[A]) -> A:
        """Its answer to a question. Raises NoAnswerError."""
        timeout_s = self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._free:
                status, body = await self._exchange(msgspec.json.encode(question))
        except TimeoutError as exc:
            raise NoAnswerError(f"it did not answer within {timeout_s:g} s") from exc
        except ssl.SSLCertVerificationError as exc:
            raise NoAnswerError(f"its certificate is not good: {exc.verify_message}") from exc
        except (OSError, EOFError, http.client.HTTPException, ValueError) as exc:
            raise NoAnswerError(f"it cannot be asked: {_named(exc)}") from exc
        if status != 200:
            raise NoAnswerError(f"it answered with the status {status}")
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise NoAnswerError("it answered something else than was agreed on") from exc

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        token = await loop.run_in_executor(self._pool, self._config.token)
        reader, writer = await self._connect()
        try:
            writer.write(self._head(len(body), token) + body)
            await writer.drain()
            answer = await _read(reader)
        finally:
            # Nothing is waited for: the other side may be gone, or not want to go.
            writer.transport.abort()
        return _parsed(answer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure: OSError = ConnectionError("its name stands for no address")
        for address in await self._addresses.get():
            try:
                return await asyncio.open_connection(
                    address,
                    self._target.port,
                    ssl=self._tls,
                    server_hostname=self._target.host if self._tls else None,
                    limit=_MOST_BYTES,
                )
            except OSError as exc:
                failure = exc
        raise failure

    def _head(self, size: int, token: str) -> bytes:
        host, port = self._target.host, self._target.port
        lines = [
            f"POST {self._target.path} HTTP/1.1",
            f"Host: {f'[{host}]' if ':' in host else host}:{port}",
            "Content-Type: application/json",
            "Accept: application/json",
            f"Content-Length: {size}",
            "User-Agent: descartesd-webhook-auth",
            "Connection: close",
        ]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _read(reader: asyncio.StreamReader) -> bytes:
    """All the service sends, and no more than an answer may have."""
    found = bytearray()
    while chunk := await reader.read(_MOST_BYTES):
        found += chunk
        if len(found) > _MOST_BYTES:
            raise ValueError(f"its answer has more than {_MOST_BYTES} bytes")
    return bytes(found)


class _Received:
    """What http.client takes for a socket: bytes that have all come."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._text)


def _parsed(text: bytes) -> tuple[int, bytes]:
    if not text:
        raise EOFError("it closed the connection without an answer")
    response = http.client.HTTPResponse(_Received(text))  # type: ignore[arg-type]  # it calls nothing else
    response.begin()
    return response.status, response.read()


def _named(exc: BaseException) -> str:
    said = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return said or type(exc).__name__


class Addresses:
    """Looks up the addresses of a host, in a thread, once for all who want to know."""

    def __init__(self, target: Target, pool: ThreadPoolExecutor) -> None:
        self._target = target
        self._pool = pool
        self._known: Sequence[str] = ()
        self._until = 0.0
        self._asking: asyncio.Future[Sequence[str]] | None = None

    async def get(self) -> Sequence[str]:
        """The addresses, the best first; the last ones known where there are none now.

        Raises OSError.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            return self._known
        if self._asking is None or self._asking.done():
            self._asking = loop.run_in_executor(self._pool, self._look_up)
        try:
            # Who waits may give up; the others still want to know.
            self._known = await asyncio.shield(self._asking)
        except OSError:
            if not self._known:
                raise
        self._until = loop.time() + _KNOWN_S
        return self._known

    def _look_up(self) -> Sequence[str]:
        found = socket.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(each[4][0]) for each in found))
