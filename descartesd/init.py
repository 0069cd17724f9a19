"""Makes a server directory, and certificates in one: what `descartesd init` and `cert issue` do.

DIR/descartesd.toml, DIR/keys (secret), DIR/state with the trust store (secret), DIR/profiles
(secret) and DIR/run, which every user of the host may enter: the Unix socket stands there.
"""

from __future__ import annotations

import os
import shlex
import socket
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from descartesd.config.endpoint import TcpEndpoint, parse_tcp, unix_path_fault
from descartesd.config.leaves import leaves
from descartesd.config.load import load_config, resolved
from descartesd.config.schema import Config, Server
from descartesd.config.toml_text import toml_text
from descartesd.errors import AlreadyExistsError, InvalidArgumentError
from descartesd.keys.authorities import Authorities
from descartesd.keys.authority import (
    Authority,
    check_request,
    check_role,
    create_authority,
    load_authority,
    public_file,
)
from descartesd.keys.certificate import armour, renewal_due
from descartesd.keys.curve import create_key_file, create_server_public, generate, load_key_file
from descartesd.keys.files import create_public, translated
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.profile import UNIX, Profile, create_profile
from descartesd.keys.trust import SUFFIX, Identity, TrustStore
from descartesd.wire.methods import ROLES

CONFIG_NAME = "descartesd.toml"
PROFILES = "profiles"
ADMIN = "admin"

_OPEN, _CLOSED = 0o755, 0o700
_POLICY_EXAMPLE = (
    "# Roles (observer, operator, admin) of other users of this host, by uid:",
    "# [policy.local_uids]",
    '# 1000 = "operator"',
)


class Summary(NamedTuple):
    """What was made; all paths are absolute. `next_commands` start the server and ask it."""

    directory: str
    config: str
    admin_profile: str
    local_profile: str
    server_fingerprint: str
    next_commands: tuple[str, str]


class Issued(NamedTuple):
    """A certificate and the profile that uses it."""

    identity: Identity
    profile: str


def init_directory(path: str, endpoint: str = Server().endpoint) -> Summary:
    """Make a complete server directory at `path`, which may exist if it is empty of our names.

    Raises AlreadyExistsError, naming what is there, and InvalidArgumentError for an endpoint or a
    path that cannot be; on any error what was made is removed again.
    """
    directory = os.path.abspath(path)
    address = _checked_endpoint(endpoint)
    config = resolved(Config(server=Server(endpoint=endpoint)), directory)
    _check_path(config.server.local_socket)
    with _Made() as made:
        return _make(directory, config.server, address, made)


def issue_certificate(
    directory: str,
    name: str,
    role: str,
    *,
    environ: Mapping[str, str],
    out: str | None = None,
    days: int = 365,
    renew_days: int | None = None,
) -> Issued:
    """Make a key pair, sign it, let it in, and write its profile (default: DIR/profiles/NAME.toml).

    A running server lets it in without a restart. Raises AlreadyExistsError when the name or the
    profile exists, InvalidArgumentError for a name, role or days that cannot be, and
    StartupRefusedError when the directory's configuration or keys are refused.
    """
    check_request(name, role, days, renew_days)
    config = load_config(os.path.join(directory, CONFIG_NAME), environ=environ)
    roles = (*ROLES, *config.policy.roles)
    check_role(role, roles)
    server = config.server
    address = _checked_endpoint(server.endpoint).seen_from(socket.gethostname())
    wanted = _Wanted(
        name=name,
        role=role,
        days=days,
        renew_days=renew_days,
        endpoint=str(address),
        server_key=load_key_file(server.host_key_file).public_text,
        profile=os.path.abspath(out or os.path.join(directory, PROFILES, f"{name}.toml")),
    )
    with _Made() as made:
        authority = replace(load_authority(server.authority_key_file), roles=roles)
        return _issue(wanted, authority, server, made)


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    role: str
    days: int
    endpoint: str
    server_key: str
    profile: str
    renew_days: int | None = None


class _Made:
    """What was made so far; removed again, newest first, when the block ends with an error."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for path in reversed(self._paths):
            # Somebody else may have put a file in, or have removed ours.
            with suppress(OSError):
                if os.path.isdir(path):
                    os.rmdir(path)
                else:
                    os.unlink(path)

    def file(self, path: str) -> None:
        """Note a file just made."""
        self._paths.append(path)

    def directory(self, path: str, mode: int) -> None:
        """Make a directory of this mode, whatever the umask, and its parents where missing."""
        parent = os.path.dirname(path)
        if not os.path.lexists(parent):
            self.directory(parent, _OPEN)
        try:
            os.mkdir(path, mode)
            self._paths.append(path)
            os.chmod(path, mode)
        except FileExistsError as exc:
            raise AlreadyExistsError(f"'{path}' exists already") from exc
        except OSError as exc:
            raise translated(exc, path) from exc


def _checked_endpoint(endpoint: str) -> TcpEndpoint:
    try:
        address = parse_tcp(endpoint)
    except ValueError as exc:
        raise InvalidArgumentError(f"endpoint: {exc}") from exc
    if address.port == 0:
        raise InvalidArgumentError(
            f"endpoint: expected a port from 1 to 65535, got '{endpoint}'",
            hint="a profile has to name the port",
        )
    return address


def _check_path(socket_path: str) -> None:
    if not socket_path.isprintable():
        raise InvalidArgumentError(f"expected a path of printable text, got {socket_path!r}")
    if (fault := unix_path_fault(socket_path)) is not None:
        raise InvalidArgumentError(fault, hint="choose a shorter directory")


def _make(directory: str, server: Server, address: TcpEndpoint, made: _Made) -> Summary:
    config = os.path.join(directory, CONFIG_NAME)
    profiles = os.path.join(directory, PROFILES)
    _make_directories(directory, server, made)
    host = generate()
    create_key_file(server.host_key_file, host)
    made.file(server.host_key_file)
    authority = create_authority(server.authority_key_file)
    made.file(server.authority_key_file)
    made.file(public_file(server.authority_key_file))
    create_server_public(server.public_key_file, host.public)
    made.file(server.public_key_file)
    admin = _Wanted(
        name=ADMIN,
        role=ADMIN,
        days=365,
        endpoint=str(address.seen_from(None)),
        server_key=host.public_text,
        profile=os.path.join(profiles, "admin.toml"),
    )
    _issue(admin, authority, server, made)
    local = os.path.join(profiles, "local.toml")
    create_profile(local, Profile(endpoints=(f"{UNIX}{server.local_socket}",)))
    made.file(local)
    create_public(config, config_text(server.endpoint).encode())
    made.file(config)
    return Summary(
        directory=directory,
        config=config,
        admin_profile=admin.profile,
        local_profile=local,
        server_fingerprint=fingerprint(host.public),
        next_commands=(
            f"descartesd --config {shlex.quote(config)}",
            f"descartesctl --profile {shlex.quote(local)} server health",
        ),
    )


def _make_directories(directory: str, server: Server, made: _Made) -> None:
    if not os.path.isdir(directory):
        made.directory(directory, _OPEN)
    ours = (CONFIG_NAME, "keys", "state", "run", PROFILES)
    there = [name for name in ours if os.path.lexists(os.path.join(directory, name))]
    if there:
        raise AlreadyExistsError(
            f"'{directory}' already has {', '.join(there)}",
            hint="nothing was changed; choose another directory",
        )
    for path in (server.keys_dir, server.state_dir, server.trust_dir):
        made.directory(path, _CLOSED)
    made.directory(os.path.join(directory, PROFILES), _CLOSED)
    made.directory(server.run_dir, _OPEN)


def _issue(wanted: _Wanted, authority: Authority, server: Server, made: _Made) -> Issued:
    store = TrustStore(server.trust_dir, [authority.public])
    authorities = Authorities(server.authorities_dir, authority.public)
    authorities.load()
    store.believe(authorities.believed)
    pair = generate()
    signed = authority.issue(
        wanted.name,
        pair.public,
        wanted.role,
        now=time.time(),
        days=wanted.days,
        renew_days=wanted.renew_days,
    )
    identity = store.add(signed)
    made.file(os.path.join(server.trust_dir, f"{wanted.name}{SUFFIX}"))
    profile = Profile(
        endpoints=(wanted.endpoint,),
        server_keys=(wanted.server_key,),
        public_key=pair.public_text,
        secret_key=pair.secret_text,
        certificate=armour(signed),
        renew_at=renewal_due(armour(signed)),
    )
    create_profile(wanted.profile, profile)
    made.file(wanted.profile)
    return Issued(identity, wanted.profile)


def config_text(endpoint: str) -> str:
    """The text of a new server's configuration: its keys at their defaults, each explained."""
    lines = ["# Configuration of a descartesd server. Paths are relative to this file's directory."]
    section = ""
    for leaf in leaves().values():
        # Those of the operator and of the host, and a table that is left to be appended.
        if leaf.is_table or leaf.key.startswith(("server.server_id", "plugins.")):
            continue
        table, _, name = leaf.key.rpartition(".")
        if table != section:
            section = table
            lines += ["", f"[{section}]"]
        value = endpoint if leaf.key == "server.endpoint" else leaf.default
        lines += [f"# {line}" for line in textwrap.wrap(leaf.description, 96)]
        lines.append(f"{name} = {toml_text(value)}")
    return "\n".join([*lines, "", *_POLICY_EXAMPLE, ""])
