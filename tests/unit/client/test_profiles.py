from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.client import Client, find_profile, profiles
from descartesd.errors import NotFoundError, UnavailableError
from descartesd.keys.profile import ClientSettings, Profile, create_profile

PROFILE = Profile(endpoints=("ipc:///nowhere/control.sock",))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DESCARTES_PROFILE", raising=False)
    monkeypatch.setattr(profiles, "LOCAL_SOCKET", str(tmp_path / "control.sock"))
    (tmp_path / ".config" / "descartes").mkdir(parents=True)
    return tmp_path


def stored(path: Path) -> Profile:
    profile = Profile(endpoints=(f"ipc:///{path.stem}/control.sock",))
    create_profile(str(path), profile)
    return profile


def test_a_profile_is_itself() -> None:
    assert find_profile(PROFILE) is PROFILE


def test_a_path_is_read(home: Path) -> None:
    profile = stored(home / "mine.toml")

    assert find_profile(home / "mine.toml") == profile
    assert find_profile(str(home / "mine.toml")) == profile


def test_a_name_is_looked_up_in_the_home_directory(home: Path) -> None:
    profile = stored(home / ".config" / "descartes" / "staging.toml")

    assert find_profile("staging") == profile
    with pytest.raises(NotFoundError, match=r"no profile 'production': expected '.*\.toml'"):
        find_profile("production")


def test_the_variable_goes_before_the_default_and_that_before_the_socket(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "control.sock").touch()
    assert find_profile().endpoints == (f"ipc://{home}/control.sock",)

    default = stored(home / ".config" / "descartes" / "default.toml")
    assert find_profile() == default

    named = stored(home / "named.toml")
    monkeypatch.setenv("DESCARTES_PROFILE", str(home / "named.toml"))
    assert find_profile() == named


@pytest.mark.usefixtures("home")
def test_without_any_server_the_command_that_starts_one_is_told() -> None:
    with pytest.raises(UnavailableError, match="no server is known") as caught:
        find_profile()

    assert "descartesd init DIR && descartesd --config" in str(caught.value.hint)


def test_where_the_service_is_installed_it_is_the_one_to_start(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "LOCAL_SOCKET", str(home / "absent"))
    monkeypatch.setattr(profiles, "SERVICE_CONFIG", str(home))

    with pytest.raises(UnavailableError) as caught:
        find_profile()

    assert caught.value.hint == "start the service: sudo systemctl start descartesd"


def test_the_times_of_the_profile_hold_where_the_caller_gives_none() -> None:
    settings = ClientSettings(connection_timeout_secs=0.2)
    profile = Profile(endpoints=PROFILE.endpoints, client=settings)

    with Client(profile) as client, pytest.raises(UnavailableError, match="nobody answers"):
        client.server.health()
