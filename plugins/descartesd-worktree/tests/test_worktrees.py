"""Worktrees of real repositories, some of which mean harm, without a server."""

from __future__ import annotations

import grp
import itertools
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import msgspec
import pytest
from descartesd_worktree.book import Record
from descartesd_worktree.difference import difference
from descartesd_worktree.git import Until
from descartesd_worktree.repository import check_branch
from descartesd_worktree.settings import Config
from descartesd_worktree.worktrees import Wanted, Worktrees

from descartesd.api import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from tests.support.repositories import commit, git, repository


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repos" / "web")


def made(tmp_path: Path, **settings: object) -> Worktrees:
    given = {"roots": [str(tmp_path / "repos")], "directory": str(tmp_path / "trees"), **settings}
    return Worktrees(msgspec.convert(given, Config))


@pytest.fixture
def trees(tmp_path: Path, repo: Path) -> Worktrees:
    return made(tmp_path)


def soon() -> Until:
    return Until(time.monotonic() + 30)


def create(trees: Worktrees, repo: str = "web", **fields: str) -> Record:
    return trees.create(Wanted(repo, "uid:0", **fields), soon())


def files(record: Record) -> Path:
    return Path(record.path)


def test_worktree_has_the_files_and_a_branch_of_its_own(trees: Worktrees, repo: Path) -> None:
    record = create(trees, branch="agent/tidy")

    assert (files(record) / "file").read_text() == "one\n"
    assert git(files(record), "branch", "--show-current") == "agent/tidy"
    assert record.base == git(repo, "rev-parse", "main")
    assert git(repo, "branch", "--show-current") == "main"


def test_worktree_begins_where_it_is_told_to(trees: Worktrees, repo: Path) -> None:
    git(repo, "tag", "first")
    commit(repo, "file", "two\n")

    assert (files(create(trees, base="first")) / "file").read_text() == "one\n"
    assert (files(create(trees)) / "file").read_text() == "two\n"


def test_bare_repository_has_worktrees_too(tmp_path: Path, repo: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(repo), str(tmp_path / "repos" / "bare.git"))

    record = create(made(tmp_path), "bare.git")

    assert (files(record) / "file").read_text() == "one\n"
    assert record.name.startswith("bare-")


@pytest.mark.parametrize(
    "branch",
    [
        "-d",
        "--force",
        "a..b",
        "a b",
        "HEAD",
        "a\n",
        "@{-1}",
        "a.lock",
        "/a",
        "ü",
        "a~1",
        "x" * 201,
        "a//b",
        "a/.b",
        "a.",
        "a/",
        "@",
    ],
)
def test_name_no_branch_should_have_is_refused(trees: Worktrees, repo: Path, branch: str) -> None:
    with pytest.raises(InvalidArgumentError, match="branch: expected a name git allows"):
        create(trees, branch=branch)

    assert git(repo, "branch", "--format=%(refname:short)") == "main"
    assert trees.book.all() == []


def test_every_branch_that_is_taken_for_fit_is_so_for_git(repo: Path) -> None:
    parts = ["a", ".", "..", "/", "-", "@", "@{", ".lock", "HEAD", "_", "+", "x.y", "1"]
    words = {"".join(each) for n in (1, 2, 3) for each in itertools.product(parts, repeat=n)}
    fit = [word for word in sorted(words) if is_fit(word)]

    told = subprocess.run(
        ["xargs", "-n1", "sh", "-c", 'git check-ref-format "refs/heads/$1" || echo "$1"', "sh"],
        input="\n".join(fit[::7]),
        text=True,
        capture_output=True,
        check=False,
    )

    assert len(fit) > 100
    assert told.stdout == ""


def is_fit(branch: str) -> bool:
    try:
        check_branch(branch)
    except InvalidArgumentError:
        return False
    return True


@pytest.mark.parametrize("name", ["we..b", ".web", "Web App", "web.lock", "-web"])
def test_repository_of_any_name_has_worktrees(tmp_path: Path, name: str) -> None:
    repository(tmp_path / "repos" / name)
    trees = made(tmp_path)

    record = create(trees, name, agent_name="a..b.")

    assert git(files(record), "branch", "--show-current") == record.branch
    assert trees.remove(record.name, soon())


@pytest.mark.parametrize("base", ["--help", "-n", "nothing", "HEAD^{tree}", "a\nb", ":file", ""])
def test_base_that_is_no_commit_is_refused(trees: Worktrees, base: str) -> None:
    wanted = Wanted("web", "uid:0", base=base or " ")

    with pytest.raises(InvalidArgumentError, match="base: it is no commit"):
        trees.create(wanted, soon())


def test_branch_that_is_there_is_refused_with_what_to_do(trees: Worktrees, repo: Path) -> None:
    git(repo, "branch", "taken")

    with pytest.raises(AlreadyExistsError) as told:
        create(trees, branch="taken")

    assert told.value.hint == "take another name, and begin where that one ends: base=taken"


@pytest.mark.parametrize("name", ["../outside", "web/../../outside", "/etc", "web\0", "", "alias"])
def test_nothing_outside_of_the_roots_is_found(tmp_path: Path, repo: Path, name: str) -> None:
    repository(tmp_path / "outside")
    (tmp_path / "repos" / "alias").symlink_to(tmp_path / "outside")

    with pytest.raises(NotFoundError, match="repo: there is no repository"):
        create(made(tmp_path), name)


def test_file_that_names_another_place_is_not_followed(tmp_path: Path, repo: Path) -> None:
    outside = repository(tmp_path / "outside")
    (tmp_path / "repos" / "pointer").mkdir()
    (tmp_path / "repos" / "pointer" / ".git").write_text(f"gitdir: {outside}/.git\n")

    with pytest.raises(NotFoundError):
        create(made(tmp_path), "pointer")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_repository_of_somebody_else_is_refused_unless_allowed(tmp_path: Path, repo: Path) -> None:
    os.chown(repo / ".git" / "config", 12345, -1)

    with pytest.raises(PermissionDeniedError, match="belongs to the user 12345"):
        create(made(tmp_path))

    assert create(made(tmp_path, other_owners=True))


def hostile(repo: Path, marker: Path) -> None:
    """Have a repository run something at whatever may happen to it."""
    script = repo / "attack"
    script.write_text(f"#!/bin/sh\necho \"$0 $*\" >> '{marker}'\n")
    script.chmod(0o755)
    for hook in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit"):
        (repo / ".git" / "hooks" / hook).write_text(script.read_text())
        (repo / ".git" / "hooks" / hook).chmod(0o755)
    for key in (
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "core.editor",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.smudge",
        "filter.evil.clean",
        "filter.odd=name.process",
        "gpg.program",
        "credential.helper",
        "alias.status",
    ):
        git(repo, "config", key, f"!{script}" if key.startswith("alias") else str(script))
    git(repo, "config", "filter.evil.required", "true")
    git(repo, "config", "protocol.ext.allow", "always")
    (repo / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")


def test_repository_that_means_harm_runs_nothing(
    trees: Worktrees, repo: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    hostile(repo, marker)

    record = create(trees)
    (files(record) / "file").write_text("changed\n")
    (files(record) / "new").write_text("new\n")
    told = difference(trees.git(record, soon()), record, 100_000)
    with pytest.raises(ConflictError):
        trees.remove(record.name, soon())
    trees.remove(record.name, soon(), force=True)

    assert told["files"] == ["file", "new"]
    assert "+changed" in told["diff"]
    assert not marker.exists(), marker.read_text()
    # The trap is a trap: who does not look out falls into it.
    git(repo, "status")
    assert marker.exists()


def test_agent_that_turns_its_worktree_into_a_trap_catches_nobody(
    trees: Worktrees, tmp_path: Path
) -> None:
    record = create(trees)
    trap = repository(tmp_path / "trap")
    hostile(trap, tmp_path / "marker")
    (files(record) / ".git").write_text(f"gitdir: {trap}/.git\n")
    own = Path(record.own, "commondir")
    own.write_text(f"{trap}/.git\n")
    (files(record) / "file").write_text("changed\n")

    with pytest.raises(ConflictError, match="is not as git has made it"):
        trees.git(record, soon())
    with pytest.raises(ConflictError):
        trees.remove(record.name, soon())
    own.write_text("../..\n")
    told = difference(trees.git(record, soon()), record, 100_000)
    with pytest.raises(ConflictError, match="has a file uncommitted"):
        trees.remove(record.name, soon())
    trees.remove(record.name, soon(), force=True)

    assert "+changed" in told["diff"]
    assert not (tmp_path / "marker").exists()


def test_submodule_of_an_agent_is_not_entered(trees: Worktrees, tmp_path: Path) -> None:
    record = create(trees)
    inner = repository(files(record) / "inner")
    hostile(inner, tmp_path / "marker")
    head = git(inner, "-c", "core.hooksPath=/dev/null", "rev-parse", "HEAD")
    git(files(record), "update-index", "--add", "--cacheinfo", f"160000,{head},inner")

    difference(trees.git(record, soon()), record, 100_000)
    with pytest.raises(ConflictError, match="has another repository in it: 'inner'"):
        trees.remove(record.name, soon())

    assert not (tmp_path / "marker").exists()


def test_difference_has_what_was_committed_what_was_not_and_what_is_new(trees: Worktrees) -> None:
    record = create(trees)
    commit(files(record), "done", "done\n")
    (files(record) / "file").write_text("changed\n")
    (files(record) / "new").write_text("new\n")
    (files(record) / ".gitignore").write_text("built\n")
    (files(record) / "built").write_text("no\n")

    told = difference(trees.git(record, soon()), record, 100_000)

    assert told["files"] == [".gitignore", "done", "file", "new"]
    assert told["commits"] == 1
    assert {"+done", "-one", "+changed", "+new"} <= set(told["diff"].splitlines())
    assert not told["is_cut"]
    assert git(files(record), "status", "--porcelain") == "M file\n?? .gitignore\n?? new"


def test_difference_that_is_too_long_is_cut(trees: Worktrees) -> None:
    record = create(trees)
    (files(record) / "file").write_text("x\n" * 1_000_000)

    told = difference(trees.git(record, soon()), record, 1000)

    assert len(told["diff"]) == 1000
    assert told["is_cut"]


def test_clean_worktree_goes_with_a_branch_that_has_nothing(trees: Worktrees, repo: Path) -> None:
    record = create(trees)

    assert trees.remove(record.name, soon())

    assert not files(record).exists()
    assert git(repo, "branch", "--format=%(refname:short)") == "main"
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert trees.book.all() == []


def test_branch_with_commits_outlives_its_worktree(trees: Worktrees, repo: Path) -> None:
    record = create(trees, branch="work")
    done = commit(files(record), "done", "done\n")

    assert not trees.remove(record.name, soon())

    assert git(repo, "rev-parse", "work") == done


def _change(at: Path) -> None:
    (at / "file").write_text("changed\n")


def _stage(at: Path) -> None:
    (at / "file").write_text("changed\n")
    git(at, "add", "file")


def _add(at: Path) -> None:
    (at / "new").write_text("new\n")


def _detach(at: Path) -> None:
    git(at, "checkout", "--quiet", "--detach")
    commit(at, "file", "nowhere\n")


def _lock(at: Path) -> None:
    git(at, "worktree", "lock", str(at))


@pytest.mark.parametrize("work", [_change, _stage, _add, _detach, _lock])
def test_work_is_not_lost_unless_that_is_forced(trees: Worktrees, work: object) -> None:
    record = create(trees)
    work(files(record))  # type: ignore[operator]

    with pytest.raises(ConflictError) as told:
        trees.remove(record.name, soon())
    assert told.value.hint is not None
    assert "force:=true" in told.value.hint
    assert files(record).exists()

    trees.remove(record.name, soon(), force=True)
    assert not files(record).exists()


def test_worktree_of_a_repository_that_is_gone_can_be_removed(trees: Worktrees, repo: Path) -> None:
    record = create(trees)
    repo.rename(repo.parent / "moved")

    with pytest.raises(NotFoundError, match="its repository is gone"):
        trees.remove(record.name, soon())
    trees.remove(record.name, soon(), force=True)

    assert trees.book.all() == []
    assert not files(record).exists()


def test_git_that_takes_too_long_leaves_nothing(trees: Worktrees, repo: Path) -> None:
    assert trees.book.all() == []
    before = sorted(os.listdir(trees.config.directory))

    with pytest.raises(UnavailableError, match="was not done in time"):
        trees.create(Wanted("web", "uid:0"), Until(time.monotonic()))

    assert sorted(os.listdir(trees.config.directory)) == before
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1


def test_git_nobody_waits_for_any_more_is_ended(trees: Worktrees, repo: Path) -> None:
    # A fifo in the place of the list of branches is read for ever.
    os.mkfifo(repo / ".git" / "packed-refs")
    until = soon()._replace(cancelled=threading.Event())
    began = time.monotonic()
    threading.Timer(0.3, until.cancelled.set).start()

    with pytest.raises(UnavailableError, match="nobody waits for it any more"):
        trees.create(Wanted("web", "uid:0"), until)

    assert time.monotonic() - began < 10


def test_worktrees_are_remembered_by_the_next_server(trees: Worktrees, tmp_path: Path) -> None:
    record = create(trees)

    assert made(tmp_path).book.all() == [record]


def test_group_may_write_in_worktrees(tmp_path: Path, repo: Path) -> None:
    group = grp.getgrgid(os.getegid() or 1)

    record = create(made(tmp_path, group=group.gr_name))

    about = os.stat(files(record) / "file")
    assert about.st_gid == group.gr_gid
    assert about.st_mode & stat.S_IWGRP
    assert os.stat(files(record)).st_mode & stat.S_ISGID
    assert not os.stat(tmp_path / "trees").st_mode & stat.S_IWGRP
    assert stat.S_IMODE(os.stat(tmp_path / "trees" / ".book").st_mode) & 0o077 == 0


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(msgspec.ValidationError, match="is in directory, expected it elsewhere"):
        made(tmp_path, directory=str(tmp_path))


def test_directory_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").touch()

    for settings, told in (
        ({"directory": str(tmp_path / "open")}, "others than the server's user can put something"),
        ({"directory": str(tmp_path / "file" / "trees")}, "Not a directory"),
        ({"group": "nobody-has-this"}, "there is no group 'nobody-has-this'"),
    ):
        with pytest.raises(UnavailableError, match=told) as refused:
            create(made(tmp_path, **settings))
        assert refused.value.hint is not None
        assert "install -d -o USER" in refused.value.hint


def test_who_only_looks_at_the_settings_makes_nothing(tmp_path: Path, repo: Path) -> None:
    made(tmp_path)

    assert not (tmp_path / "trees").exists()


def test_record_that_cannot_be_read_keeps_nobody_from_the_others(
    trees: Worktrees, tmp_path: Path
) -> None:
    record, other = create(trees), create(trees)
    (tmp_path / "trees" / ".book" / f"{other.name}.json").write_text("")

    assert made(tmp_path).book.all() == [record]


def test_change_within_the_same_moment_is_seen(trees: Worktrees, repo: Path) -> None:
    git(repo, "config", "core.trustctime", "false")
    record = create(trees)
    file, index = files(record) / "file", Path(record.own, "index")
    # Long ago, all within one tick of the clock: git writes the index, the agent the file.
    os.utime(file, (1e9, 1e9))
    git(files(record), "update-index", "--refresh")
    file.write_text("two\n")
    for path in (file, index):
        os.utime(path, (1e9, 1e9))

    assert "+two" in difference(trees.git(record, soon()), record, 1000)["diff"]


def test_directory_can_be_passed_whatever_the_umask_of_the_server(
    tmp_path: Path, repo: Path
) -> None:
    before = os.umask(0o077)
    try:
        record = create(made(tmp_path))
    finally:
        os.umask(before)

    for path in (tmp_path / "trees", files(record)):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(files(record) / "file").st_mode) == 0o644
