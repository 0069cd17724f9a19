"""Makes worktrees, and removes them without losing what was done in them."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from descartesd.api import (
    ConflictError,
    DescartesError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from descartesd_worktree.book import Book, Record
from descartesd_worktree.git import Git, Place, Until
from descartesd_worktree.repository import (
    check_branch,
    check_free,
    check_owner,
    check_pointer,
    commit_of,
    common_of,
    find,
)
from descartesd_worktree.settings import Config

_INDEX_BYTES = 256 * 1024 * 1024


class Wanted(NamedTuple):
    """What is asked for: a repository, a branch to make, and where that begins."""

    repo: str
    owner: str
    branch: str | None = None
    base: str | None = None
    agent_name: str | None = None


class Worktrees:
    """All worktrees of the plugin, in one directory, which is not touched before it is needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._directory = os.path.realpath(config.directory)
        self._umask = 0o002 if config.group else 0o022
        # Two who remove the same one must not be in each other's way.
        self._removing = threading.Lock()
        # By the repository's own directory.
        self._locks: dict[str, threading.Lock] = {}
        self._opening = threading.Lock()
        self._book: Book | None = None

    @property
    def book(self) -> Book:
        """The records. Raises UnavailableError where the directory cannot be used.

        Whoever only looks whether the settings are good may be another user than the server's,
        and must not make the directory.
        """
        with self._opening:
            if self._book is None:
                try:
                    _prepare(self._directory, self.config.group)
                    self._book = Book(os.path.join(self._directory, ".book"))
                except OSError as exc:
                    raise _unusable(self._directory, f"{exc.strerror}: '{exc.filename}'") from exc
            return self._book

    def git(self, record: Record, until: Until) -> Git:
        """Git for a worktree there is.

        Raises NotFoundError, PermissionDeniedError, ConflictError.
        """
        if common_of(record.repo) != record.common:
            raise NotFoundError(f"worktree '{record.name}': its repository is gone: {record.repo}")
        if not self.config.other_owners:
            check_owner(record.common)
        check_pointer(record.own)
        place = Place(record.common, record.own, record.path)
        return Git(place, until, self._umask)

    def find(self, name: str) -> Record:
        """The worktree of this name. Raises NotFoundError."""
        record = self.book.get(name)
        if record is None:
            raise NotFoundError(
                f"there is no worktree '{name}'",
                hint="see them: descartesctl action run worktree.list",
            )
        return record

    def at(self, path: str | None) -> Record | None:
        """The worktree that is at this path."""
        return next((each for each in self.book.all() if each.path == path), None)

    # -- making one

    def create(self, wanted: Wanted, until: Until) -> Record:
        """Make a worktree with a branch of its own.

        Raises what is wrong with the names, and UnavailableError where git fails.
        """
        record, git = self._planned(wanted, until)
        self.book.put(record)
        try:
            self._make(record, git, until)
        except DescartesError:
            self._discard(record)
            raise
        return record

    def _make(self, record: Record, git: Git, until: Until) -> None:
        words = ("worktree", "add", "--quiet", "--no-track", "--no-checkout", "-b", record.branch)
        with self._alone(record.common, until):
            done = git.run(*words, "--", record.path, record.base)
        if done.status == 0:
            # The files take longest, and are in nobody's way.
            inside = git.at(Place(record.common, record.own, record.path))
            done = inside.run("reset", "--hard", "--quiet", "--no-recurse-submodules")
        if done.status != 0:
            raise UnavailableError(f"git cannot make the worktree: {done.err}")

    @contextlib.contextmanager
    def _alone(self, common: str, until: Until) -> Iterator[None]:
        """Be the only one: git stumbles over the worktree that another one is just making."""
        lock = self._locks.setdefault(common, threading.Lock())
        if not lock.acquire(timeout=until.left_s("worktree")):
            until.left_s("worktree")
            raise UnavailableError("another worktree of the repository is still being made")
        try:
            yield
        finally:
            lock.release()

    def _planned(self, wanted: Wanted, until: Until) -> tuple[Record, Git]:
        repo, common = find(wanted.repo, self.config.roots)
        if not self.config.other_owners:
            check_owner(common)
        git = Git(Place(common), until, self._umask)
        token = secrets.token_hex(4)
        name = f"{_slug(os.path.basename(repo))}-{token}"
        if wanted.branch is not None:
            branch = wanted.branch
            check_branch(branch)
            check_free(git, branch)
        else:
            # The agent's name may have been another's before, whose branch is there still.
            branch = f"agent/{_slug(wanted.agent_name or os.path.basename(repo))}-{token}"
        record = Record(
            name=name,
            path=os.path.join(self._directory, name),
            repo=repo,
            common=common,
            branch=branch,
            base=commit_of(git, wanted.base or "HEAD"),
            owner=wanted.owner,
            created_at=time.time(),
            agent_name=wanted.agent_name,
        )
        return record, git

    def _discard(self, record: Record) -> None:
        """Take back what was begun, in a time of its own."""
        # Why it could not be made is what counts, not that this went wrong too.
        with contextlib.suppress(DescartesError):
            self._delete(record)
            until = Until(time.monotonic() + 5)
            self._drop_branch(record, until)

    # -- removing one

    def remove(self, name: str, until: Until, *, force: bool = False) -> bool:
        """Remove a worktree; its branch too, where it has nothing of its own. Tells the latter.

        Raises ConflictError where something would be lost and that is not forced.
        """
        with self._removing:
            record = self.find(name)
            has_repository = common_of(record.repo) == record.common
            if not force and (has_repository or os.path.lexists(record.path)):
                self._check_loss(record, until)
            self._delete(record)
            if not has_repository:
                return False
            return self._drop_branch(record, until)

    def _check_loss(self, record: Record, until: Until) -> None:
        loss = self._loss(record, self.git(record, until))
        if loss is not None:
            raise ConflictError(
                f"worktree '{record.name}' {loss}",
                hint=f"look at {record.path}; remove it all the same: force:=true",
            )

    def _loss(self, record: Record, git: Git) -> str | None:
        """What would be lost with a worktree, as the end of a sentence."""
        if not os.path.isdir(record.path):
            return None
        if os.path.lexists(os.path.join(record.own, "locked")):
            return "is locked by git worktree lock"
        if (inner := _inner_repository(record, git)) is not None:
            return f"has another repository in it: '{inner}'"
        status = git.run("status", "--porcelain=v1", "-z", "--ignore-submodules=all")
        if status.status != 0 or status.is_cut:
            return f"cannot be looked at: {status.err}"
        if status.out:
            return f"has {_counted(status.out)} uncommitted"
        if git.run("symbolic-ref", "--quiet", "HEAD").status != 0:
            kept = git.run("for-each-ref", "--count=1", "--contains=HEAD", "refs/heads/")
            if not kept.out:
                return "has commits that are on no branch"
        return None

    def _drop_branch(self, record: Record, until: Until) -> bool:
        """Delete a branch on which nothing was done; whether it is gone."""
        git = Git(Place(record.common), until, self._umask)
        branch = f"refs/heads/{record.branch}"
        with self._alone(record.common, until):
            used = git.run("for-each-ref", "--format=%(worktreepath)", branch)
        if used.status != 0 or used.out.strip():
            return False
        # Git compares and deletes at once: what has been committed since then is kept.
        return git.run("update-ref", "-d", branch, record.base).status == 0

    def _delete(self, record: Record) -> None:
        """Delete its files, and then what the repository knows of it, as git does."""
        try:
            for path in (record.path, record.own):
                if os.path.lexists(path):
                    shutil.rmtree(path)
        except OSError as exc:
            raise PermissionDeniedError(
                f"worktree '{record.name}' cannot be deleted: '{exc.filename}': {exc.strerror}",
                hint="where agents run as other users, see group in [plugins.worktree]",
            ) from exc
        self.book.drop(record.name)


def _inner_repository(record: Record, git: Git) -> str | None:
    """The first submodule that is there. Git, when it looks into one, does as that one says."""
    listed = git.run("ls-files", "--stage", "-z", most=_INDEX_BYTES)
    for line in listed.out.split(b"\0"):
        about, _, name = line.partition(b"\t")
        if about.startswith(b"160000 "):
            path = os.path.join(os.fsencode(record.path), name)
            if os.path.isdir(path) and os.listdir(path):
                return name.decode("utf-8", "replace")
    return "its list of files is too long to look at" if listed.is_cut else None


def _prepare(directory: str, group: str) -> None:
    """Make the directory if need be, and see to it that only the server puts something there."""
    if not os.path.isdir(directory):
        os.makedirs(directory)
        # Whatever the umask of the server: agents of other users have to get through.
        os.chmod(directory, 0o755)  # noqa: S103
    if group:
        _hand_on(directory, group)
    about = os.stat(directory)
    if about.st_uid != os.geteuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _unusable(directory, "others than the server's user can put something into it")


def _hand_on(directory: str, group: str) -> None:
    """Have whatever is made in a directory belong to a group."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError as exc:
        raise _unusable(directory, f"there is no group '{group}' to share it with") from exc
    about = os.stat(directory)
    if about.st_gid == gid and about.st_mode & stat.S_ISGID:
        return
    try:
        os.chown(directory, -1, gid)
        os.chmod(directory, 0o2755)  # noqa: S103
    except PermissionError as exc:
        why = f"it cannot be given to the group '{group}'"
        raise _unusable(directory, why, f"-g {group} -m 2755") from exc


def _unusable(directory: str, why: str, options: str = "-m 755") -> UnavailableError:
    return UnavailableError(
        f"the directory for worktrees cannot be used, '{directory}': {why}",
        hint=f"an administrator makes it: install -d -o USER {options} {directory}",
    )


def _slug(name: str) -> str:
    """A name in the letters those of worktrees and branches may have."""
    slug = re.sub(r"[^a-z0-9._-]", "-", name.removesuffix(".git").lower()).lstrip("._-")
    return re.sub(r"\.+", ".", slug)[:40] or "repo"


def _counted(status: bytes) -> str:
    # A renamed file has a second field, its old name, which is counted too: 'at least'.
    count = status.count(b"\0")
    return "a file" if count == 1 else f"up to {count} files"
