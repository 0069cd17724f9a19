"""A secret of a server's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.errors import StartupRefusedError
from descartesd.keys.secretfile import random_secret


def test_it_is_made_once_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "digest.key"

    secret = random_secret(str(path))

    assert len(secret) == 32
    assert random_secret(str(path)) == secret
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_that_others_can_read_or_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "digest.key"
    random_secret(str(path))

    path.chmod(0o644)
    with pytest.raises(StartupRefusedError, match="others can read"):
        random_secret(str(path))
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(StartupRefusedError, match="has 5 bytes, expected 32"):
        random_secret(str(path))
