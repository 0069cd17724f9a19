"""Asks an HTTP policy service whether a request to descartesd may go on."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, TypeVar

from descartesd.api import (
    Identity,
    KeyHolder,
    Metric,
    PermissionDeniedError,
    Sample,
    Struct,
    hookimpl,
)
from descartesd_webhook_auth import settings
from descartesd_webhook_auth.service import NoAnswerError, Service

log = logging.getLogger("descartesd.plugins.webhook-auth")

A = TypeVar("A", bound=Struct)


class Verdict(Struct, frozen=True, kw_only=True):
    """What the service says about a request."""

    allow: bool
    reason: str = ""


class Holder(Struct, frozen=True, kw_only=True):
    """What it says about a key: who holds it, or that it does not know."""

    allow: bool
    name: str = ""
    role: str = ""


class Plugin:
    """What the entry point `webhook-auth` names."""

    Config = settings.Config

    def __init__(self, config: settings.Config) -> None:
        self._config = config
        self._service = Service(config, config.url)
        self._answers: Counter[tuple[str, str]] = Counter()
        self._is_down = False
        self._is_asked_about = lru_cache(maxsize=256)(self._matches)
        if config.key_url:
            keys = Service(config, config.key_url)

            # Without it the server does not even ask.
            @hookimpl
            async def authenticate_key(key: str, address: str) -> KeyHolder | None:
                return await self._holder(keys, key, address)

            self.authenticate_key = authenticate_key

    @hookimpl
    async def authorize_request(
        self, identity: Identity, method: str, target: str | None
    ) -> bool | None:
        """Refuse what the service refuses, and what it does not answer."""
        if identity.id in self._config.exempt or not self._is_asked_about(method):
            return None
        question = {
            "identity": identity.id,
            "name": identity.name,
            "role": identity.role,
            "method": method,
            "target": target,
        }
        verdict = await self._asked(self._service, "request", question, Verdict)
        self._answers["request", "allow" if verdict.allow else "deny"] += 1
        if not verdict.allow:
            reason = _line(verdict.reason) or "it gives no reason"
            raise PermissionDeniedError(
                f"the policy service does not allow {method} to {identity.id}: {reason}",
                hint="ask who runs the policy service",
            )
        return True

    async def _holder(self, service: Service, key: str, address: str) -> KeyHolder | None:
        question = {"key": key, "address": address}
        holder = await self._asked(service, "key", question, Holder)
        self._answers["key", "allow" if holder.allow else "deny"] += 1
        if not holder.allow:
            return None
        if holder.role not in self._config.roles:
            log.warning("webhook-auth.role_refused", extra={"role": _line(holder.role)})
            return None
        return KeyHolder(name=holder.name, role=holder.role)

    async def _asked(
        self, service: Service, about: str, question: dict[str, Any], kind: type[A]
    ) -> A:
        """The answer. Raises NoAnswerError: the server counts it, tells it and refuses."""
        try:
            answer = await service.ask(question, kind)
        except NoAnswerError as exc:
            self._answers[about, "none"] += 1
            if not self._is_down:
                log.error("webhook-auth.down", extra={"about": about, "cause": str(exc)})  # noqa: TRY400  # it says all
            self._is_down = True
            raise
        if self._is_down:
            log.warning("webhook-auth.up")
        self._is_down = False
        return answer

    def _matches(self, method: str) -> bool:
        return any(fnmatchcase(method, pattern) for pattern in self._config.methods)

    @hookimpl
    def register_metrics(self) -> Iterable[Metric]:
        """Add how often the service was asked, and how it answered."""
        yield Metric(
            name="webhook_auth_answers_total",
            kind="counter",
            help="Questions to the policy service by what they were about, and its answer.",
            read=self._samples,
        )

    def _samples(self) -> list[Sample]:
        return [
            Sample(value=count, labels={"about": about, "answer": answer})
            for (about, answer), count in self._answers.items()
        ]


def _line(text: str) -> str:
    """What a service says, fit to be shown in one line."""
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text))[:300].strip()


__all__ = ["Plugin"]
