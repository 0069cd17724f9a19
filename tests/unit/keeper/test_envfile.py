"""A file of variables is read as systemd reads one."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from descartesd.errors import InvalidArgumentError
from descartesd.keeper.envfile import read


def test_lines_become_variables(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(
        "# a comment\n; another\n\nA=1\n B = two words \nC='quoted # text'\nD=\"x\"\nE=\nA=last\r\n"
        "F=a=b\nG='half\n"
    )

    assert read(str(file)) == {
        "A": "last",
        "B": "two words",
        "C": "quoted # text",
        "D": "x",
        "E": "",
        "F": "a=b",
        "G": "'half",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nhidden-value\n", "line 2 is not NAME=VALUE"),
        (b"hidden value=1\n", "line 1 is not NAME=VALUE"),
        (b"=hidden\n", "line 1 is not NAME=VALUE"),
        (b"A=hidden\0\n", "line 1 has a NUL character"),
        (b"A=hidden\xff\n", "it is not valid UTF-8"),
        (b"A=" + b"h" * (1024 * 1024), "it has more than 1048576 bytes"),
    ],
)
def test_a_fault_is_named_and_nothing_of_the_file_is_shown(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "env"
    file.write_bytes(content)

    with pytest.raises(InvalidArgumentError) as refused:
        read(str(file))

    assert message in refused.value.message
    assert "hidden" not in f"{refused.value.message}{refused.value.hint}"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for name, reason in (("pipe", "no regular file"), ("none", "No such file"), (".", "regular")):
        with pytest.raises(InvalidArgumentError, match=reason):
            read(str(tmp_path / name))


def test_want_of_descriptors_is_not_taken_for_the_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("A=1\n")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
