"""Off-line authorities: the key that signs, locked by a passphrase (argon2id, then SecretBox)."""

from __future__ import annotations

import base64
import os
import tomllib

from descartesd.config.toml_text import toml_text
from descartesd.errors import InvalidArgumentError, StartupRefusedError, UnauthenticatedError
from descartesd.keys.authority import Authority, authority_of, public_file
from descartesd.keys.files import create_public, create_secret, read_secret
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.z85 import encode_key

_SHORTEST = 8
# Seconds and gigabytes beyond these are an attack on who opens the file.
_OPS_MAX, _MEMORY_MAX = 16, 1 << 30


def create_offline(path: str, passphrase: bytes) -> Authority:
    """Make an authority in a new file `path`, its public key beside it in `.pub`.

    Raises InvalidArgumentError for a passphrase that is too short, otherwise as `create_secret`.
    """
    from nacl import pwhash, secret  # noqa: PLC0415  # only this needs them

    if len(passphrase) < _SHORTEST:
        raise InvalidArgumentError(
            f"the passphrase has {len(passphrase)} bytes, expected {_SHORTEST} at least"
        )
    authority = authority_of(os.urandom(32))
    kdf = pwhash.argon2id
    salt = os.urandom(kdf.SALTBYTES)
    ops, memory = kdf.OPSLIMIT_MODERATE, kdf.MEMLIMIT_MODERATE
    key = kdf.kdf(secret.SecretBox.KEY_SIZE, passphrase, salt, opslimit=ops, memlimit=memory)
    box = bytes(secret.SecretBox(key).encrypt(authority.seed))
    lines = [
        f"# descartesd off-line authority {fingerprint(authority.public)}; locked by a passphrase",
        f"public-key = {toml_text(encode_key(authority.public))}",
        f"salt = {toml_text(base64.b64encode(salt).decode())}",
        f"operations = {ops}",
        f"memory-bytes = {memory}",
        f"locked-key = {toml_text(base64.b64encode(box).decode())}",
        "",
    ]
    create_secret(path, "\n".join(lines).encode())
    try:
        create_public(public_file(path), f"{encode_key(authority.public)}\n".encode())
    except BaseException:
        os.unlink(path)
        raise
    return authority


def open_offline(path: str, passphrase: bytes) -> Authority:
    """Unlock an authority.

    Raises UnauthenticatedError for a wrong passphrase or a file that was altered,
    StartupRefusedError when others can read it or it is no authority's.
    """
    from nacl import exceptions, pwhash, secret  # noqa: PLC0415  # only this needs them

    data = read_secret(path)
    try:
        table = tomllib.loads(data.decode())
        salt, box = (
            base64.b64decode(table[name], validate=True) for name in ("salt", "locked-key")
        )
        ops, memory = int(table["operations"]), int(table["memory-bytes"])
        if not (0 < ops <= _OPS_MAX and 0 < memory <= _MEMORY_MAX):
            raise ValueError("it would take too much to open")  # noqa: TRY301  # one answer to all
        size = secret.SecretBox.KEY_SIZE
        key = pwhash.argon2id.kdf(size, passphrase, salt, opslimit=ops, memlimit=memory)
    except (ValueError, KeyError, TypeError, exceptions.CryptoError) as exc:
        raise StartupRefusedError(f"'{path}' is not the file of an off-line authority") from exc
    try:
        authority = authority_of(secret.SecretBox(key).decrypt(box))
    except (exceptions.CryptoError, ValueError) as exc:
        raise UnauthenticatedError(f"the passphrase does not open '{path}'") from exc
    if encode_key(authority.public) != table.get("public-key"):
        raise StartupRefusedError(f"the public key in '{path}' is not that of its locked key")
    return authority
