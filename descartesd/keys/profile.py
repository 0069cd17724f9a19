"""Profiles: where a client finds its server and which keys it uses.

A TOML file of mode 0600. The profile of a Unix socket has no keys: the server's stands beside the
socket, and the kernel tells the server who calls. Imports stay few, as every command reads one:
dataclasses alone would cost a twentieth of its time.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from descartesd.config.endpoint import parse_tcp, unix_path_fault
from descartesd.config.toml_text import toml_lines, toml_text
from descartesd.errors import InvalidArgumentError, NotFoundError, UnauthenticatedError
from descartesd.keys.files import create_secret, read_contents, replace_secret
from descartesd.keys.z85 import decode_key

UNIX = "ipc://"
# Where the service of the package is asked by who is on its host, and what it is configured by.
LOCAL_SOCKET = "/run/descartes/control.sock"
SERVICE_CONFIG = "/etc/descartesd/descartesd.toml"
# The end of the year 9999.
_LATEST = 253_402_300_799


class ClientSettings(Struct, frozen=True):
    """How patient a client is. The names are those of the table [client]; times are seconds."""

    connection_timeout_secs: float = 3.0
    """Until the handshake with a server is done."""
    request_timeout_secs: float = 30.0
    """Until a request without a deadline of its own is answered."""
    auto_reconnect: bool = True
    """Whether a lost connection is made again."""
    max_reconnect_attempts: int = 0
    """How often in a row that is tried; 0: until the request's time is over."""
    reconnect_delay_secs: float = 0.1
    """Before the first attempt; each further one waits longer, up to 30 s."""
    enable_heartbeat: bool = True
    """Whether a server that has fallen silent is found out although its connection stands."""
    heartbeat_interval_secs: float = 3.0
    """Between two signs of life; after three times this a connection without any is lost."""
    offline_queue_size: int = 1000
    """How many requests may wait while there is no connection; 0: no bound."""
    offline_queue_expiry_secs: float = 0.0
    """How long a request waits for a connection, where longer than connection_timeout_secs."""
    circuit_failures: int = 5
    """After how many requests in a row that found nobody the next ones fail at once; 0: never."""
    circuit_reset_secs: float = 10.0
    """For how long they do, before one is let through to try."""


class Profile(Struct, frozen=True, eq=False):
    """Where the servers are, and who the client is. Keys are Z85 text of 40 characters.

    `server_keys` belong to `endpoints` in their order; one alone is that of all, and those beyond
    the endpoints are tried as well: a server's next one. A Unix socket needs none.
    `introduction_key` is the secret key to show the certificate with to a server that has not seen
    it. `renew_at` is when it is time to renew it, in seconds since the epoch, None where that
    cannot be.
    """

    endpoints: tuple[str, ...]
    server_keys: tuple[str, ...] = ()
    public_key: str | None = None
    secret_key: str | None = None
    certificate: str | None = None
    introduction_key: str | None = None
    renew_at: int | None = None
    client: ClientSettings = ClientSettings()
    # Where it was read from; no part of what it says.
    path: str | None = None

    def __repr__(self) -> str:
        return (
            f"Profile(endpoints={self.endpoints!r}, server_keys={self.server_keys!r},"
            f" public_key={self.public_key!r}, renew_at={self.renew_at!r},"
            f" client={self.client!r}, path={self.path!r})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._said)

    @property
    def _said(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in _KEYS)


_KEYS = tuple(name for name in Profile.__struct_fields__ if name != "path")
_DEFAULTS: Mapping[str, Any] = dict(
    zip(ClientSettings.__struct_fields__, ClientSettings.__struct_defaults__, strict=True)
)


def load_profile(path: str) -> Profile:
    """Read a profile.

    Raises NotFoundError when there is none, UnauthenticatedError when others can read its secret
    key, InvalidArgumentError when it is malformed.
    """
    try:
        contents = read_contents(path)
    except FileNotFoundError as exc:
        raise NotFoundError(f"there is no profile '{path}'") from exc
    except OSError as exc:
        raise InvalidArgumentError(f"cannot read the profile '{path}': {exc.strerror}") from exc
    try:
        table = tomllib.loads(contents.data.decode())
    except ValueError as exc:
        raise InvalidArgumentError(f"'{path}' is not valid TOML: {exc}") from exc
    if {"secret_key", "introduction_key"} & table.keys() and contents.fault is not None:
        raise UnauthenticatedError(contents.fault, hint=contents.hint)
    try:
        return replace(_profile(table), path=path)
    except ValueError as exc:
        raise InvalidArgumentError(f"{path}: {exc}") from exc


def create_profile(path: str, profile: Profile) -> None:
    """Write a profile to a new file of mode 0600.

    Raises AlreadyExistsError when anything has that name, otherwise as `create_secret`.
    """
    create_secret(path, profile_text(profile).encode())


def replace_profile(path: str, profile: Profile) -> None:
    """Write a profile in the place of another one: whole, or the old one stays.

    Raises as `replace_secret`.
    """
    replace_secret(path, profile_text(profile).encode())


def with_server_key(profile: Profile, key: str) -> Profile:
    """The profile with one more key that its servers may have."""
    if key in profile.server_keys:
        return profile
    keys = profile.server_keys
    if len(keys) < len(profile.endpoints):
        # One alone is that of all endpoints; a second would be taken for that of the second.
        keys = keys * len(profile.endpoints)
    return replace(profile, server_keys=(*keys, key))


def profile_text(profile: Profile) -> str:
    """A profile as its file has it."""
    secrecy = "local use needs no keys" if profile.secret_key is None else "keep it secret"
    lines = [
        f"# descartesctl profile; {secrecy}",
        f"endpoints = {toml_text(profile.endpoints)}",
    ]
    if profile.server_keys:
        lines.append(f"server_keys = {toml_text(profile.server_keys)}")
    if profile.public_key is not None:
        lines.append(f"public_key = {toml_text(profile.public_key)}")
    if profile.secret_key is not None:
        lines.append(f"secret_key = {toml_text(profile.secret_key)}")
    if profile.introduction_key is not None:
        lines.append(f"introduction_key = {toml_text(profile.introduction_key)}")
    if profile.renew_at is not None:
        lines.append(f"renew_at = {profile.renew_at}")
    if profile.certificate is not None:
        lines.append(f"certificate = {toml_lines(profile.certificate)}")
    changed = [
        f"{name} = {toml_text(getattr(profile.client, name))}"
        for name, default in _DEFAULTS.items()
        if getattr(profile.client, name) != default
    ]
    if changed:
        lines += ["", "[client]", *changed]
    return "\n".join([*lines, ""])


def _profile(table: Mapping[str, Any]) -> Profile:
    _refuse_unknown(table, _KEYS)
    profile = Profile(
        endpoints=_texts(table, "endpoints"),
        server_keys=_texts(table, "server_keys"),
        public_key=_text(table, "public_key"),
        secret_key=_text(table, "secret_key"),
        certificate=_text(table, "certificate"),
        introduction_key=_text(table, "introduction_key"),
        renew_at=_moment(table, "renew_at"),
        client=_client(table.get("client", {})),
    )
    if not profile.endpoints:
        raise ValueError("endpoints: expected at least one, 'tcp://HOST:PORT' or 'ipc:///PATH'")
    for endpoint in profile.endpoints:
        _check("endpoints", _check_endpoint, endpoint)
    _check_keys(profile)
    return profile


def _check(name: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}") from exc


def _check_endpoint(endpoint: str) -> None:
    if endpoint.startswith(f"{UNIX}/"):
        if (fault := unix_path_fault(endpoint.removeprefix(UNIX))) is not None:
            raise ValueError(fault)
    elif not endpoint.startswith("tcp://"):
        raise ValueError(f"expected 'tcp://HOST:PORT' or 'ipc:///PATH', got '{endpoint}'")
    elif parse_tcp(endpoint).port == 0:
        raise ValueError(f"expected a port over 0, got '{endpoint}'")


def _check_keys(profile: Profile) -> None:
    keys = {"public_key": profile.public_key, "secret_key": profile.secret_key}
    shown = {"introduction_key": profile.introduction_key}
    for name, key in [
        *keys.items(),
        *shown.items(),
        *(("server_keys", each) for each in profile.server_keys),
    ]:
        if key is not None:
            _check(name, decode_key, key)
    if None in keys.values() and any(keys.values()):
        raise ValueError("expected both public_key and secret_key, or neither")
    if 1 < len(profile.server_keys) < len(profile.endpoints):
        raise ValueError(
            f"server_keys: expected one, or one for each of {len(profile.endpoints)} endpoints and "
            f"perhaps more, got {len(profile.server_keys)}"
        )
    if any(each.startswith("tcp://") for each in profile.endpoints):
        missing = [name for name, key in keys.items() if key is None]
        missing += [] if profile.server_keys else ["server_keys"]
        if missing:
            raise ValueError(f"a tcp endpoint needs {' and '.join(sorted(missing))}")


def _client(table: Any) -> ClientSettings:
    if not isinstance(table, dict):
        raise ValueError(f"client: expected a table, got {table!r}")
    _refuse_unknown(table, _DEFAULTS, "client.")
    values: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        if name in table:
            value = values[name] = table[name]
            if (expected := _expected_setting(default, value)) is not None:
                raise ValueError(f"client.{name}: expected {expected}, got {value!r}")
    return ClientSettings(**values)


def _expected_setting(default: object, value: object) -> str | None:
    match default:
        case bool():
            return None if isinstance(value, bool) else "true or false"
        case int():
            fits = type(value) is int and 0 <= value <= 1_000_000
            return None if fits else "an integer from 0 to 1000000"
        case _:
            is_number = type(value) in {int, float}
            fits = is_number and 0 <= float(str(value)) <= 86_400 and bool(value or not default)
            span = "over 0 and at most" if default else "from 0 to"
            return None if fits else f"seconds, {span} 86400"


def _refuse_unknown(table: Iterable[str], known: Collection[str], prefix: str = "") -> None:
    for name in table:
        if name not in known:
            from descartesd.wire.codec import nearest  # noqa: PLC0415  # only errors need it

            near = nearest(name, known)
            meant = f" (did you mean '{near}'?)" if near else ""
            raise ValueError(f"{prefix}{name}: unknown key{meant}")


def _text(table: Mapping[str, Any], name: str) -> str | None:
    value = table.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: expected a text")
    return value


def _moment(table: Mapping[str, Any], name: str) -> int | None:
    value = table.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= _LATEST):
        raise ValueError(f"{name}: expected seconds since the epoch")
    return value


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name}: expected a list of texts")
    return tuple(value)
