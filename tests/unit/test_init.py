"""A server directory is made whole or not at all, and certificates are issued in it."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from descartesd.config.load import load_config, resolved
from descartesd.config.schema import Config
from descartesd.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    StartupRefusedError,
)
from descartesd.init import init_directory, issue_certificate
from descartesd.keys.authority import load_authority
from descartesd.keys.certificate import unarmour, verify_signature
from descartesd.keys.curve import load_key_file, read_server_public
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.profile import load_profile
from descartesd.keys.trust import TrustStore
from descartesd.keys.z85 import decode_key, encode_key

MODES = {
    ".": 0o755, "descartesd.toml": 0o644, "keys": 0o700, "keys/authority.key": 0o600,
    "keys/authority.pub": 0o644, "keys/host.key": 0o600, "profiles": 0o700,
    "profiles/admin.toml": 0o600, "profiles/local.toml": 0o600, "run": 0o755,
    "run/server.pub": 0o644, "state": 0o700, "state/trust": 0o700, "state/trust/admin.cert": 0o600,
}  # fmt: skip


def tree(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def trusted(directory: Path) -> TrustStore:
    authority = load_authority(str(directory / "keys/authority.key"))
    store = TrustStore(str(directory / "state/trust"), [authority.public])
    store.load()
    return store


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    init_directory(str(tmp_path / "d"), "tcp://127.0.0.1:5556")
    return tmp_path / "d"


@pytest.mark.usefixtures("any_umask")
def test_the_directory_has_every_part_with_its_mode_under_any_umask(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "d"

    init_directory(str(directory))

    made = {
        os.path.relpath(path, directory): stat.S_IMODE(path.stat().st_mode)
        for path in [directory, *directory.rglob("*")]
    }
    assert made == MODES
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755


def test_the_configuration_is_accepted_and_is_the_defaults(tmp_path: Path) -> None:
    summary = init_directory(str(tmp_path / "d"))

    config = load_config(summary.config, environ={})

    assert config == resolved(Config(), str(tmp_path / "d"))


def test_the_common_keys_stand_active_each_below_a_comment(server: Path) -> None:
    lines = (server / "descartesd.toml").read_text(encoding="utf-8").splitlines()

    assert "max_agents = 100" in lines
    assert "request_timeout_secs = 60" in lines
    assert 'log_level = "info"' in lines
    assert 'endpoint = "tcp://127.0.0.1:5556"' in lines
    active = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+ = ", line)]
    assert len(active) > 10
    assert all(lines[number - 1].startswith("# ") for number in active)


def test_tables_can_be_appended(server: Path) -> None:
    path = server / "descartesd.toml"
    text = path.read_text(encoding="utf-8")

    path.write_text(text + '[policy.local_uids]\n7 = "admin"\n', encoding="utf-8")

    assert "plugins" not in tomllib.loads(text)
    assert load_config(str(path), environ={}).policy.local_uids == {"7": "admin"}


def test_the_admin_profile_connects_to_this_server_as_admin(server: Path) -> None:
    profile = load_profile(str(server / "profiles/admin.toml"))
    host = load_key_file(str(server / "keys/host.key"))
    authority = load_authority(str(server / "keys/authority.key"))

    assert profile.endpoints == ("tcp://127.0.0.1:5556",)
    assert profile.server_keys == (host.public_text,)
    assert profile.public_key is not None
    assert profile.certificate is not None
    identity = trusted(server).lookup(decode_key(profile.public_key))
    assert identity is not None
    assert (identity.name, identity.roles) == ("admin", ("admin",))
    signed = unarmour(profile.certificate)
    certificate = verify_signature(signed, {authority.id: authority.public}, kind="client")
    assert encode_key(certificate.key) == profile.public_key


def test_the_local_profile_names_the_socket_and_no_key(server: Path) -> None:
    text = (server / "profiles/local.toml").read_text(encoding="utf-8")

    assert load_profile(str(server / "profiles/local.toml")).endpoints == (
        f"ipc://{server}/run/control.sock",
    )
    for name in ("key", "certificate"):
        assert f"{name} =" not in text
        assert f"_{name}" not in text


def test_the_server_s_public_key_stands_beside_its_socket(server: Path) -> None:
    host = load_key_file(str(server / "keys/host.key"))

    assert (server / "run/server.pub").read_text(encoding="ascii") == f"{host.public_text}\n"
    assert read_server_public(f"{server}/run/control.sock") == host.public


def test_the_summary_names_the_key_and_the_next_two_commands(tmp_path: Path) -> None:
    summary = init_directory(str(tmp_path / "my server"))
    host = load_key_file(str(tmp_path / "my server/keys/host.key"))

    assert summary.server_fingerprint == fingerprint(host.public)
    assert summary.next_commands == (
        f"descartesd --config '{tmp_path}/my server/descartesd.toml'",
        f"descartesctl --profile '{tmp_path}/my server/profiles/local.toml' server health",
    )


def test_a_second_time_is_refused_and_changes_nothing(server: Path) -> None:
    before = tree(server)

    with pytest.raises(AlreadyExistsError) as caught:
        init_directory(str(server))

    assert tree(server) == before
    for name in ("descartesd.toml", "keys", "state", "run", "profiles"):
        assert name in caught.value.message
    assert caught.value.hint is not None


def test_one_part_that_is_there_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to("nowhere")

    with pytest.raises(AlreadyExistsError, match=r"already has keys$"):
        init_directory(str(tmp_path))

    assert os.listdir(tmp_path) == ["keys"]


def test_an_existing_directory_keeps_its_other_files_and_its_mode(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="ascii")
    tmp_path.chmod(0o750)

    init_directory(str(tmp_path))

    assert (tmp_path / "notes.txt").read_text(encoding="ascii") == "mine"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("mine", encoding="ascii")

    with pytest.raises(AlreadyExistsError, match="exists already"):
        init_directory(str(tmp_path / "d"))
    with pytest.raises(NotFoundError, match="Not a directory"):
        init_directory(str(tmp_path / "d" / "e"))


def test_a_half_made_directory_is_removed_with_its_new_parents_only(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine", encoding="ascii")
    before = tree(tmp_path)
    # Keys are smaller than this limit, the configuration, written last, is larger.
    code = (
        "import resource, sys; from descartesd.init import init_directory\n"
        "from descartesd.errors import DescartesError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))\n"
        "try: init_directory(sys.argv[1])\n"
        "except DescartesError as exc: print(exc)"
    )

    for target in ("kept", "new/deep/d"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / target)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == (
            f"cannot create '{tmp_path}/{target}/descartesd.toml': File too large\n"
        )
        assert tree(tmp_path) == before


def test_a_path_too_long_for_its_socket_is_refused_with_the_limit(tmp_path: Path) -> None:
    room = 107 - len(str(tmp_path)) - len("//run/control.sock")

    with pytest.raises(InvalidArgumentError, match="expected at most 107") as caught:
        init_directory(str(tmp_path / ("d" * (room + 1))))
    assert caught.value.hint is not None
    assert os.listdir(tmp_path) == []

    init_directory(str(tmp_path / ("d" * room)))


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "a\udcffb"])
def test_a_path_that_is_no_plain_text_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="printable"):
        init_directory(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("tcp://127.0.0.1:0", "expected a port from 1 to 65535"),
        ("ipc:///x", "expected tcp://HOST:PORT"),
        ("127.0.0.1:5555", "expected tcp://HOST:PORT"),
    ],
)
def test_an_endpoint_no_profile_can_name_is_refused(
    tmp_path: Path, endpoint: str, fault: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=fault):
        init_directory(str(tmp_path / "d"), endpoint)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("endpoint", "seen"),
    [("tcp://0.0.0.0:7", "tcp://127.0.0.1:7"), ("tcp://[::]:7", "tcp://[::1]:7")],
)
def test_the_admin_profile_of_a_wildcard_endpoint_connects_to_loopback(
    tmp_path: Path, endpoint: str, seen: str
) -> None:
    summary = init_directory(str(tmp_path / "d"), endpoint)

    assert load_profile(summary.admin_profile).endpoints == (seen,)
    assert load_config(summary.config, environ={}).server.endpoint == endpoint


def test_a_certificate_is_issued_trusted_and_written_to_a_profile(server: Path) -> None:
    issued = issue_certificate(str(server), "alice", "operator", environ={}, days=30)

    profile = load_profile(issued.profile)
    assert issued.profile == f"{server}/profiles/alice.toml"
    assert stat.S_IMODE(os.stat(issued.profile).st_mode) == 0o600
    assert profile.endpoints == ("tcp://127.0.0.1:5556",)
    assert profile.server_keys == load_profile(f"{server}/profiles/admin.toml").server_keys
    assert profile.public_key is not None
    assert trusted(server).lookup(decode_key(profile.public_key)) == issued.identity
    assert issued.identity.not_after - issued.identity.not_before == 30 * 86_400


def test_a_running_server_lets_it_in_without_a_restart(server: Path) -> None:
    running = trusted(server)

    issued = issue_certificate(str(server), "alice", "operator", environ={})

    running.reload_if_changed()
    assert issued.identity in running.identities()


def test_the_profile_goes_where_it_is_asked_to(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    issued = issue_certificate("d", "alice", "observer", environ={}, out="alice.toml")

    assert issued.profile == str(tmp_path / "alice.toml")
    assert not (server / "profiles/alice.toml").exists()
    assert load_profile(issued.profile).secret_key is not None


def test_a_profile_for_others_names_the_host_instead_of_a_wildcard(tmp_path: Path) -> None:
    init_directory(str(tmp_path / "d"), "tcp://0.0.0.0:7")

    issued = issue_certificate(str(tmp_path / "d"), "alice", "observer", environ={})

    assert load_profile(issued.profile).endpoints == (f"tcp://{socket.gethostname()}:7",)


@pytest.mark.parametrize(
    ("name", "role", "days"),
    [("Alice", "admin", 1), ("alice", "root", 1), ("alice", "admin", 0), ("../x", "admin", 1)],
)
def test_what_cannot_be_issued_is_refused_and_leaves_nothing(
    server: Path, name: str, role: str, days: int
) -> None:
    before = tree(server)

    with pytest.raises(InvalidArgumentError):
        issue_certificate(str(server), name, role, environ={}, days=days)

    assert tree(server) == before


def test_a_taken_name_is_refused_and_leaves_nothing(server: Path, tmp_path: Path) -> None:
    before = tree(server)

    with pytest.raises(AlreadyExistsError, match="named 'admin'"):
        issue_certificate(
            str(server), "admin", "observer", environ={}, out=str(tmp_path / "x.toml")
        )

    assert tree(server) == before
    assert not (tmp_path / "x.toml").exists()


def test_a_taken_profile_is_refused_and_nobody_is_let_in(server: Path, tmp_path: Path) -> None:
    (tmp_path / "there.toml").write_text("mine", encoding="ascii")
    before = tree(server)

    with pytest.raises(AlreadyExistsError, match=r"there\.toml"):
        issue_certificate(
            str(server), "alice", "admin", environ={}, out=str(tmp_path / "there.toml")
        )
    with pytest.raises(NotFoundError):
        issue_certificate(
            str(server), "alice", "admin", environ={}, out=str(tmp_path / "none" / "x.toml")
        )

    assert tree(server) == before
    assert (tmp_path / "there.toml").read_text(encoding="ascii") == "mine"


def test_a_directory_that_is_no_server_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupRefusedError, match="cannot read the configuration"):
        issue_certificate(str(tmp_path), "alice", "admin", environ={})


def test_a_port_chosen_at_start_cannot_be_named_in_a_profile(server: Path) -> None:
    environ = {"DESCARTES_SERVER_ENDPOINT": "tcp://127.0.0.1:0"}

    with pytest.raises(InvalidArgumentError, match="expected a port from 1"):
        issue_certificate(str(server), "alice", "admin", environ=environ)
