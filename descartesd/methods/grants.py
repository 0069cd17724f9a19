"""What somebody is allowed: which methods, on whose agents, with which specs, and how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from msgspec.structs import asdict

from descartesd.config.role import Quotas, Scope
from descartesd.config.role import Role as Definition
from descartesd.wire.methods import METHODS, ROLES
from descartesd.wire.server import Role

RANKS: dict[str, int] = {role: rank for rank, role in enumerate(ROLES)}
_ADMIN = RANKS["admin"]
# Of use only to who has a stream, and only for that.
_OF_STREAMS = ("stream.credit", "stream.cancel")
# Of those that need an administrator, what has a meaning for oneself alone.
_ABOUT_ONESELF = frozenset({"policy.explain"})
# Many at once, or one watched, must not be a way around what is denied.
_SAME_AS = {"batch.spawn": "agent.spawn", "action.follow": "action.run"}
_UNLIMITED = Quotas()


class Verdict(NamedTuple):
    """Whether a method is granted, on whose agents; None where it is not.

    `rule` goes on where a sentence begins with the method.
    """

    scope: Scope | None
    rule: str


class NamedRole(NamedTuple):
    """A role as the configuration has it; `rank` of a built-in one, else -1."""

    name: str
    definition: Definition
    rank: int = -1


@dataclass(frozen=True, slots=True)
class Grants:
    """The methods somebody may call, each with its scope; what is not in it is denied.

    `rank` is that of the greatest built-in role in it, -1 without one. `sees` tells whose agents
    there are for it at all: of others' without `any` every method says that they do not exist.
    """

    methods: Mapping[str, Scope]
    rank: int = -1
    sees: Scope = "own"
    verdicts: Mapping[str, Verdict] | None = None
    roles: tuple[NamedRole, ...] = ()
    quotas: Quotas = _UNLIMITED

    def verdict(self, method: str) -> Verdict:
        """Whether a method is granted, and by which rule."""
        found = None if self.verdicts is None else self.verdicts.get(method)
        return found or Verdict(
            self.methods.get(method), "is not for a client that is being taken in"
        )

    def granting(self, method: str) -> list[NamedRole]:
        """The roles that grant a method, each by itself."""
        if method not in self.methods:
            return []
        return [role for role in self.roles if _of_role(role, method).scope is not None]


def grants_of(roles: Sequence[NamedRole]) -> Grants:
    """What several roles allow together: all that one of them does, less what any denies.

    The loosest quota counts. Raises ValueError without a role.
    """
    verdicts = {method: _judged(roles, method) for method in METHODS}
    for other, one in _SAME_AS.items():
        if verdicts[one].scope is None and verdicts[other].scope is not None:
            verdicts[other] = Verdict(None, f"needs {one} as well, which {verdicts[one].rule}")
    for method in _OF_STREAMS:
        if verdicts[method].scope != "any" and not _denied(roles, method):
            verdicts[method] = _with_a_stream(verdicts, verdicts[method])
    rank = max(role.rank for role in roles)
    return Grants(
        methods={method: each.scope for method, each in verdicts.items() if each.scope},
        rank=rank,
        sees=verdicts["agent.get"].scope or "own",
        verdicts=verdicts,
        roles=tuple(roles),
        quotas=_UNLIMITED if rank == _ADMIN else _loosest(roles),
    )


def _judged(roles: Sequence[NamedRole], method: str) -> Verdict:
    denied = _denied(roles, method)
    if denied is not None:
        return denied
    found = [_of_role(role, method) for role in roles]
    granted = [each for each in found if each.scope is not None]
    widest = next((each for each in granted if each.scope == "any"), None)
    return widest or (granted or found)[0]


def _denied(roles: Iterable[NamedRole], method: str) -> Verdict | None:
    for role in roles:
        for pattern in role.definition.deny:
            if fnmatchcase(method, pattern):
                return Verdict(None, f"is denied by '{pattern}' in policy.roles.{role.name}.deny")
    return None


def _of_role(role: NamedRole, method: str) -> Verdict:
    """What a role says by itself, its denials left aside."""
    if role.rank >= 0:
        needed = METHODS[method].permission
        if RANKS[needed] <= role.rank:
            return Verdict("any", f"is one of the role {role.name}")
        return Verdict(None, f"needs the role {needed}")
    methods = role.definition.methods
    fitting = [pattern for pattern in methods if fnmatchcase(method, pattern)]
    if not fitting:
        return Verdict(None, f"is not listed in policy.roles.{role.name}.methods")
    # A name has no star, and goes before every pattern.
    pattern = max(fitting, key=lambda each: ("*" not in each, len(each)))
    scope = methods[pattern]
    if scope == "own" and _is_about_all(method):
        # "*" = "own" is meant for one's own agents, not for everybody's certificates.
        rule = f"is about the whole server, which 'own' by '{pattern}' in policy.roles.{role.name}"
        return Verdict(None, f"{rule}.methods does not grant")
    return Verdict(scope, f"is '{scope}' by '{pattern}' in policy.roles.{role.name}.methods")


def _is_about_all(method: str) -> bool:
    return METHODS[method].permission == "admin" and method not in _ABOUT_ONESELF


def _with_a_stream(verdicts: Mapping[str, Verdict], otherwise: Verdict) -> Verdict:
    for name, method in METHODS.items():
        if method.stream and verdicts[name].scope is not None:
            return Verdict("any", f"comes with {name}")
    return otherwise


def _loosest(roles: Iterable[NamedRole]) -> Quotas:
    found = [asdict(role.definition.quotas) for role in roles]
    loosest = {}
    for name in Quotas.__struct_fields__:
        values = [quotas[name] for quotas in found]
        loosest[name] = None if None in values else max(values)
    return Quotas(**loosest)


def builtin(role: Role) -> Grants:
    """What a built-in role allows: every method that needs no greater role, on all agents."""
    return grants_of([NamedRole(role, Definition(), RANKS[role])])


# What a new client that has shown no certificate yet may call, and nothing else.
ENROLLING = Grants(methods={"cert.enroll": "any"})
# What a service may ask itself, to find out whether it works. No configured role can have the name.
CHECKING = Grants(methods={"server.hello": "any", "server.health": "any"})
CHECKING_ROLE = "(itself)"
PRESENTING = Grants(methods={"cert.present": "any"})
BUILTIN: Mapping[str, Grants] = {role: builtin(role) for role in ROLES}


class Roles:
    """The roles there are, built-in and configured, and what several of them grant together."""

    def __init__(self, configured: Mapping[str, Definition] | None = None) -> None:
        own = configured or {}
        self._roles = {
            name: NamedRole(name, own.get(name, Definition()), RANKS.get(name, -1))
            for name in (*ROLES, *(name for name in own if name not in RANKS))
        }
        self._grants: dict[tuple[str, ...], Grants] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Every role's name, the built-in ones first."""
        return tuple(self._roles)

    def defined(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that are roles here, the greatest built-in one first."""
        known = [name for name in dict.fromkeys(names) if name in self._roles]
        return tuple(sorted(known, key=lambda name: -self._roles[name].rank))

    def grants(self, names: tuple[str, ...]) -> Grants:
        """What these defined roles grant together; the same object for the same names."""
        found = self._grants.get(names)
        if found is None:
            found = self._grants[names] = grants_of([self._roles[name] for name in names])
        return found
