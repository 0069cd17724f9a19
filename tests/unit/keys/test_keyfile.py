"""A key file says what it is and gives back what it holds."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from descartesd.errors import StartupRefusedError
from descartesd.keys.files import create_secret
from descartesd.keys.keyfile import create_key_text, fingerprint, read_key_text


def test_both_halves_are_read_back_and_the_header_names_the_key(tmp_path: Path) -> None:
    path, public, secret = str(tmp_path / "host.key"), os.urandom(32), os.urandom(32)

    create_key_text(path, "CURVE key", public, secret)

    first, *_ = Path(path).read_text(encoding="ascii").splitlines()
    assert read_key_text(path, "CURVE key") == (public, secret)
    assert first == f"# descartesd CURVE key {fingerprint(public)}; keep it secret, mode 0600"
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_fingerprint_looks_like_openssh_s() -> None:
    key = bytes(range(32))
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()

    assert fingerprint(key) == "SHA256:" + digest.rstrip("=")
    assert len(fingerprint(key)) == 50


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"public-key", b'public-key = "x"\nsecret-key = "TOPSECRET"\n',
        b'public-key = "%s"\n' % (b"a" * 40), b'public-key = 5\nsecret-key = 5\n',
        b'secret-key = "TOPSECRET',
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused_without_repeating_it(tmp_path: Path, text: bytes) -> None:
    path = str(tmp_path / "host.key")
    create_secret(path, text)

    with pytest.raises(StartupRefusedError, match="is not a CURVE key file") as caught:
        read_key_text(path, "CURVE key")

    assert "TOPSECRET" not in str(caught.value)
