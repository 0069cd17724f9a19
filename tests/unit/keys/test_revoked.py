"""The revocation list: appended to, never forgotten, mended when an older one takes its place."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from descartesd.errors import AlreadyExistsError, DescartesError, UnauthenticatedError
from descartesd.keys.authority import create_authority
from descartesd.keys.curve import generate
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.revoked import RevocationList
from descartesd.keys.trust import TrustStore

NOW = 1_800_000_000
SERIAL, OTHER = "0123456789abcdef", "fedcba9876543210"
KEY = f"SHA256:{'k' * 43}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revoked"


@pytest.fixture
def revoked(path: Path) -> RevocationList:
    made = RevocationList(str(path))
    made.load()
    return made


def test_a_revocation_is_a_line_that_is_read_back(revoked: RevocationList, path: Path) -> None:
    revoked.append(NOW, SERIAL, KEY, "alice")
    revoked.append(NOW + 1, OTHER, "", "")

    again = RevocationList(str(path))
    again.load()

    assert path.read_text(encoding="ascii").splitlines()[1:] == [
        f"1 2027-01-15T08:00:00Z {SERIAL} {KEY} alice",
        f"2 2027-01-15T08:00:01Z {OTHER} - -",
    ]
    assert again.all() == revoked.all()
    assert (again.generation, again.problem) == (2, None)
    assert again.find(OTHER, "") is not None
    assert again.find("", KEY) is not None
    assert again.find("", "") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_cut_short_does_not_count_and_is_replaced_by_the_next(
    revoked: RevocationList, path: Path
) -> None:
    revoked.append(NOW, SERIAL, KEY, "alice")
    whole = path.read_bytes()
    for cut in (b"2", b"2 2027-01-15T08:00:01Z fedcba98765", b"2 2027-01-15T08:00:01Z x y z"):
        path.write_bytes(whole + cut)
        again = RevocationList(str(path))
        again.load()
        assert (again.generation, again.problem) == (1, None)

        again.append(NOW + 2, OTHER, "", "bob")

        last = RevocationList(str(path))
        last.load()
        assert [each.name for each in last.all()] == ["alice", "bob"]
        assert (last.generation, last.problem) == (2, None)


def test_nothing_is_revoked_while_the_disk_is_full_and_the_list_stays_whole(
    revoked: RevocationList, path: Path
) -> None:
    revoked.append(NOW, SERIAL, KEY, "alice")
    whole = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limit[1]))
    try:
        with pytest.raises(DescartesError, match="File too large"):
            revoked.append(NOW, OTHER, "", "bob")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert path.read_bytes() == whole
    assert revoked.find(OTHER, "") is None


@pytest.mark.parametrize("restored", ["older", "missing", "damaged"])
def test_an_older_list_in_its_place_is_mended_and_told(
    revoked: RevocationList, path: Path, restored: str
) -> None:
    revoked.append(NOW, SERIAL, KEY, "alice")
    older = path.read_bytes()
    revoked.append(NOW, OTHER, "", "bob")
    newest = path.read_bytes()
    if restored == "older":
        path.write_bytes(older)
    elif restored == "missing":
        path.unlink()
    else:
        path.write_bytes(newest.replace(b"alice\n2", b"alice\n!"))

    revoked.load()

    assert revoked.problem is not None
    assert "older one was put in its place" in revoked.problem
    assert revoked.find(SERIAL, "") is not None
    assert revoked.find(OTHER, "") is not None
    assert path.read_bytes() == newest
    revoked.load()
    assert revoked.problem is not None


def test_a_revoked_key_is_never_certified_again_and_its_name_is_free(tmp_path: Path) -> None:
    authority = create_authority(str(tmp_path / "authority.key"))
    trust = tmp_path / "trust"
    trust.mkdir()
    store = TrustStore(str(trust), [authority.public], clock=lambda: NOW)
    key = generate().public
    identity = store.add(authority.issue("alice", key, "operator", now=NOW))
    kept = (trust / "alice.cert").read_bytes()

    store.revoke(serial=identity.serial, key_fingerprint=identity.fingerprint, name="alice")

    assert store.lookup(key) is None
    assert store.explain(key) == (
        f"key {fingerprint(key)} of 'alice' was revoked at 2027-01-15T08:00:00Z"
    )
    assert os.listdir(trust) == ["revoked"]
    for name in ("alice", "bob"):
        with pytest.raises(UnauthenticatedError, match="revoked"):
            store.add(authority.issue(name, key, "operator", now=NOW))
    # A backup brings the file back: it lets nobody in, and its name is still free.
    (trust / "alice.cert").write_bytes(kept)
    store.load()
    assert store.lookup(key) is None
    assert "was revoked" in store.problems[0]
    fresh = generate().public
    store.add(authority.issue("alice", fresh, "operator", now=NOW))
    assert store.lookup(fresh) is not None
    with pytest.raises(AlreadyExistsError):
        store.add(authority.issue("alice", generate().public, "operator", now=NOW))
