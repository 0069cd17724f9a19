"""Tells what was changed in a worktree since it was made: committed, uncommitted and new."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from descartesd.api import UnavailableError
from descartesd_worktree.book import Record
from descartesd_worktree.git import Done, Git

_NAMES_MAX = 1000


def difference(git: Git, record: Record, most: int) -> dict[str, Any]:
    """The diff of a worktree against its base, cut after `most` bytes, and the files in it.

    The agent's own index is left as it is. Raises UnavailableError where git fails.
    """
    commits = _must(git.run("rev-list", "--count", f"{record.base}..HEAD", "--"))
    with tempfile.TemporaryDirectory(prefix="descartesd-worktree-") as directory:
        more = {"GIT_INDEX_FILE": _with_new_files(git, record, directory)}
        shown = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=all")
        names = _must(git.run(*shown, "--name-only", "-z", record.base, "--", more=more))
        text = _must(git.run(*shown, record.base, "--", more=more, most=most))
    files = [name for name in names.out.decode("utf-8", "replace").split("\0") if name]
    return {
        "name": record.name,
        "branch": record.branch,
        "base": record.base,
        "commits": int(commits.out),
        "files": files[:_NAMES_MAX],
        "diff": text.out.decode("utf-8", "replace"),
        "is_cut": text.is_cut or names.is_cut or len(files) > _NAMES_MAX,
    }


def _with_new_files(git: Git, record: Record, directory: str) -> str:
    """A copy of the index in which each new file is announced, so that a diff has it too."""
    index = os.path.join(directory, "index")
    own = os.path.join(record.own, "index")
    if os.path.isfile(own):
        # With its time: git looks again at files that are not older than the index.
        shutil.copy2(own, index, follow_symlinks=False)
    more = {"GIT_INDEX_FILE": index}
    new = _must(git.run("ls-files", "--others", "--exclude-standard", "-z", more=more))
    # A repository in the worktree ends with '/', and is not this one's affair.
    paths = [path for path in new.out.split(b"\0")[:-1] if not path.endswith(b"/")]
    if paths:
        empty = _must(git.run("hash-object", "-t", "blob", "--stdin")).out.strip()
        lines = b"".join(b"100644 %b\t%b\0" % (empty, path) for path in paths)
        _must(git.run("update-index", "-z", "--index-info", more=more, given=lines))
    return index


def _must(done: Done) -> Done:
    if done.status != 0 and not done.is_cut:
        raise UnavailableError(f"git cannot tell the difference: {done.err}")
    return done
