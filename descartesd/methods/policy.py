"""Decides who a peer is and what it may do: by its key on tcp, by its uid on the Unix socket."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from descartesd.api import KeyHolder
from descartesd.config.role import Quotas
from descartesd.config.schema import Policy as PolicyConfig
from descartesd.errors import PermissionDeniedError, StartupRefusedError, UnauthenticatedError
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import Identity, TrustStore
from descartesd.methods.grants import CHECKING, CHECKING_ROLE, RANKS, Grants, Roles
from descartesd.methods.knocks import Knocks
from descartesd.methods.meter import Meter
from descartesd.methods.outsiders import Outsiders
from descartesd.wire.methods import Method
from descartesd.wire.server import RoleName

_LOCAL = re.compile(r"localhost:(\d+):(\d+):(-?\d+)")
_GROUPS_TTL_S = 60.0
_ITSELF: tuple[RoleName, ...] = (CHECKING_ROLE,)
_ADMIN: tuple[RoleName, ...] = ("admin",)
_GREATEST = RANKS["admin"]
_UNLIMITED = Quotas()
# No role bounds who has a join string. An introduction key is a fleet's, which may come at once.
_OF_A_TOKEN = Quotas(requests_per_second=10)
_UID_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity: `uid:N` or `key:SHA256:…`, with its role, the first of several."""

    id: str
    role: RoleName
    grants: Grants
    name: str | None = None
    uid: int | None = None
    # What it was made of: the same object, or the same roles, make the same caller.
    certified: Identity | KeyHolder | tuple[RoleName, ...] | None = field(
        default=None, compare=False, repr=False
    )
    # None where nothing is limited.
    meter: Meter | None = field(default=None, compare=False, repr=False)


class Strangers(Protocol):
    """Lets peers in that have no certificate yet."""

    def enter(self, address: str, key: bytes, /) -> str | None:
        """The user id one enters under, or None to refuse it."""

    def knows(self, key: bytes, /) -> bool:
        """Whether it would let the holder of this key in."""

    def caller(self, user_id: str, /) -> Caller:
        """Who sent a message; raises UnauthenticatedError when he is let in no longer."""


class LocalRoles:
    """Roles of local users: root is admin, the rest as configured.

    The server's own uid is admin too; that of a service may only ask how it is.
    """

    def __init__(
        self,
        uids: Mapping[str, RoleName],
        groups: Mapping[str, RoleName],
        *,
        is_service: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_service = is_service
        self._uids = {uid: (role,) for uid, role in uids.items()}
        self._groups = dict(groups)
        self._own_uid = os.getuid()
        self._clock = clock
        self._cache: dict[int, tuple[float, tuple[RoleName, ...]]] = {}

    def roles(self, uid: int) -> tuple[RoleName, ...]:
        """The roles of a uid; none of somebody who is not let in."""
        if uid == 0 or (uid == self._own_uid and not self.is_service):
            return _ADMIN
        configured = self._uids.get(str(uid), ())
        if uid == self._own_uid:
            return configured or _ITSELF
        if configured or not self._groups:
            return configured
        now = self._clock()
        known = self._cache.get(uid)
        if known is None or known[0] <= now:
            known = (now + _GROUPS_TTL_S, self._by_group(uid))
            self._cache[uid] = known
        return known[1]

    def _by_group(self, uid: int) -> tuple[RoleName, ...]:
        try:
            account = pwd.getpwuid(uid)
        except KeyError:
            return ()
        found: list[RoleName] = []
        for gid in os.getgrouplist(account.pw_name, account.pw_gid):
            try:
                role = self._groups.get(grp.getgrgid(gid).gr_name)
            except KeyError:
                continue
            if role is not None:
                found.append(role)
        return tuple(found)


class Policy:
    """Answers at the handshake whether a peer may enter, and at each message who it is now."""

    def __init__(self, trust: TrustStore, local: LocalRoles, roles: Roles | None = None) -> None:
        self._trust = trust
        self._local = local
        self.roles = roles or Roles()
        self._keys: dict[str, bytes] = {}
        # Why nobody can come in over tcp now.
        self.problem: str | None = None
        self._callers: dict[str, Caller] = {}
        # Who has been identified since the last `refresh`, under this edition of the trust store,
        # and until when his certificate lasts.
        self._sure: dict[str, tuple[Caller, int]] = {}
        self._edition = trust.edition
        # Of every identity with a quota that has come in.
        self.meters: dict[str, Meter] = {}
        self._knocks = Knocks()
        # What is wrong with the host's clock, by which certificates end.
        self.clock_problem: str | None = None
        # How many certificates have less than a third of their life left.
        self.certificates_expiring = 0
        # Who is let in without a certificate, to get one.
        self.guests: Strangers | None = None
        # Whom only plugins know; None while no plugin vouches for keys.
        self.outsiders: Outsiders | None = None

    def authenticate(self, address: str, key: bytes) -> str | Awaitable[str | None] | None:
        """Return the user id a peer enters under, or None to refuse it.

        What a plugin has to say is waited for.
        """
        peer = _LOCAL.fullmatch(address)
        if peer is not None:
            user_id = f"uid:{int(peer[1])}"
            if not self._local.roles(int(peer[1])):
                return None
            self._take_in(user_id)
            return user_id
        self._reload()
        identity = self._trust.lookup(key)
        if identity is None:
            if self.outsiders is not None and not (self.guests and self.guests.knows(key)):
                return self._vouched(self.outsiders, address, key)
            return None if self.guests is None else self._as_guest(self.guests, address, key)
        user_id = f"key:{identity.fingerprint}"
        self._keys[user_id] = key
        self._take_in(user_id)
        return user_id

    def _as_guest(self, guests: Strangers, address: str, key: bytes) -> str | None:
        user_id = guests.enter(address, key)
        if user_id is not None and user_id.startswith("token:"):
            self._measure(user_id, _OF_A_TOKEN)
        return user_id

    async def _vouched(self, outsiders: Outsiders, address: str, key: bytes) -> str | None:
        holder = await outsiders.enter(address, key)
        if holder is None or not self.roles.defined((holder.role,)):
            return None
        user_id = f"key:{fingerprint(key)}"
        self._keys[user_id] = key
        self._take_in(user_id)
        return user_id

    def _take_in(self, user_id: str) -> None:
        """Take in a peer, so that its quotas hold from its first message on.

        Raises ResourceExhaustedError when it has come too often.
        """
        caller = self._known(user_id)
        if caller is None or caller.grants.rank < _GREATEST:
            self._knocks.take(user_id)

    @property
    def revocations_problem(self) -> str | None:
        """Why somebody revoked could have come back, had it not been noticed."""
        return self._trust.revoked.problem

    def refresh(self) -> None:
        """Take over what has changed in the trust store; nothing while it cannot be read."""
        self._sure.clear()
        with contextlib.suppress(StartupRefusedError):
            self._reload()

    def reconfigure(self, config: PolicyConfig) -> None:
        """Have other roles, and others have them, from the next message on."""
        self._local = _local_roles(config, self._local.is_service)
        self.roles = Roles(config.roles)
        self._callers.clear()
        self._sure.clear()

    def _reload(self) -> None:
        try:
            self._trust.reload_if_changed()
        except StartupRefusedError as exc:
            self.problem = exc.message
            raise
        self.problem = None

    def identify(self, user_id: str) -> Caller:
        """Tell who sent a message; raises UnauthenticatedError when it is let in no longer."""
        if self._trust.edition != self._edition:
            self._edition = self._trust.edition
            self._sure.clear()
        sure = self._sure.get(user_id)
        if sure is not None and self._trust.clock() < sure[1]:
            return sure[0]
        return self._identify(user_id)

    def _identify(self, user_id: str) -> Caller:
        known = self._callers.get(user_id)
        if user_id.startswith("uid:"):
            roles = self._local.roles(int(user_id[4:]))
            if known is not None and known.certified == roles:
                return known
            if roles:
                return self._admit(user_id, roles, uid=int(user_id[4:]), certified=roles)
        elif not user_id.startswith("key:") and self.guests is not None:
            return self.guests.caller(user_id)
        else:
            key = self._keys.get(user_id)
            identity = self._trust.lookup(key) if key is not None else None
            if identity is not None:
                if known is None or known.certified is not identity:
                    if not self.roles.defined(identity.roles):
                        raise self._without_role(user_id, identity.roles)
                    known = self._admit(
                        user_id, identity.roles, name=identity.name, certified=identity
                    )
                self._sure[user_id] = (known, identity.not_after)
                return known
            if key is not None and (vouched := self._outsider(user_id, key)) is not None:
                return vouched
        raise UnauthenticatedError(
            f"{user_id} is not authorised any more",
            hint="ask an administrator for a new certificate",
        )

    def _without_role(self, user_id: str, roles: Iterable[RoleName]) -> UnauthenticatedError:
        return UnauthenticatedError(
            f"{user_id} has no role this server knows: {', '.join(roles)}",
            hint=f"the roles there are: {', '.join(self.roles.names)}",
        )

    def _outsider(self, user_id: str, key: bytes) -> Caller | None:
        """Who a plugin says that it is, None where none does any more."""
        holder = None if self.outsiders is None else self.outsiders.holder(key)
        if holder is None:
            return None
        known = self._callers.get(user_id)
        if known is not None and known.certified is holder:
            return known
        if not self.roles.defined((holder.role,)):
            return None
        return self._admit(user_id, (holder.role,), name=holder.name, certified=holder)

    def _admit(self, user_id: str, roles: Iterable[RoleName], **facts: Any) -> Caller:
        """Take in who sends its first message, or its first one with other roles than before."""
        if roles == _ITSELF:
            names, grants = _ITSELF, CHECKING
        else:
            names = self.roles.defined(roles)
            grants = self.roles.grants(names)
        meter = self._measure(user_id, grants.quotas)
        caller = Caller(user_id, names[0], grants, meter=meter, **facts)
        self._callers[user_id] = caller
        return caller

    def _measure(self, user_id: str, quotas: Quotas) -> Meter | None:
        before = self.meters.get(user_id)
        if before is not None and before.quotas == quotas:
            # A new certificate with the same roles is no way to new tokens.
            return before
        self.meters.pop(user_id, None)
        if quotas == _UNLIMITED:
            return None
        meter = self.meters[user_id] = Meter(user_id, quotas)
        if before is not None:
            meter.inherit(before)
        return meter

    def quotas_of(self, identity: str) -> Quotas:
        """The quotas of an identity, also of one that has not called since the server started.

        Those of one that is let in no more stay as they were.
        """
        found = self._callers.get(identity) or self.lookup(identity)
        return _UNLIMITED if found is None else found.grants.quotas

    def lookup(self, identity: str) -> Caller | None:
        """Who an identity `uid:N` or `key:SHA256:…` is now; None for one that is not let in."""
        if identity.startswith("uid:"):
            uid = identity.removeprefix("uid:")
            is_uid = uid.isascii() and uid.isdecimal() and len(uid) <= _UID_DIGITS
            return self._known(f"uid:{int(uid)}") if is_uid else None
        for each in self._trust.identities():
            if f"key:{each.fingerprint}" == identity:
                known = self._callers.get(identity)
                if known is not None and known.certified is each:
                    return known
                if self._trust.is_valid(each) and self.roles.defined(each.roles):
                    return self._admit(identity, each.roles, name=each.name, certified=each)
        return None

    def find(self, word: str) -> Caller | None:
        """The same by a certificate's name as well."""
        for each in self._trust.identities():
            if each.name == word:
                return self.lookup(f"key:{each.fingerprint}")
        return self.lookup(word)

    def _known(self, user_id: str) -> Caller | None:
        with contextlib.suppress(UnauthenticatedError):
            return self.identify(user_id)
        return None


def policy_of(config: PolicyConfig, trust: TrustStore, *, is_service: bool = False) -> Policy:
    """The policy as it is configured."""
    return Policy(trust, _local_roles(config, is_service), Roles(config.roles))


def _local_roles(config: PolicyConfig, is_service: bool) -> LocalRoles:
    return LocalRoles(config.local_uids, config.local_groups, is_service=is_service)


def refusal(caller: Caller, method: Method[Any, Any]) -> PermissionDeniedError:
    """Say that a caller is not granted a method, and by which rule."""
    return PermissionDeniedError(
        f"{method.name} {caller.grants.verdict(method.name).rule}; {caller.id} is {caller.role}",
        hint="ask an administrator for a certificate with that role",
    )
