"""The authority signs what can be, and its secret stays where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from descartesd.errors import AlreadyExistsError, InvalidArgumentError, StartupRefusedError
from descartesd.keys.authority import Authority, create_authority, load_authority
from descartesd.keys.certificate import verify
from descartesd.keys.curve import generate
from descartesd.keys.keyfile import create_key_text
from descartesd.keys.z85 import decode_key, encode_key

NOW = 1_800_000_000.7


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return create_authority(str(tmp_path / "authority.key"))


def test_an_authority_is_kept_in_a_secret_file_with_its_public_key_beside_it(
    authority: Authority, tmp_path: Path
) -> None:
    secret, public = tmp_path / "authority.key", tmp_path / "authority.pub"

    assert load_authority(str(secret)) == authority
    assert decode_key(public.read_text(encoding="ascii").strip()) == authority.public
    assert secret.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644


def test_the_seed_shows_in_no_text(authority: Authority) -> None:
    assert repr(authority) == str(authority)
    assert encode_key(authority.seed) not in repr(authority)
    assert repr(authority.seed)[2:-1] not in repr(authority)


def test_a_second_authority_does_not_replace_the_first(
    authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(AlreadyExistsError):
        create_authority(str(tmp_path / "authority.key"))

    assert load_authority(str(tmp_path / "authority.key")) == authority


def test_a_public_key_in_the_way_leaves_no_half_authority(tmp_path: Path) -> None:
    (tmp_path / "authority.pub").write_text("there", encoding="ascii")

    with pytest.raises(AlreadyExistsError):
        create_authority(str(tmp_path / "authority.key"))

    assert os.listdir(tmp_path) == ["authority.pub"]


def test_a_file_whose_halves_do_not_belong_together_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    path = str(tmp_path / "mixed.key")
    create_key_text(path, "authority key", os.urandom(32), authority.seed)

    with pytest.raises(StartupRefusedError, match="is not that of its secret key"):
        load_authority(path)


def test_a_certificate_is_issued_for_the_days_asked_for(authority: Authority) -> None:
    key = generate().public

    signed = authority.issue("alice", key, "operator", now=NOW, days=2)

    certificate = verify(signed, {authority.id: authority.public}, kind="client", now=NOW)
    assert (certificate.name, certificate.key, certificate.roles) == ("alice", key, ("operator",))
    assert certificate.not_before == 1_800_000_000
    assert certificate.not_after == certificate.renew_until == 1_800_000_000 + 2 * 86_400


def test_serials_do_not_repeat(authority: Authority) -> None:
    key = generate().public
    authorities = {authority.id: authority.public}

    issued = [authority.issue("alice", key, "admin", now=NOW) for _ in range(50)]

    serials = {verify(each, authorities, kind="client", now=NOW).serial for each in issued}
    assert len(serials) == 50


@pytest.mark.parametrize(
    "name",
    ["", "Alice", "7up", "-x", "a b", "../x", "a/b", "alice\n", "a" * 64, "älice", "a\0"],
)
def test_a_name_that_cannot_be_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a lower-case letter"):
        authority.issue(name, bytes(32), "admin", now=NOW)


@pytest.mark.parametrize("role", ["", "root", "Admin", "admin "])
def test_an_unknown_role_is_refused_with_the_known_ones(authority: Authority, role: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected observer, operator or admin"):
        authority.issue("alice", bytes(32), role, now=NOW)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_a_life_out_of_bounds_is_refused(authority: Authority, days: int) -> None:
    with pytest.raises(InvalidArgumentError, match="expected 1 to 3650 days"):
        authority.issue("alice", bytes(32), "admin", now=NOW, days=days)


def test_a_key_of_another_size_is_refused(authority: Authority) -> None:
    with pytest.raises(InvalidArgumentError, match="of 32 bytes, got 31"):
        authority.issue("alice", bytes(31), "admin", now=NOW)
