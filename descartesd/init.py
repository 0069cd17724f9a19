"""Makes a server directory, and certificates in one: what `descartesd init` and `cert issue` do.

DIR/descartesd.toml, DIR/keys (secret), DIR/state with the trust store (secret), DIR/profiles
(secret) and DIR/run, which every user of the host may enter: the Unix socket stands there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from descartesd.config.endpoint import TcpEndpoint, parse_tcp, unix_path_fault
from descartesd.config.leaves import Leaf, leaves
from descartesd.config.load import load_config
from descartesd.config.schema import Config, Server
from descartesd.config.toml_text import toml_text
from descartesd.errors import AlreadyExistsError, DescartesError, InvalidArgumentError
from descartesd.keys.authority import Authority, check_request, create_authority, load_authority, public_file
from descartesd.keys.curve import (
    CurveKeyPair,
    create_key_file,
    create_server_public,
    generate,
    load_key_file,
)
from descartesd.keys.files import create_public, translated
from descartesd.keys.profile import UNIX, Profile, create_profile
from descartesd.keys.trust import SUFFIX, Identity, TrustStore
from descartesd.keys.z85 import encode_key

CONFIG_NAME = "descartesd.toml"
PROFILES = "profiles"
ADMIN = "admin"

_OPEN, _CLOSED = 0o755, 0o700


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
    server = _server(directory, endpoint)
    _check_path(directory, server)
    made = _Made()
    try:
        return _make(directory, server, address, made)
    except BaseException:
        made.undo()
        raise


def issue_certificate(
    directory: str,
    name: str,
    role: str,
    *,
    environ: Mapping[str, str],
    out: str | None = None,
    days: int = 365,
) -> Issued:
    """Make a key pair, sign it, let it in, and write its profile (default: DIR/profiles/NAME.toml).

    A running server lets it in without a restart. Raises AlreadyExistsError when the name or the
    profile exists, InvalidArgumentError for a name, role or days that cannot be, and
    StartupRefusedError when the directory's configuration or keys are refused.
    """
    check_request(name, role, days)
    server = load_config(os.path.join(directory, CONFIG_NAME), environ=environ).server
    address = _checked_endpoint(server.endpoint).seen_from(socket.gethostname())
    authority = load_authority(server.authority_key_file)
    profile = out or os.path.join(os.path.abspath(directory), PROFILES, f"{name}.toml")
    made = _Made()
    try:
        return _issue(server, authority, address, _Wanted(name, role, days, profile), made)
    except BaseException:
        made.undo()
        raise
