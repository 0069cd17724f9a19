"""The trust store knows exactly the keys whose certificates lie in its directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from descartesd.errors import AlreadyExistsError, StartupRefusedError, UnauthenticatedError
from descartesd.keys.authority import Authority, create_authority
from descartesd.keys.certificate import armour
from descartesd.keys.curve import generate
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import TrustStore
from tests.support.eventually import eventually

NOW = 1_800_000_000.0
DAY = 86_400


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return create_authority(str(tmp_path / "authority.key"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "trust"
    path.mkdir(0o700)
    return path


@pytest.fixture
def store(directory: Path, authority: Authority, clock: Clock) -> TrustStore:
    store = TrustStore(str(directory), [authority.public], clock=clock)
    store.load()
    return store


def test_who_was_added_is_known_at_once_and_after_a_restart(
    store: TrustStore, directory: Path, authority: Authority, clock: Clock
) -> None:
    key = generate().public

    identity = store.add(authority.issue("alice", key, "operator", now=NOW))

    again = TrustStore(str(directory), [authority.public], clock=clock)
    again.load()
    assert store.lookup(key) == again.lookup(key) == identity
    assert (identity.name, identity.roles) == ("alice", ("operator",))
    assert identity.fingerprint == fingerprint(key)
    assert store.identities() == [identity]
    assert store.problems == again.problems == ()


def test_the_file_is_private_text_named_after_the_identity(
    store: TrustStore, directory: Path, authority: Authority
) -> None:
    signed = authority.issue("alice", generate().public, "operator", now=NOW)

    store.add(signed)

    assert os.listdir(directory) == ["alice.cert"]
    assert (directory / "alice.cert").read_text(encoding="ascii") == armour(signed)
    assert (directory / "alice.cert").stat().st_mode & 0o777 == 0o600


def test_an_unknown_key_is_nobody(store: TrustStore) -> None:
    key = generate().public

    assert store.lookup(key) is None
    assert store.explain(key) == f"key {fingerprint(key)} is unknown"


def test_validity_is_looked_up_each_time(
    store: TrustStore, authority: Authority, clock: Clock
) -> None:
    key = generate().public
    identity = store.add(authority.issue("alice", key, "operator", now=NOW, days=1))

    clock.now = NOW - 1
    assert store.lookup(key) is None
    assert store.explain(key) == ("certificate of 'alice' is not valid before 2027-01-15T08:00:00Z")
    clock.now = NOW + DAY - 1
    assert store.lookup(key) == identity
    clock.now = NOW + DAY
    assert store.lookup(key) is None
    assert store.explain(key) == "certificate of 'alice' expired at 2027-01-16T08:00:00Z"
    assert store.identities() == [identity]


def test_a_taken_name_is_refused_and_its_holder_stays(
    store: TrustStore, authority: Authority
) -> None:
    first, second = generate().public, generate().public
    holder = store.add(authority.issue("alice", first, "observer", now=NOW))

    with pytest.raises(AlreadyExistsError, match="named 'alice'") as caught:
        store.add(authority.issue("alice", second, "admin", now=NOW))

    assert caught.value.hint is not None
    assert store.lookup(first) == holder
    assert store.lookup(second) is None


def test_a_key_cannot_have_two_names(store: TrustStore, authority: Authority) -> None:
    key = generate().public
    store.add(authority.issue("alice", key, "observer", now=NOW))

    with pytest.raises(AlreadyExistsError, match="the key is already that of 'alice'"):
        store.add(authority.issue("bob", key, "admin", now=NOW))

    assert [each.name for each in store.identities()] == ["alice"]


def test_what_another_authority_signed_is_not_stored(
    store: TrustStore, directory: Path, tmp_path: Path
) -> None:
    stranger = create_authority(str(tmp_path / "other.key"))

    with pytest.raises(UnauthenticatedError):
        store.add(stranger.issue("alice", generate().public, "admin", now=NOW))

    assert os.listdir(directory) == []


def test_fault_45_a_malformed_file_is_left_out_and_named_and_the_rest_load(
    store: TrustStore, directory: Path, authority: Authority, tmp_path: Path, clock: Clock
) -> None:
    alice, zoe = generate().public, generate().public
    stranger = create_authority(str(tmp_path / "other.key"))
    text = armour(authority.issue("alice", alice, "admin", now=NOW))
    (directory / "alice.cert").write_text(text, encoding="ascii")
    (directory / "zoe.cert").write_text(
        armour(authority.issue("zoe", zoe, "observer", now=NOW)), encoding="ascii"
    )
    (directory / "bob.cert").write_text(text, encoding="ascii")
    (directory / "carl.cert").write_bytes(b"\xff\0not a certificate")
    (directory / "dora.cert").write_text(text[:-9], encoding="ascii")
    (directory / "emil.cert").mkdir()
    (directory / "fred.cert").symlink_to(directory / "nowhere")
    (directory / "gina.cert").write_text(
        armour(stranger.issue("gina", generate().public, "admin", now=NOW)), encoding="ascii"
    )
    (directory / "huge.cert").write_bytes(bytes(70_000))
    twin = armour(authority.issue("yves", alice, "admin", now=NOW))
    (directory / "yves.cert").write_text(twin, encoding="ascii")
    (directory / "notes.txt").write_text("not ours", encoding="ascii")
    (directory / ".new-0123").write_text("half", encoding="ascii")

    store.load()

    assert [each.name for each in store.identities()] == ["alice", "zoe"]
    assert [problem.split(":")[0] for problem in store.problems] == [
        f"'{name}.cert'" for name in ("bob", "carl", "dora", "emil", "fred", "gina", "huge", "yves")
    ]
    assert "expected the file's name" in store.problems[0]
    assert "is not trusted here" in store.problems[5]
    assert "its key is that of 'alice'" in store.problems[7]
    (directory / "carl.cert").unlink()
    store.load()
    assert len(store.problems) == 7


def test_what_another_process_adds_or_removes_is_seen_without_a_restart(
    store: TrustStore, directory: Path, authority: Authority, clock: Clock
) -> None:
    key = generate().public
    other = TrustStore(str(directory), [authority.public], clock=clock)
    other.load()

    other.add(authority.issue("alice", key, "operator", now=NOW))
    assert store.reload_if_changed()
    assert store.lookup(key) is not None

    (directory / "alice.cert").unlink()
    assert store.reload_if_changed()
    assert store.lookup(key) is None


def test_many_changes_within_one_tick_of_the_clock_are_all_seen(
    store: TrustStore, directory: Path, authority: Authority, clock: Clock
) -> None:
    other = TrustStore(str(directory), [authority.public], clock=clock)
    other.load()

    for number in range(20):
        other.add(authority.issue(f"a{number}", generate().public, "observer", now=NOW))
        store.reload_if_changed()
        assert len(store.identities()) == number + 1


def test_an_unchanged_directory_is_not_read_again(store: TrustStore, directory: Path) -> None:
    eventually(lambda: not store.reload_if_changed())

    assert not store.reload_if_changed()


def test_a_directory_that_cannot_be_read_is_refused_and_changes_nothing(
    store: TrustStore, directory: Path, authority: Authority
) -> None:
    key = generate().public
    store.add(authority.issue("alice", key, "operator", now=NOW))
    away = directory.rename(directory.with_name("away"))

    with pytest.raises(StartupRefusedError, match="cannot read the trust store"):
        store.reload_if_changed()

    assert store.lookup(key) is not None
    away.rename(directory)
    assert store.reload_if_changed()
    assert store.lookup(key) is not None
