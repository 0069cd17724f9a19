"""Decides who a peer is and what it may do: by its key on tcp, by its uid on the Unix socket."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from descartesd.errors import PermissionDeniedError, StartupRefusedError, UnauthenticatedError
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.grants import BUILTIN, RANKS, Grants
from descartesd.wire.methods import ROLES, Method
from descartesd.wire.server import Role, RoleName

_LOCAL = re.compile(r"localhost:(\d+):(\d+):(-?\d+)")
_GROUPS_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity: `uid:N` or `key:SHA256:…`, with its role."""

    id: str
    role: RoleName
    grants: Grants
    name: str | None = None
    uid: int | None = None
    certified: Identity | None = field(default=None, compare=False, repr=False)


class Strangers(Protocol):
    """Lets peers in that have no certificate yet."""

    def enter(self, address: str, key: bytes, /) -> str | None:
        """The user id one enters under, or None to refuse it."""

    def caller(self, user_id: str, /) -> Caller:
        """Who sent a message; raises UnauthenticatedError when he is let in no longer."""


class LocalRoles:
    """Roles of local users: root and the server's own uid are admin, the rest as configured."""

    def __init__(
        self,
        uids: Mapping[str, Role],
        groups: Mapping[str, Role],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uids = dict(uids)
        self._groups = dict(groups)
        self._own_uid = os.getuid()
        self._clock = clock
        self._cache: dict[int, tuple[float, Role | None]] = {}

    def role(self, uid: int) -> Role | None:
        """The role of a uid, or None when it has none."""
        if uid in (0, self._own_uid):
            return "admin"
        configured = self._uids.get(str(uid))
        if configured is not None or not self._groups:
            return configured
        now = self._clock()
        known = self._cache.get(uid)
        if known is None or known[0] <= now:
            known = (now + _GROUPS_TTL_S, self._by_group(uid))
            self._cache[uid] = known
        return known[1]

    def _by_group(self, uid: int) -> Role | None:
        try:
            account = pwd.getpwuid(uid)
        except KeyError:
            return None
        found: list[Role] = []
        for gid in os.getgrouplist(account.pw_name, account.pw_gid):
            try:
                role = self._groups.get(grp.getgrgid(gid).gr_name)
            except KeyError:
                continue
            if role is not None:
                found.append(role)
        return max(found, key=RANKS.__getitem__, default=None)


class Policy:
    """Answers at the handshake whether a peer may enter, and at each message who it is now."""

    def __init__(self, trust: TrustStore, local: LocalRoles) -> None:
        self._trust = trust
        self._local = local
        self._keys: dict[str, bytes] = {}
        # Why nobody can come in over tcp now.
        self.problem: str | None = None
        self._callers: dict[str, Caller] = {}
        # Who is let in without a certificate, to get one.
        self.guests: Strangers | None = None

    def authenticate(self, address: str, key: bytes) -> str | None:
        """Return the user id a peer enters under, or None to refuse it."""
        peer = _LOCAL.fullmatch(address)
        if peer is not None:
            uid = int(peer[1])
            return f"uid:{uid}" if self._local.role(uid) is not None else None
        self._reload()
        identity = self._trust.lookup(key)
        if identity is None:
            return None if self.guests is None else self.guests.enter(address, key)
        user_id = f"key:{identity.fingerprint}"
        self._keys[user_id] = key
        return user_id

    @property
    def revocations_problem(self) -> str | None:
        """Why somebody revoked could have come back, had it not been noticed."""
        return self._trust.revoked.problem

    def refresh(self) -> None:
        """Take over what has changed in the trust store; nothing while it cannot be read."""
        with contextlib.suppress(StartupRefusedError):
            self._reload()

    def _reload(self) -> None:
        try:
            self._trust.reload_if_changed()
        except StartupRefusedError as exc:
            self.problem = exc.message
            raise
        self.problem = None

    def identify(self, user_id: str) -> Caller:
        """Tell who sent a message; raises UnauthenticatedError when it is let in no longer."""
        known = self._callers.get(user_id)
        if user_id.startswith("uid:"):
            role = self._local.role(int(user_id[4:]))
            if role is not None:
                if known is None or known.role != role:
                    known = Caller(user_id, role, BUILTIN[role], uid=int(user_id[4:]))
                    self._callers[user_id] = known
                return known
        elif not user_id.startswith("key:") and self.guests is not None:
            return self.guests.caller(user_id)
        else:
            key = self._keys.get(user_id)
            identity = self._trust.lookup(key) if key is not None else None
            if identity is not None and known is not None and known.certified is identity:
                return known
            best = _best_role(identity)
            if identity is not None and best is not None:
                known = Caller(user_id, best, BUILTIN[best], identity.name, certified=identity)
                self._callers[user_id] = known
                return known
        raise UnauthenticatedError(
            f"{user_id} is not authorised any more",
            hint="ask an administrator for a new certificate",
        )


def _best_role(identity: Identity | None) -> Role | None:
    roles = () if identity is None else identity.roles
    return next((role for role in reversed(ROLES) if role in roles), None)


def refusal(caller: Caller, method: Method[Any, Any]) -> PermissionDeniedError:
    """Say that a caller's role is too small for a method."""
    return PermissionDeniedError(
        f"{method.name} needs the role {method.permission}; {caller.id} is {caller.role}",
        hint="ask an administrator for a certificate with that role",
    )
