"""Secret files are private from their first moment and refused when they no longer are."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from descartesd.errors import (
    AlreadyExistsError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StartupRefusedError,
    UnauthenticatedError,
)
from descartesd.keys.files import create_public, create_secret, read_secret, translated

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=["umask 000", "umask 022", "umask 777"])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = str(tmp_path / "host.key")
    create_secret(path, b"s3cret")
    return path


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.usefixtures("any_umask")
def test_a_secret_is_0600_and_a_public_file_0644_under_any_umask(tmp_path: Path) -> None:
    create_secret(str(tmp_path / "a"), b"s3cret")
    create_public(str(tmp_path / "b"), b"public")

    assert (mode(f"{tmp_path}/a"), mode(f"{tmp_path}/b")) == (0o600, 0o644)
    assert read_secret(str(tmp_path / "a")) == b"s3cret"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("there", ["file", "directory", "link", "dangling link"])
def test_nothing_is_overwritten_or_followed(tmp_path: Path, there: str) -> None:
    path, target = tmp_path / "host.key", tmp_path / "target"
    match there:
        case "file":
            path.write_bytes(b"before")
        case "directory":
            path.mkdir()
        case "link":
            target.write_bytes(b"before")
            path.symlink_to(target)
        case _:
            path.symlink_to(target)
    before = sorted(os.listdir(tmp_path))

    with pytest.raises(AlreadyExistsError, match="exists already"):
        create_secret(str(path), b"s3cret")

    assert sorted(os.listdir(tmp_path)) == before
    assert not path.is_file() or path.read_bytes() == b"before"


def test_one_of_many_creators_wins_and_nothing_is_left_of_the_others(tmp_path: Path) -> None:
    path = str(tmp_path / "host.key")

    def create(number: int) -> int | None:
        try:
            create_secret(path, b"%d" % number)
        except AlreadyExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(32)) if number is not None]

    assert [b"%d" % number for number in winners] == [read_secret(path)]
    assert os.listdir(tmp_path) == ["host.key"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from descartesd.keys.files import create_secret\n"
        "from descartesd.errors import DescartesError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try: create_secret(sys.argv[1], b's3cret' * 9)\n"
        "except DescartesError as exc: print(exc)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "host.key")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"cannot create '{tmp_path}/host.key': File too large\n"
    assert os.listdir(tmp_path) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file or directory"):
        create_secret(str(tmp_path / "none" / "host.key"), b"s3cret")


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.ENOENT, NotFoundError),
        (errno.EACCES, PermissionDeniedError),
        (errno.EROFS, PermissionDeniedError),
        (errno.ENOSPC, ResourceExhaustedError),
        (errno.ENAMETOOLONG, InvalidArgumentError),
        (errno.EIO, StartupRefusedError),
    ],
)
def test_an_error_of_the_kernel_becomes_one_of_the_family(
    number: int, cls: type[DescartesError]
) -> None:
    error = translated(OSError(number, os.strerror(number)), "/k")

    assert type(error) is cls
    assert error.message == f"cannot create '/k': {os.strerror(number)}"


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_fault_44_a_secret_others_can_touch_is_refused_with_the_chmod(
    secret: str, bits: int
) -> None:
    os.chmod(secret, bits)

    with pytest.raises(StartupRefusedError, match=f"mode {bits:04o}.*expected 0600") as caught:
        read_secret(secret)

    assert caught.value.hint == f"chmod 600 {secret}"


@pytest.mark.parametrize("bits", [0o600, 0o400])
def test_a_secret_only_its_owner_can_read_is_read(secret: str, bits: int) -> None:
    os.chmod(secret, bits)

    assert read_secret(secret) == b"s3cret"


@as_root
def test_fault_44_a_secret_of_another_user_is_refused(secret: str) -> None:
    os.chown(secret, 12345, -1)

    with pytest.raises(StartupRefusedError, match="belongs to uid 12345, expected uid 0") as caught:
        read_secret(secret)

    assert caught.value.hint == f"chown 0 {secret}"


def test_fault_44_a_symbolic_link_is_refused(secret: str, tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(secret)

    with pytest.raises(StartupRefusedError, match="is a symbolic link"):
        read_secret(str(link))


def test_fault_44_a_secret_in_a_directory_all_may_write_to_is_refused(
    secret: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StartupRefusedError, match="its directory has mode 0777") as caught:
        read_secret(secret)
    tmp_path.chmod(0o1777)

    assert caught.value.hint == f"chmod o-w {tmp_path}"
    assert read_secret(secret) == b"s3cret"


def test_the_caller_chooses_the_class_of_the_refusal(secret: str) -> None:
    os.chmod(secret, 0o644)

    with pytest.raises(UnauthenticatedError):
        read_secret(secret, refusal=UnauthenticatedError)


def test_what_is_no_small_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "large").write_bytes(bytes(64 * 1024 + 1))

    for name, reason in (
        ("fifo", "not a regular file"),
        ("large", "larger than 65536 bytes"),
        ("none", "No such file or directory"),
        (".", "not a regular file"),
    ):
        with pytest.raises(StartupRefusedError, match=reason):
            read_secret(str(tmp_path / name))


# Ends itself as a crash would, right before a step of the kernel's.
CRASHES = """
import os, signal, sys
from descartesd.keys import files
step, work, path = sys.argv[1:]
def crash(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, step, crash)
getattr(files, work)(path, b"new" * 1000)
"""


@pytest.mark.parametrize("step", ["write", "fsync", "link", "unlink"])
def test_fault_46_killed_while_it_creates_a_secret_it_leaves_none_or_the_whole(
    step: str, tmp_path: Path
) -> None:
    path = tmp_path / "host.key"

    _killed(step, "create_secret", path)

    whole = b"new" * 1000 if step == "unlink" else None
    assert (path.read_bytes() if path.exists() else None) == whole
    # Whatever else it leaves is nobody's to read and has no name of a key.
    for each in tmp_path.iterdir():
        assert each == path or each.name.startswith(".new-")
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    if whole is None:
        create_secret(str(path), b"again")
        assert read_secret(str(path)) == b"again"


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_fault_46_killed_while_it_replaces_a_secret_it_leaves_the_old_one(
    step: str, tmp_path: Path
) -> None:
    path = tmp_path / "host.key"
    create_secret(str(path), b"old")

    _killed(step, "replace_secret", path)

    assert read_secret(str(path)) == b"old"


def _killed(step: str, work: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, step, work, path], check=False, timeout=30
    )
    assert done.returncode == -signal.SIGKILL
