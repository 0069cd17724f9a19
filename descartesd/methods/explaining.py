"""The method that tells why somebody may do something, by asking what decides it."""

from __future__ import annotations

from collections.abc import Mapping

from descartesd.agents.book import Book
from descartesd.errors import DescartesError, NotFoundError, PermissionDeniedError
from descartesd.methods.call import Call, Handler
from descartesd.methods.policy import Caller, Policy, refusal
from descartesd.methods.sight import find
from descartesd.wire import codec
from descartesd.wire.methods import METHODS
from descartesd.wire.policy import PolicyExplain, PolicyExplained

_ALSO_BY_ITSELF = {
    "batch.run": "the verb must be allowed by itself as well",
    "action.run": "a role of the server's own must list the action as well",
    "action.follow": "a role of the server's own must list the action as well",
    "agent.spawn": "its role may bound the spec",
    "batch.spawn": "its role may bound each spec",
}


class PolicyMethods:
    """One function per method."""

    def __init__(self, policy: Policy, book: Book) -> None:
        self._policy = policy
        self._book = book

    def handlers(self) -> Mapping[str, Handler]:
        """The functions by method name."""
        return {"policy.explain": self.explain}

    def explain(self, call: Call, params: PolicyExplain) -> PolicyExplained:
        self._policy.refresh()
        found = self._policy.find(params.identity)
        method = METHODS["policy.explain"]
        is_own = call.caller.grants.methods[method.name] == "own"
        if is_own and (found is None or found.id != call.caller.id):
            raise PermissionDeniedError(
                f"{method.name} {call.caller.grants.verdict(method.name).rule}: it tells of"
                " oneself alone",
                hint=f"ask about {call.caller.id}",
            )
        if found is None:
            return _told(
                params,
                params.identity,
                "identity",
                f"nobody who is let in is '{params.identity}'",
            )
        if params.method not in METHODS:
            near = codec.nearest(params.method, METHODS)
            meant = f": did you mean '{near}'" if near else ""
            return _told(params, found.id, "method", f"there is no '{params.method}'{meant}")
        return self._decided(call.caller, found, params)

    def _decided(self, asker: Caller, who: Caller, params: PolicyExplain) -> PolicyExplained:
        verdict = who.grants.verdict(params.method)
        if verdict.scope is None:
            error = refusal(who, METHODS[params.method])
            return _told(params, who.id, f"{params.method} {verdict.rule}", error.message)
        rule = f"{params.method} {verdict.rule}"
        if params.id is not None and acts_on_agents(params.method):
            try:
                agent = find(self._book.roster, who, params.id, params.method)
            except DescartesError as error:
                return _told(params, who.id, *self._refused(asker, who, params, rule, error))
            reason = f"agent '{agent.name}' is {agent.owner}'s, and {rule}"
        else:
            reason = f"{who.id} is {who.role}, and {rule}"
        also = _ALSO_BY_ITSELF.get(params.method)
        reason = reason if also is None else f"{reason}; {also}"
        return _told(params, who.id, rule, reason, allowed=True)

    def _refused(
        self, asker: Caller, who: Caller, params: PolicyExplain, rule: str, error: DescartesError
    ) -> tuple[str, str]:
        """Rule and reason; of an agent the asker does not see either no more is told."""
        if not isinstance(error, NotFoundError):
            return rule, error.message
        try:
            hidden = find(self._book.roster, asker, f"{params.id}", "agent.get")
        except DescartesError:
            return "agent", error.message
        sight = f"agent.get {who.grants.verdict('agent.get').rule}"
        return sight, f"agent '{hidden.name}' is {hidden.owner}'s, which it does not see: {sight}"


def acts_on_agents(method: str) -> bool:
    """Whether a method is about agents that are named."""
    fields = METHODS[method].request.__struct_fields__
    return method.startswith(("agent.", "batch.", "action.")) and bool(
        {"id", "ids", "agent"} & {*fields}
    )


def _told(
    params: PolicyExplain, identity: str, rule: str, reason: str, *, allowed: bool = False
) -> PolicyExplained:
    return PolicyExplained(
        identity=identity, method=params.method, allowed=allowed, rule=rule, reason=reason
    )
