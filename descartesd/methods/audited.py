"""Has a line written before and after every method that changes something, and for refusals."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from descartesd.agents.ids import is_id
from descartesd.agents.registry import Registry
from descartesd.agents.roster import Roster
from descartesd.config.schema import Config
from descartesd.errors import DescartesError, UnauthenticatedError
from descartesd.keys.curve import CurveKeyPair
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.seal import sealer_of
from descartesd.methods.call import Call, Handler, Trace, about
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.policy import Policy
from descartesd.methods.targets import target_of
from descartesd.observe.audit import AuditLog, AuditOptions
from descartesd.observe.audit_head import HeadStore
from descartesd.observe.audit_line import Entry
from descartesd.observe.logs import tell
from descartesd.transport.server import Peer
from descartesd.transport.zap import ZapHandler, peer_of
from descartesd.wire.agent import AgentInfo
from descartesd.wire.batch import BatchItem, BatchResult, BatchRun
from descartesd.wire.methods import METHODS, Method

log = logging.getLogger(__name__)

# What carries what is typed.
_DATA = frozenset(("agent.resize", "agent.write"))
# Lines about the agents of a batch written at once; others get their turn in between.
_PORTION = 500
_REFUSED = frozenset({"permission_denied", "unauthenticated", "resource_exhausted"})
_SUMMED_S = 1.0
# So many kinds of refusals are told apart in a second.
_MOST_KINDS = 20

# identity, certificate, method, target, code
Kind = tuple[str, str | None, str, str | None, str]


def open_log(config: Config, host: CurveKeyPair, registry: Registry) -> AuditLog:
    """The audit log of a server, its head kept in the registry. Raises OSError."""

    def save(text: str) -> bool:
        registry.set_meta("audit_head", text)
        return registry.save()

    options = AuditOptions(
        directory=config.server.state_dir,
        on_error=config.audit.on_error,
        max_bytes=config.audit.max_bytes,
        keep_files=config.audit.keep_files,
    )
    heads = HeadStore(load=lambda: registry.meta("audit_head"), save=save)
    return AuditLog(options, sealer_of(host.secret), heads)


def audited(handlers: Mapping[str, Handler], log: AuditLog, roster: Roster) -> dict[str, Handler]:
    """The functions by method name, those that change something with their lines."""
    return {
        name: _Audited(METHODS[name], handler, log, roster).handler if _changes(name) else handler
        for name, handler in handlers.items()
    }


def _changes(name: str) -> bool:
    method = METHODS[name]
    return method.resend != "read" and not name.startswith("stream.")


class _Audited:
    """One method that changes something."""

    def __init__(
        self, method: Method[Any, Any], handler: Handler, log: AuditLog, roster: Roster
    ) -> None:
        self._name = method.name
        self._call: Callable[[Call, Any], Any] = handler
        self._log = log
        self._roster = roster
        self._target_of = target_of(method)
        self._names_agents = method.name.startswith("agent.")
        self._level = logging.DEBUG if method.name in _DATA else logging.INFO
        self.handler: Handler = self._wait if inspect.iscoroutinefunction(handler) else self._do

    def _do(self, call: Call, params: Struct) -> Struct:
        line = self._begin(call, params)
        outcome = "internal"
        try:
            result: Struct = self._call(call, params)
            outcome = "ok"
        except DescartesError as exc:
            outcome = exc.code
            raise
        finally:
            self._log.add(replace(line, outcome=outcome))
            self._told(call, line.target, outcome)
        return result

    async def _wait(self, call: Call, params: Struct) -> Struct:
        if isinstance(params, BatchRun) and params.changes_nothing:
            return await self._awaited(call, params)
        words = self._words(params)
        line = self._begin(call, params)
        outcome = "internal"
        try:
            result = await self._awaited(call, params)
            outcome = "ok"
        except DescartesError as exc:
            outcome = exc.code
            raise
        except asyncio.CancelledError:
            # Nobody waits for the end any more; what was begun goes on.
            outcome = "cancelled"
            raise
        finally:
            if outcome != "ok":
                self._log.add(replace(line, outcome=outcome))
                self._told(call, line.target, outcome)
        agent = result.id if isinstance(result, AgentInfo) else line.target
        self._told(call, agent, outcome)
        await self._end(line, result, words)
        return result

    def _told(self, call: Call, target: str | None, outcome: str) -> None:
        """Log what became of it."""
        if not log.isEnabledFor(self._level):
            return
        facts = {"method": self._name, "outcome": outcome, **call.about()}
        if target is not None:
            facts["agent" if self._names_agents and is_id(target) else "target"] = target
        tell(log, self._level, "request.done", facts)

    def _awaited(self, call: Call, params: Struct) -> Awaitable[Struct]:
        answer: Awaitable[Struct] = self._call(call, params)
        return answer

    def _begin(self, call: Call, params: Struct) -> Entry:
        """Write the intent; the outcome but for what became of it. Raises UnavailableError."""
        caller = call.caller
        word = self._target_of(params)
        target = self._resolved(word) if self._names_agents and word is not None else word
        intent = self._log.intent(
            Entry(
                caller.id,
                self._name,
                "intent",
                caller.name,
                target,
                count=_number(params),
                detail=_detail(params),
            )
        )
        return Entry(caller.id, self._name, "outcome", caller.name, target, intent=intent)

    def _resolved(self, word: str) -> str:
        try:
            return self._roster.resolve(word).id
        except DescartesError:
            return word

    def _words(self, params: Struct) -> dict[str, str]:
        """Whom the words of a batch mean: afterwards they may mean nobody."""
        if not isinstance(params, BatchRun):
            return {}
        return {word: self._resolved(word) for word in params.ids}

    async def _end(self, line: Entry, result: Struct, words: Mapping[str, str]) -> None:
        if isinstance(result, AgentInfo):
            self._log.add(replace(line, outcome="ok", target=result.id))
            return
        if not isinstance(result, BatchResult):
            self._log.add(replace(_of_certificate(line, result), outcome="ok"))
            return
        done = replace(line, outcome="ok", count=result.succeeded, failed=result.failed)
        method = line.target if self._name == "batch.run" and line.target else "agent.spawn"
        each = replace(line, method=method)
        for first in range(0, len(result.results), _PORTION):
            items = result.results[first : first + _PORTION]
            self._log.add(*(_of_item(each, item, words) for item in items))
            await asyncio.sleep(0)
        self._log.add(done)


def _of_certificate(line: Entry, result: Struct) -> Entry:
    """Name the key that was let in or out, and its holder, where that is what was done."""
    key = getattr(result, "fingerprint", None)
    if not key:
        return line
    return replace(line, target=getattr(result, "name", None) or line.target, detail=f"key:{key}")


def _detail(params: Struct) -> str | None:
    role = getattr(params, "role", None)
    return None if role is None else f"role {role}"


def _of_item(line: Entry, item: BatchItem, words: Mapping[str, str]) -> Entry:
    target = words.get(item.id, item.id) if item.agent is None else item.agent.id
    error = item.error
    return replace(line, target=target, outcome="ok" if error is None else error.code)


def _number(params: Struct) -> int | None:
    """How many a batch names; None for one that selects, and for what is no batch."""
    if isinstance(params, BatchRun):
        return len(params.ids) or None
    specs = getattr(params, "specs", None)
    return None if specs is None else len(specs)


class Refusals:
    """Lines about who was turned away.

    The first of a kind is written at once, the others of the same second are one line, so that a
    flood does not fill the log.
    """

    def __init__(self, log: AuditLog, policy: Policy) -> None:
        self._log = log
        self._policy = policy
        self._counts: Counter[Kind] = Counter()
        self._pause: asyncio.TimerHandle | None = None

    def listen(self, dispatcher: Dispatcher, zap: ZapHandler) -> Callable[[], None]:
        """Be told from now on; what ends it."""
        dispatcher.on_refused = self.request
        dispatcher.limits.refused.on_told = self.limited
        zap.on_refused = self.handshake
        return self.close

    def request(
        self, peer: Peer, method: str, error: DescartesError, trace: Trace = None, /
    ) -> None:
        """A request was not let in."""
        if error.code not in _REFUSED:
            return
        identity = peer.user_id
        if self._add((identity, self._name(identity), method, None, error.code)):
            facts = {"method": method, "code": error.code, "cause": error.message}
            log.warning("request.refused", extra={**facts, **about(identity, trace)})

    def handshake(self, address: str, key: bytes) -> None:
        """A peer was not let in."""
        identity = peer_of(address)
        target = None if identity is not None else address
        detail = f"key:{fingerprint(key)}"
        kind = (identity or "-", None, "handshake", target, "unauthenticated")
        self._add(kind, detail)

    def limited(self, counts: Mapping[str, int]) -> None:
        """So many requests of each identity were over its quota, within a second."""
        self._log.add(
            *(
                _refused((who, self._name(who), "-", None, "resource_exhausted"), count)
                for who, count in counts.items()
            )
        )

    def _name(self, user_id: str) -> str | None:
        try:
            return self._policy.identify(user_id).name
        except UnauthenticatedError:
            return None

    def _add(self, kind: Kind, detail: str | None = None) -> bool:
        """Have a line written, at once for the first of its kind in a while; whether it was."""
        if kind not in self._counts:
            if len(self._counts) < _MOST_KINDS:
                self._counts[kind] = 0
                self._log.add(_refused(kind, 1, detail))
                self._wait()
                return True
            kind = ("-", None, "-", None, kind[-1])
        self._counts[kind] += 1
        return False

    def _wait(self) -> None:
        if self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(_SUMMED_S, self._sum_up)

    def _sum_up(self) -> None:
        self._pause = None
        counts, self._counts = self._counts, Counter()
        more = [_refused(kind, count) for kind, count in counts.items() if count]
        if more:
            self._log.add(*more)

    def close(self) -> None:
        """Write what has not been."""
        if self._pause is not None:
            self._pause.cancel()
            self._sum_up()


def _refused(kind: Kind, count: int, detail: str | None = None) -> Entry:
    identity, certificate, method, target, code = kind
    return Entry(
        identity,
        method,
        "refused",
        certificate,
        target,
        code,
        count=None if count == 1 else count,
        detail=detail,
    )
