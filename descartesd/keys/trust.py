"""The trust store: who a public key is, from one certificate file per identity.

Files are `NAME.cert` in one directory. A certificate added there by another process is let in
without a restart (`reload_if_changed`); a file removed is let in no more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from descartesd.errors import (
    AlreadyExistsError,
    ConflictError,
    DescartesError,
    NotFoundError,
    StartupRefusedError,
    UnauthenticatedError,
)
from descartesd.keys.certificate import (
    Certificate,
    armour,
    authority_id,
    unarmour,
    utc,
    verify,
    verify_signature,
)
from descartesd.keys.files import create_secret, read_contents, replace_secret
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.revoked import LIST_NAME, Revocation, RevocationList

SUFFIX = ".cert"

# A directory changed this recently may change again under the same time stamp: the kernel's
# clock for files stands still for up to 10 ms.
_SETTLED_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a key is. Times are seconds since the epoch, UTC."""

    name: str
    roles: tuple[str, ...]
    not_before: int
    not_after: int
    serial: str
    fingerprint: str
    renew_until: int
    authority: str


@dataclass(frozen=True, slots=True)
class _Entry:
    stamp: tuple[int, int, int]
    key: bytes
    identity: Identity


class TrustStore:
    """The certificates of a directory that one of `authorities` (Ed25519 public keys) signed."""

    def __init__(
        self,
        directory: str,
        authorities: Iterable[bytes],
        *,
        revoked: RevocationList | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.problems: tuple[str, ...] = ()
        # Another number whenever it may know other keys than before.
        self.edition = 0
        self.revoked = revoked or RevocationList(os.path.join(directory, LIST_NAME))
        self._directory = directory
        self._authorities = {authority_id(key): key for key in authorities}
        self.clock = clock
        self._believed: Callable[[], Mapping[bytes, bytes]] | None = None
        self._entries: dict[str, _Entry] = {}
        self._by_key: dict[bytes, Identity] = {}
        self._changed_at: int | None = None

    def believe(self, believed: Callable[[], Mapping[bytes, bytes]]) -> None:
        """From now on believe those authorities, public keys by id, that this tells each time."""
        self._believed = believed
        self._authorities = dict(believed())
        self._entries = {}

    def load(self) -> None:
        """Read every certificate; what is malformed is left out and named in `problems`.

        Raises StartupRefusedError when the directory cannot be read; then nothing changes.
        """
        try:
            changed_at = os.stat(self._directory).st_mtime_ns
            names = sorted(name for name in os.listdir(self._directory) if name.endswith(SUFFIX))
        except OSError as exc:
            raise StartupRefusedError(
                f"cannot read the trust store '{self._directory}': {exc.strerror}"
            ) from exc
        self.revoked.load()
        entries: dict[str, _Entry] = {}
        by_key: dict[bytes, Identity] = {}
        problems: list[str] = []
        for name in names:
            try:
                entry = self._entry(name)
                self._refuse_revoked(entry.identity)
                if entry.key in by_key:
                    raise ConflictError(f"its key is that of '{by_key[entry.key].name}'")
            except OSError as exc:
                problems.append(f"'{name}': {exc.strerror}")
            except DescartesError as exc:
                problems.append(f"'{name}': {exc.message}")
            else:
                entries[name] = entry
                by_key[entry.key] = entry.identity
        self._entries, self._by_key, self.problems = entries, by_key, tuple(problems)
        self.edition += 1
        settled = abs(time.time_ns() - changed_at) > _SETTLED_NS
        self._changed_at = changed_at if settled else None

    def reload_if_changed(self) -> bool:
        """Load again if a certificate was added or removed, or other authorities are believed.

        True when it was loaded. Raises StartupRefusedError as `load`.
        """
        if self._believed is not None and self._believed() != self._authorities:
            self.believe(self._believed)
            self._changed_at = None
        try:
            if os.stat(self._directory).st_mtime_ns == self._changed_at:
                return False
        except OSError:
            self._changed_at = None
        self.load()
        return True

    def lookup(self, public_key: bytes) -> Identity | None:
        """The identity of a key whose certificate is valid now."""
        identity = self._by_key.get(public_key)
        return identity if identity is not None and self.is_valid(identity) else None

    def is_valid(self, identity: Identity) -> bool:
        """Whether a certificate has begun and not ended."""
        return identity.not_before <= self.clock() < identity.not_after

    def expiring(self) -> int:
        """How many certificates are valid and have less than a third of their life left."""
        now = self.clock()
        return sum(
            each.not_before <= now < each.not_after
            and (each.not_after - now) * 3 < each.not_after - each.not_before
            for each in self._by_key.values()
        )

    def ended_at(self, moment: float) -> int:
        """How many of those valid now would have ended by a moment."""
        now = self.clock()
        return sum(now < each.not_after <= moment for each in self._by_key.values())

    def knows(self, public_key: bytes) -> bool:
        """Whether a key has a certificate, of whatever time, or was revoked."""
        if public_key in self._by_key:
            return True
        return self.revoked.find("", fingerprint(public_key)) is not None

    def explain(self, public_key: bytes) -> str:
        """Why `lookup` finds nobody, for the log: a peer is not told."""
        identity = self._by_key.get(public_key)
        if identity is None:
            shown = fingerprint(public_key)
            revocation = self.revoked.find("", shown)
            if revocation is None:
                return f"key {shown} is unknown"
            return f"key {shown} of '{revocation.name}' was revoked at {utc(revocation.time)}"
        if self.clock() < identity.not_before:
            return (
                f"certificate of '{identity.name}' is not valid before {utc(identity.not_before)}"
            )
        return f"certificate of '{identity.name}' expired at {utc(identity.not_after)}"

    def identities(self) -> list[Identity]:
        """Everybody with a certificate, expired ones included, by name."""
        return [entry.identity for entry in self._entries.values()]

    def certificate_text(self, name: str) -> str | None:
        """The text of a certificate that is let in."""
        try:
            return read_contents(self.path(name)).data.decode("ascii", "replace")
        except OSError:
            return None

    def certificate(self, name: str) -> Certificate:
        """What the certificate of a name states; raises NotFoundError, UnauthenticatedError."""
        text = self.certificate_text(name)
        if text is None:
            raise NotFoundError(f"there is no certificate of the name '{name}'")
        return verify_signature(unarmour(text), self._authorities, kind="client")

    def add(self, signed: bytes) -> Identity:
        """Store a signed client certificate and let its holder in.

        Raises AlreadyExistsError when its name or its key is taken, UnauthenticatedError when its
        signature does not hold or it is revoked, otherwise as `create_secret`.
        """
        certificate = verify_signature(signed, self._authorities, kind="client")
        self.reload_if_changed()
        self._refuse_revoked(_identity(certificate))
        if self._is_there(certificate.name, signed):
            return _identity(certificate)
        holder = self._by_key.get(certificate.key)
        if holder is not None and holder.name != certificate.name:
            raise AlreadyExistsError(f"the key is already that of '{holder.name}'")
        path = self.path(certificate.name)
        self._clear_revoked(certificate.name)
        try:
            create_secret(path, armour(signed).encode())
        except AlreadyExistsError as exc:
            raise AlreadyExistsError(
                f"there is a certificate named '{certificate.name}' already",
                hint="choose another name: each certificate has its own",
            ) from exc
        self.load()
        return _identity(certificate)

    def take(self, signed: bytes) -> Identity:
        """Store a certificate that is valid now, whoever believed in signed it.

        It takes the place of an earlier one of the same name and key. Raises UnauthenticatedError
        as `verify`, otherwise as `add`.
        """
        certificate = verify(signed, self._authorities, kind="client", now=self.clock())
        known = self._by_key.get(certificate.key)
        if known is not None and known.name == certificate.name:
            self._refuse_revoked(_identity(certificate))
            if certificate.not_before < known.not_before:
                # An earlier one may have allowed more.
                return known
            if self._is_there(certificate.name, signed):
                return known
            replace_secret(self.path(certificate.name), armour(signed).encode())
            self.load()
            return _identity(certificate)
        return self.add(signed)

    def _is_there(self, name: str, signed: bytes) -> bool:
        return self.certificate_text(name) == armour(signed)

    def revoke(self, *, serial: str, key_fingerprint: str, name: str) -> Revocation:
        """Let a certificate and its key in no more, for good; its name is free again.

        Raises as `RevocationList.append`.
        """
        revocation = self.revoked.append(self.clock(), serial, key_fingerprint, name)
        self.load()
        if name:
            self._clear_revoked(name)
            self.load()
        return revocation

    def path(self, name: str) -> str:
        """Where the certificate of a name stands."""
        return os.path.join(self._directory, f"{name}{SUFFIX}")

    def _refuse_revoked(self, identity: Identity) -> None:
        revocation = self.revoked.find(identity.serial, identity.fingerprint)
        if revocation is not None:
            raise UnauthenticatedError(
                f"the certificate of '{identity.name}' or its key was revoked at"
                f" {utc(revocation.time)}",
                hint="make a new key pair: a revoked key is never certified again",
                details={"reason": "revoked"},
            )

    def _clear_revoked(self, name: str) -> None:
        """Remove the file of a name whose certificate is revoked, or whose signer is distrusted."""
        path = self.path(name)
        try:
            self._refuse_revoked(self._read(path)[1])
        except UnauthenticatedError as exc:
            if (exc.details or {}).get("reason") in ("revoked", "wrong_authority"):
                # What cannot be removed lets nobody in; only the name is not free then.
                with suppress(OSError):
                    os.unlink(path)
        except (OSError, DescartesError):
            return

    def _entry(self, name: str) -> _Entry:
        path = os.path.join(self._directory, name)
        status = os.stat(path)
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self._entries.get(name)
        if known is not None and known.stamp == stamp:
            return known
        key, identity = self._read(path)
        if f"{identity.name}{SUFFIX}" != name:
            raise ConflictError(f"it names '{identity.name}', expected the file's name")
        return _Entry(stamp, key, identity)

    def _read(self, path: str) -> tuple[bytes, Identity]:
        # A byte that is not ASCII is refused with everything else that does not belong there.
        signed = unarmour(read_contents(path).data.decode("ascii", "replace"))
        certificate = verify_signature(signed, self._authorities, kind="client")
        return certificate.key, _identity(certificate)


def _identity(certificate: Certificate) -> Identity:
    return Identity(
        name=certificate.name,
        roles=certificate.roles,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        renew_until=certificate.renew_until,
        authority=certificate.authority.hex(),
        serial=certificate.serial.hex(),
        fingerprint=fingerprint(certificate.key),
    )
