"""Who is let in no more: revokes at once, and remembers it in two places."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.lifecycle import ENDED
from descartesd.agents.registry import Registry
from descartesd.errors import InvalidArgumentError, NotFoundError
from descartesd.keys.revoked import Revocation
from descartesd.keys.tokens import Token, TokenStore
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.call import Call
from descartesd.wire import cert as wire

log = logging.getLogger(__name__)

# So long who revokes himself can still be told that it is done.
_OWN_END_S = 0.2


def agree_on_revoked(trust: TrustStore, registry: Registry) -> None:
    """Let the trust store and the registry know what the other knows: each may be a backup's."""
    trust.revoked.know(registry.meta("revoked") or "")
    trust.load()
    remember_revoked(trust, registry)
    if trust.revoked.problem is not None:
        log.error("revocations.restored", extra={"cause": trust.revoked.problem})


def remember_revoked(trust: TrustStore, registry: Registry) -> None:
    """Have the registry know what is revoked."""
    text = trust.revoked.text()
    if trust.revoked.generation and text != registry.meta("revoked"):
        registry.set_meta("revoked", text)


class Revoking:
    """Carries `cert.revoke` out; `expel` ends what those have open who are let in no longer."""

    def __init__(
        self,
        trust: TrustStore,
        tokens: TokenStore,
        book: Book,
        fleet: Fleet,
        expel: Callable[[], None],
    ) -> None:
        self._trust = trust
        self._tokens = tokens
        self._book = book
        self._fleet = fleet
        self._expel = expel

    async def revoke(self, call: Call, params: wire.CertRevoke) -> wire.CertRevoked:
        """Answer `cert.revoke`: nothing of the revoked is served from here on."""
        revocation = self._revoked(params)
        ended = self._end_tokens(revocation)
        remember_revoked(self._trust, self._book.registry)
        log.warning(
            "certificate.revoked",
            extra={
                "holder": revocation.name,
                "serial": revocation.serial,
                "fingerprint": revocation.fingerprint,
                "generation": revocation.generation,
                "join_strings": ended,
                "identity": call.caller.id,
            },
        )
        if call.caller.id == f"key:{revocation.fingerprint}":
            asyncio.get_running_loop().call_later(_OWN_END_S, self._expel)
        else:
            self._expel()
        killed = await self._kill(revocation.fingerprint) if params.kill_agents else 0
        return wire.CertRevoked(
            name=revocation.name,
            serial=revocation.serial,
            fingerprint=revocation.fingerprint,
            generation=revocation.generation,
            killed=killed,
            join_strings=ended,
        )

    def _end_tokens(self, revocation: Revocation) -> int:
        """Revoke the join strings by which the revoked could come in again."""
        again = self._open_tokens(revocation.name, f"key:{revocation.fingerprint}")
        for each in again:
            self._trust.revoke(serial="", key_fingerprint=each.fingerprint, name="")
        return len(again)

    def _open_tokens(self, name: str | None, maker: str = "") -> list[Token]:
        """Those nobody has used yet that are for a name, or that somebody has made."""
        known = self._trust.revoked
        return [
            each
            for each in self._tokens.all()
            if each.kind == "token"
            and not each.used_by
            and ((name and each.name == name) or (maker and each.made_by == maker))
            and known.find("", each.fingerprint) is None
        ]

    def _revoked(self, params: wire.CertRevoke) -> Revocation:
        # It may have been issued a moment ago, without this server.
        self._trust.reload_if_changed()
        identity = find(self._trust.identities(), params)
        if identity is not None:
            return self._trust.revoke(
                serial=identity.serial,
                key_fingerprint=identity.fingerprint,
                name=identity.name,
            )
        known = find_revoked(self._trust.revoked.all(), params)
        if known is not None:
            return known
        for token in self._open_tokens(params.name):
            return self._trust.revoke(
                serial="", key_fingerprint=token.fingerprint, name=token.name or ""
            )
        is_known = self._tokens.knows(params.fingerprint or "")
        if is_known or (params.even_unknown and params.name is None):
            return self._trust.revoke(
                serial=params.serial or "", key_fingerprint=params.fingerprint or "", name=""
            )
        raise NotFoundError(
            f"there is no certificate {_asked(params)}",
            hint="see them: descartesctl cert list; one never seen here can be revoked by its"
            " serial or its key's fingerprint with --even-unknown",
        )

    async def _kill(self, fingerprint: str) -> int:
        owner = f"key:{fingerprint}"
        agents = [
            each for each in self._book.roster if each.owner == owner and each.state not in ENDED
        ]
        ends = await asyncio.gather(
            *(self._fleet.kill(agent) for agent in agents), return_exceptions=True
        )
        return sum(not isinstance(end, BaseException) for end in ends)


def find(identities: Iterable[Identity], asked: Any) -> Identity | None:
    """The identity a message names by name, fingerprint or serial.

    Raises InvalidArgumentError unless it is named by exactly one of them.
    """
    _check(asked)
    return next(
        (
            each
            for each in identities
            if asked.name == each.name
            or asked.fingerprint == each.fingerprint
            or asked.serial == each.serial
        ),
        None,
    )


def find_revoked(revocations: Iterable[Revocation], asked: Any) -> Revocation | None:
    """The newest revocation a message names."""
    found = [
        each
        for each in revocations
        if asked.name == each.name
        or asked.fingerprint == each.fingerprint
        or asked.serial == each.serial
    ]
    return found[-1] if found else None


def _check(asked: Any) -> None:
    given = [asked.name, asked.fingerprint, asked.serial]
    if sum(each is not None for each in given) != 1:
        raise InvalidArgumentError("expected one of name, fingerprint and serial")


def _asked(asked: Any) -> str:
    if asked.name is not None:
        return f"of the name '{asked.name}'"
    if asked.fingerprint is not None:
        return f"with the fingerprint {asked.fingerprint}"
    return f"with the serial {asked.serial}"
