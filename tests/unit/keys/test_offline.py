"""Off-line authorities: locked by a passphrase, and opened by nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from descartesd.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    StartupRefusedError,
    UnauthenticatedError,
)
from descartesd.keys.authorities import Authorities, public_of
from descartesd.keys.authority import create_authority
from descartesd.keys.offline import create_offline, open_offline

LOCKED = """public-key = ""
salt = "AAAA"
locked-key = "AAAA"
operations = {}
memory-bytes = {}
"""
PASSPHRASE = b"correct horse battery"


def test_the_passphrase_opens_it_and_another_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "fleet.key")
    made = create_offline(path, PASSPHRASE)

    assert open_offline(path, PASSPHRASE) == made
    with pytest.raises(UnauthenticatedError, match="does not open"):
        open_offline(path, PASSPHRASE + b"!")
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert made.seed not in Path(path).read_bytes()
    assert public_of((tmp_path / "fleet.pub").read_text()) == made.public
    with pytest.raises(AlreadyExistsError):
        create_offline(path, PASSPHRASE)
    os.chmod(path, 0o640)
    with pytest.raises(StartupRefusedError, match="others can read") as caught:
        open_offline(path, PASSPHRASE)
    assert caught.value.hint == f"chmod 600 {path}"


def test_what_is_no_such_file_is_refused_without_much_work(tmp_path: Path) -> None:
    path = tmp_path / "fleet.key"
    for content in (
        "",
        "salt = 1",
        LOCKED.format(99, 1),
        LOCKED.format(1, 99999999999),
    ):
        path.write_text(content, encoding="ascii")
        path.chmod(0o600)
        with pytest.raises(StartupRefusedError, match="not the file of an off-line authority"):
            open_offline(str(path), PASSPHRASE)


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="8 at least"):
        create_offline(str(tmp_path / "fleet.key"), b"short")

    assert list(tmp_path.iterdir()) == []


def test_authorities_are_believed_until_their_time_and_after_a_restart(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    own, other, short = (
        create_authority(str(tmp_path / f"{name}.key")).public for name in ("own", "other", "short")
    )
    directory = tmp_path / "authorities"

    def opened() -> Authorities:
        made = Authorities(str(directory), own, clock=lambda: now[0])
        made.load()
        return made

    authorities = opened()
    authorities.trust(other)
    authorities.trust(short, until=int(now[0]) + 10)
    with pytest.raises(AlreadyExistsError):
        authorities.trust(other)
    assert set(opened().believed().values()) == {own, other, short}
    now[0] += 10
    assert set(opened().believed().values()) == {own, other}
    (directory / "broken.pub").write_text("no key", encoding="ascii")
    (directory / "broken.pub").chmod(0o600)
    broken = opened()
    assert set(broken.believed().values()) == {own, other}
    assert broken.problems[0].startswith("'broken.pub': ")
