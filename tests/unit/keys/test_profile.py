"""A profile is read completely or refused; its secret stays hidden."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descartesd.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
)
from descartesd.keys.files import create_secret
from descartesd.keys.profile import ClientSettings, Profile, create_profile, load_profile
from descartesd.keys.z85 import encode_key

KEY = encode_key(bytes(range(32)))
SECRET = encode_key(bytes(range(100, 132)))
TCP = f"""\
endpoints = ["tcp://127.0.0.1:5555"]
server_keys = ["{KEY}"]
public_key = "{KEY}"
secret_key = "{SECRET}"
"""


def write(directory: Path, text: str) -> str:
    path = str(directory / "p.toml")
    create_secret(path, text.encode())
    return path


def test_a_tcp_profile_names_all_three_keys(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, TCP))

    assert profile == Profile(("tcp://127.0.0.1:5555",), (KEY,), KEY, SECRET)
    assert profile.client.connection_timeout_secs == 3
    assert profile.client.request_timeout_secs == 30


def test_a_local_profile_has_no_keys_and_may_be_read_by_all(tmp_path: Path) -> None:
    path = write(tmp_path, 'endpoints = ["ipc:///run/descartes/control.sock"]\n')
    os.chmod(path, 0o644)

    assert load_profile(path) == Profile(("ipc:///run/descartes/control.sock",))


def test_fault_44_a_secret_key_others_can_read_is_refused_with_the_chmod(tmp_path: Path) -> None:
    path = write(tmp_path, TCP)
    os.chmod(path, 0o644)

    with pytest.raises(UnauthenticatedError, match="mode 0644") as caught:
        load_profile(path)

    assert caught.value.hint == f"chmod 600 {path}"
    assert caught.value.exit_status == 4


def test_the_secret_shows_in_no_text(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, TCP))

    assert SECRET not in f"{profile!r} {profile}"
    assert KEY in repr(profile)


CLIENTS = st.builds(
    ClientSettings,
    connection_timeout_secs=st.floats(0.001, 86_400),
    request_timeout_secs=st.integers(1, 86_400).map(float),
    auto_reconnect=st.booleans(),
    max_reconnect_attempts=st.integers(0, 1_000_000),
    reconnect_delay_secs=st.floats(0.001, 86_400),
    enable_heartbeat=st.booleans(),
    heartbeat_interval_secs=st.floats(0.001, 86_400),
    offline_queue_size=st.integers(0, 1_000_000),
    offline_queue_expiry_secs=st.floats(0, 86_400),
    circuit_failures=st.integers(0, 1_000_000),
    circuit_reset_secs=st.floats(0.001, 86_400),
)
PATHS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map("ipc:///{}".format)
LOCAL = st.builds(Profile, endpoints=st.tuples(PATHS), client=CLIENTS)
REMOTE = st.builds(
    Profile,
    endpoints=st.just(("tcp://a:1", "tcp://[::1]:2")),
    server_keys=st.sampled_from([(KEY,), (KEY, SECRET)]),
    public_key=st.just(KEY),
    secret_key=st.just(SECRET),
    certificate=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    client=CLIENTS,
)


@settings(database=None, max_examples=60, deadline=None)
@given(LOCAL | REMOTE)
def test_every_profile_is_read_back_as_it_was_written(profile: Profile) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "p.toml")
        create_profile(path, profile)

        assert load_profile(path) == profile
        assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_profile_is_not_written_over_another(tmp_path: Path) -> None:
    path = write(tmp_path, TCP)

    with pytest.raises(AlreadyExistsError):
        create_profile(path, Profile(("ipc:///x",)))

    assert load_profile(path).secret_key == SECRET


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "endpoints: expected at least one"),
        ("endpoints = []", "endpoints: expected at least one"),
        ("endpoints = 'tcp://h:1'", "endpoints: expected a list of texts"),
        ("endpoints = [1]", "endpoints: expected a list of texts"),
        ("endpoints = ['http://h']", "endpoints: expected 'tcp://HOST:PORT' or 'ipc:///PATH', got"),
        ("endpoints = ['ipc://run/x']", "endpoints: expected 'tcp://HOST:PORT' or 'ipc:///PATH'"),
        ("endpoints = ['tcp://h']", "endpoints: expected tcp://HOST:PORT, got 'tcp://h'"),
        ("endpoints = ['tcp://h:0']", "endpoints: expected a port over 0, got 'tcp://h:0'"),
        (f"endpoints = ['ipc:///{'x' * 107}']", "endpoints: the socket path"),
        (
            "endpoints = ['tcp://h:1']",
            "a tcp endpoint needs public_key and secret_key and server_keys",
        ),
        (TCP + "endpoint = 'x'", "endpoint: unknown key (did you mean 'endpoints'?)"),
        (TCP + "xyzzy = 1", "xyzzy: unknown key"),
        (
            TCP + "[client]\nconnection_timeout = 3",
            "client.connection_timeout: unknown key (did you mean 'connection_timeout_secs'?)",
        ),
        (
            TCP + "[client]\nrequest_timeout_secs = 0",
            "client.request_timeout_secs: expected seconds, over 0 and at most 86400, got 0",
        ),
        (
            TCP + "[client]\nrequest_timeout_secs = nan",
            "client.request_timeout_secs: expected seconds",
        ),
        (
            TCP + "[client]\nrequest_timeout_secs = inf",
            "client.request_timeout_secs: expected seconds",
        ),
        (
            TCP + "[client]\nrequest_timeout_secs = true",
            "client.request_timeout_secs: expected seconds",
        ),
        (
            TCP + "[client]\nauto_reconnect = 1",
            "client.auto_reconnect: expected true or false, got 1",
        ),
        (
            TCP + "[client]\nmax_reconnect_attempts = 1.5",
            "client.max_reconnect_attempts: expected an integer",
        ),
        (
            TCP + "[client]\nmax_reconnect_attempts = -1",
            "client.max_reconnect_attempts: expected an integer",
        ),
        (
            TCP + "[client]\nenable_heartbeat = 'yes'",
            "client.enable_heartbeat: expected true or false, got 'yes'",
        ),
        (
            TCP + "[client]\nheartbeat_interval_secs = 0",
            "client.heartbeat_interval_secs: expected seconds, over 0 and at most 86400, got 0",
        ),
        (
            TCP + "[client]\noffline_queue_expiry_secs = -1",
            "client.offline_queue_expiry_secs: expected seconds, from 0 to 86400, got -1",
        ),
        (
            TCP + "[client]\noffline_queue_size = 1.5",
            "client.offline_queue_size: expected an integer from 0 to 1000000, got 1.5",
        ),
        (
            TCP + "[client]\ncircuit_failures = true",
            "client.circuit_failures: expected an integer",
        ),
        (TCP + "[client]\nclient_id = 'me'", "client.client_id: unknown key"),
        ("client = 5", "client: expected a table, got 5"),
        (
            TCP.replace(f'public_key = "{KEY}"\n', ""),
            "expected both public_key and secret_key, or neither",
        ),
        (
            TCP.replace(f'server_keys = ["{KEY}"]', "server_keys = []"),
            "a tcp endpoint needs server_keys",
        ),
        (
            TCP.replace(f'server_keys = ["{KEY}"]', f'server_keys = ["{KEY}", "{KEY}"]').replace(
                "endpoints = [", 'endpoints = ["tcp://a:1", "tcp://b:1", '
            ),
            "server_keys: expected one, or one for each of 3",
        ),
        (TCP.replace(KEY, "short"), "public_key: expected 40 characters of Z85, got 5"),
        (TCP + "certificate = 5", "certificate: expected a text"),
        ("endpoints = [", "is not valid TOML"),
    ],
)
def test_a_malformed_profile_is_refused_with_the_key_at_fault(
    tmp_path: Path, text: str, fault: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        load_profile(write(tmp_path, text))

    assert fault in caught.value.message
    assert caught.value.exit_status == 2


def test_a_wrong_secret_key_is_not_repeated(tmp_path: Path) -> None:
    wrong = SECRET[:-1]

    with pytest.raises(InvalidArgumentError, match="secret_key: expected 40") as caught:
        load_profile(write(tmp_path, TCP.replace(SECRET, wrong)))

    assert wrong not in str(caught.value)


def test_a_profile_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no profile"):
        load_profile(str(tmp_path / "none.toml"))
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        load_profile(str(tmp_path))


def test_a_profile_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    create_secret(str(tmp_path / "p.toml"), b"\xff")

    with pytest.raises(InvalidArgumentError, match="is not valid TOML"):
        load_profile(str(tmp_path / "p.toml"))


def test_reading_a_profile_loads_no_heavy_library(tmp_path: Path) -> None:
    path = write(tmp_path, TCP)
    code = (
        "import sys; from descartesd.keys.profile import load_profile; load_profile(sys.argv[1])\n"
        "heavy = {'nacl', 'dynaconf', 'zmq', 'dataclasses', 'asyncio', 'cffi'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
