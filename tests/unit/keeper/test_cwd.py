"""An agent's directory may be bound to some directories, whatever links lead to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError, PermissionDeniedError
from descartesd.keeper.cwd import open_within
from tests.unit.keeper.harness import Keeper

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
UID = 61_234
OTHER = {"uid": UID, "gid": UID, "groups": [UID]}
# Each takes another of the ways a program is started by.
WAYS = {
    "spawned": {},
    "forked": {"tty": {"rows": 24, "cols": 80}},
    "as another user": {"user": OTHER},
}
ways = pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=needs_root if "user" in fields else ())
        for way, fields in WAYS.items()
    ],
)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """`in/deep`, `out`, and links from one into the other; everybody may enter."""
    root = tmp_path.resolve()
    (root / "in" / "deep").mkdir(parents=True)
    (root / "out").mkdir()
    (root / "in-not").mkdir()
    (root / "in" / "away").symlink_to(root / "out")
    (root / "in" / "near").symlink_to("deep")
    for each in (root, *root.parents):
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    return root


@ways
@pytest.mark.parametrize("name", ["in", "in/deep", "in/near", "in/away/../in/deep"])
def test_a_directory_that_really_is_below_is_entered(
    keeper: Keeper, places: Path, way: str, name: str
) -> None:
    within = [f"{places}/in"]

    agent_id = keeper.spawn("pwd", "-P", cwd=f"{places}/{name}", cwd_within=within, **WAYS[way])

    assert keeper.eof(agent_id)["exit_code"] == 0
    assert keeper.out(agent_id).decode().strip() == os.path.realpath(places / name)


@ways
@pytest.mark.parametrize("name", ["out", "in/away", "in/../out", "in-not", "."])
def test_a_directory_that_is_really_elsewhere_is_denied(
    keeper: Keeper, places: Path, way: str, name: str
) -> None:
    with pytest.raises(PermissionDeniedError, match="it is really in none of"):
        keeper.spawn("pwd", cwd=f"{places}/{name}", cwd_within=[f"{places}/in"], **WAYS[way])


@ways
def test_a_directory_that_is_not_there_is_told_as_that(
    keeper: Keeper, places: Path, way: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cwd .*/in/none.: No such file"):
        keeper.spawn("pwd", cwd=f"{places}/in/none", cwd_within=[f"{places}/in"], **WAYS[way])


def test_a_trial_is_denied_as_the_start_would_be(keeper: Keeper, places: Path) -> None:
    with pytest.raises(PermissionDeniedError, match="it is really in none of"):
        keeper.spawn("pwd", cwd=f"{places}/in/away", cwd_within=[f"{places}/in"], trial=True)


def test_the_root_directory_holds_every_other(places: Path) -> None:
    os.close(open_within(f"{places}/out", ["/"]))


def test_a_link_changed_after_the_opening_changes_nothing(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = places / "in" / "near"
    read = os.readlink

    def changed_meanwhile(path: bytes) -> bytes:
        link.unlink()
        link.symlink_to(places / "out")
        return read(path)

    monkeypatch.setattr(os, "readlink", changed_meanwhile)
    fd = open_within(str(link), [f"{places}/in"])
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(places / "in" / "deep"))
        with pytest.raises(OSError, match="cross-device") as caught:
            open_within(str(link), [f"{places}/in"])
        assert caught.value.errno == errno.EXDEV
    finally:
        os.close(fd)
