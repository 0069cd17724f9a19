"""Finds the repository somebody names, and checks it and all that is said about it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from descartesd.api import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from descartesd_worktree.git import Git

# What git allows in the name of a branch is more; this is what a shell, a path and a log bear too.
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]{0,199}")


class Repository(NamedTuple):
    """Its directory, and where it has its own files."""

    path: str
    common: str


def find(name: str, roots: Sequence[str]) -> Repository:
    """A repository by its path, or by its path below one of the roots.

    Raises NotFoundError; also where it exists outside of the roots, which is nobody's business.
    """
    tried = [name] if name.startswith("/") else [os.path.join(root, name) for root in roots]
    allowed = [os.path.realpath(root) for root in roots]
    for path in tried if "\0" not in name else ():
        real = os.path.realpath(path)
        if any(os.path.commonpath([real, root]) == root for root in allowed):
            common = common_of(real)
            if common is not None:
                return Repository(real, common)
    raise NotFoundError(
        f"repo: there is no repository '{name}' in the directories plugins.worktree.roots lists",
        hint="give its path, or its path below one of them",
    )


def common_of(directory: str) -> str | None:
    """Where a repository has its own files; None where there is none.

    A file `.git`, as in a worktree or a submodule, may name any other place, and is not followed.
    """
    inner = os.path.join(directory, ".git")
    for path in (inner, directory):
        if _is_kind(path, stat.S_ISDIR) and all(
            _is_kind(os.path.join(path, name), kind)
            for name, kind in (("HEAD", stat.S_ISREG), ("objects", stat.S_ISDIR))
        ):
            return path
    return None


def _is_kind(path: str, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(os.lstat(path).st_mode)
    except OSError:
        return False


def check_owner(common: str) -> None:
    """Refuse a repository of somebody else: what it says of itself could name programs to run.

    Raises PermissionDeniedError.
    """
    for path in (common, os.path.join(common, "config")):
        try:
            owner = os.stat(path).st_uid
        except FileNotFoundError:
            continue
        if owner not in (0, os.geteuid()):
            raise PermissionDeniedError(
                f"repo: '{path}' belongs to the user {owner}, not to the server's",
                hint="an administrator allows it: plugins.worktree.other_owners = true",
            )


def check_pointer(own: str) -> None:
    """Refuse a worktree whose part of the repository points out of it. Raises ConflictError."""
    path = os.path.join(own, "commondir")
    try:
        with open(path, "rb", opener=_open_plain) as file:
            found = file.read(16)
    except OSError:
        found = b""
    if found.strip() != b"../..":
        raise ConflictError(
            f"'{path}' is not as git has made it",
            hint="look at the worktree, and remove it: descartesctl action run worktree.remove "
            "name=NAME force:=true",
        )


def _open_plain(path: str, flags: int) -> int:
    """Open without following a link, nor waiting at a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def check_branch(branch: str) -> None:
    """Refuse a name that git would not allow, or that is not fit for a branch of ours.

    Raises InvalidArgumentError.
    """
    parts = branch.split("/")
    is_fit = _BRANCH.fullmatch(branch) is not None and branch != "HEAD" and ".." not in branch
    if not is_fit or "@{" in branch or not all(map(_is_part, parts)):
        raise InvalidArgumentError(
            "branch: expected a name git allows, of up to 200 letters, digits and any of"
            " . _ / + @ -, first a letter, a digit or '_'",
            hint="for example: branch=agent/tidy-up",
        )


def _is_part(part: str) -> bool:
    """Whether a part between slashes is as git-check-ref-format(1) wants it."""
    return bool(part) and not part.startswith(".") and not part.endswith((".", ".lock"))


def check_free(git: Git, branch: str) -> None:
    """Refuse a branch that is there. Raises AlreadyExistsError."""
    if git.run("show-ref", "--verify", "--quiet", f"refs/heads/{branch}").status == 0:
        raise AlreadyExistsError(
            f"branch: the repository has a branch '{branch}'",
            hint=f"take another name, and begin where that one ends: base={branch}",
        )


def commit_of(git: Git, base: str) -> str:
    """The commit a branch, a tag or anything else git understands stands for.

    Raises InvalidArgumentError.
    """
    if base.isprintable() and 0 < len(base) <= 255:
        found = git.run(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}"
        )
        commit = found.out.decode("ascii", "replace").strip()
        if found.status == 0 and re.fullmatch(r"[0-9a-f]{40,64}", commit):
            return commit
    raise InvalidArgumentError(
        "base: it is no commit of the repository",
        hint="name a branch, a tag or a commit; a repository without a commit has none",
    )
