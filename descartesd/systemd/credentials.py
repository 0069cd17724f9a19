"""Where a server's secret keys are: with systemd's credentials, or in its own directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import NamedTuple

from descartesd.config.schema import Server
from descartesd.keys.authority import create_authority
from descartesd.keys.curve import create_key_file, generate
from descartesd.keys.hostkeys import CREDENTIALS
from descartesd.keys.keyfile import fingerprint

log = logging.getLogger(__name__)

# `LoadCredential=keys:DIR` puts the file NAME of a directory there as keys_NAME.
_OF_A_DIRECTORY = "keys_"


class KeyFiles(NamedTuple):
    """The files of the host key and of the authority's key."""

    host: str
    authority: str


def key_files(server: Server, environ: Mapping[str, str] = os.environ) -> KeyFiles:
    """A credential wins, else it is in server.keys_dir."""
    directory = environ.get(CREDENTIALS)
    return KeyFiles(
        _credential(directory, server.host_key_file),
        _credential(directory, server.authority_key_file),
    )


def make_missing(files: KeyFiles) -> None:
    """Make the keys that are not there, as the first start of a service does.

    Raises the error of the family that fits the kernel's.
    """
    if not os.path.lexists(files.host):
        os.makedirs(os.path.dirname(files.host), mode=0o700, exist_ok=True)
        host = generate()
        create_key_file(files.host, host)
        log.warning("host_key.made", extra={"fingerprint": fingerprint(host.public)})
    if not os.path.lexists(files.authority):
        os.makedirs(os.path.dirname(files.authority), mode=0o700, exist_ok=True)
        authority = create_authority(files.authority)
        log.warning("authority.made", extra={"fingerprint": fingerprint(authority.public)})


def _credential(directory: str | None, path: str) -> str:
    name = os.path.basename(path)
    for each in (name, f"{_OF_A_DIRECTORY}{name}") if directory else ():
        found = os.path.join(directory or "", each)
        if os.path.lexists(found):
            return found
    return path
