"""Worktrees in a real server: made by actions, and with the agents they are for."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descartesd.client import Client
from descartesd.errors import (
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from descartesd.wire.agent import AgentInfo
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.repositories import commit, git, repository
from tests.support.server import Server


class Forest:
    """A server with the plugin, and a repository for it."""

    def __init__(self, **settings: str) -> None:
        self.server = Server()
        self.root = self.server.root
        self.repo = repository(self.root / "repos" / "web")
        table = {"roots": [str(self.root / "repos")], "directory": str(self.root / "trees")}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (table | settings).items()]
        with self.server.config.open("a") as file:
            file.write('\n[plugins]\nenabled = ["worktree"]\n[plugins.worktree]\n')
            file.write("\n".join(lines) + "\n")

    @property
    def trees(self) -> list[str]:
        return sorted(path.name for path in (self.root / "trees").glob("[!.]*"))

    @property
    def branches(self) -> list[str]:
        return git(self.repo, "branch", "--format=%(refname:short)").splitlines()


@pytest.fixture(scope="module")
def forest() -> Iterator[Forest]:
    made = Forest()
    with made.server as server:
        server.start()
        yield made


@pytest.fixture
def client(forest: Forest) -> Iterator[Client]:
    with forest.server.client() as connected:
        yield connected
        for agent in connected.agent.list().agents:
            connected.agent.kill(id=agent.id)
            connected.agent.remove(id=agent.id)
        eventually(lambda: is_empty(connected), timeout=10)


def is_empty(client: Client) -> bool:
    """Remove every worktree, some of which go by themselves meanwhile."""
    for each in run(client, "list"):
        with contextlib.suppress(NotFoundError):
            run(client, "remove", name=each["name"], force=True)
    return run(client, "list") == []


def run(client: Client, action: str, agent: str | None = None, **params: object) -> Any:
    return client.action.run(name=f"worktree.{action}", params=params, agent=agent).result


def grown(client: Client, *command: str, **labels: str) -> AgentInfo:
    wanted = spec(*(command or SLEEP), labels={"worktree": "web", **labels})
    return client.agent.spawn(spec=wanted)


def test_worktree_is_made_compared_and_removed_by_hand(forest: Forest, client: Client) -> None:
    made = run(client, "create", repo="web", branch="agent/hand")
    Path(made["path"], "file").write_text("two\n")
    compared = run(client, "diff", name=made["name"])
    with pytest.raises(DescartesError) as told:
        run(client, "remove", name=made["name"])
    run(client, "remove", name=made["name"], force=True)

    assert made["branch"] == "agent/hand"
    assert "+two" in compared["diff"]
    assert told.value.code == "conflict"
    assert run(client, "list") == []
    assert not Path(made["path"]).exists()


def test_commands_of_the_command_line_work(forest: Forest, client: Client) -> None:
    ctl = forest.server.ctl
    created = ctl("--json", "action", "run", "worktree.create", "repo=web", "branch=by-ctl")
    name = json.loads(created.stdout)["result"]["name"]
    removed = ctl("--json", "action", "run", "worktree.remove", f"name={name}", "force:=true")
    wrong = ctl("--json", "action", "run", "worktree.create", "repo=web", "brnch=x")

    assert created.returncode == 0, created.stderr
    assert json.loads(removed.stdout)["result"] == {
        "name": name,
        "branch": "by-ctl",
        "is_branch_kept": False,
    }
    assert wrong.returncode == 2
    assert b"did you mean 'branch'" in wrong.stderr


def test_agent_with_the_label_runs_in_a_worktree_of_its_own(forest: Forest, client: Client) -> None:
    first = grown(client, "sh", "-c", "pwd; cat file; exec sleep 300")
    second = grown(client)

    assert first.spec.cwd is not None
    assert second.spec.cwd not in (first.spec.cwd, None)
    wanted = f"{first.spec.cwd}\none\n".encode()
    eventually(lambda: client.agent.output(id=first.id).data == wanted)


def test_labels_name_the_branch_and_where_it_begins(forest: Forest, client: Client) -> None:
    git(forest.repo, "tag", "--force", "start")
    agent = grown(client, **{"worktree.branch": "work/x", "worktree.base": "start"})

    (record,) = run(client, "list")
    assert (record["branch"], record["agent_name"]) == ("work/x", agent.name)


def test_difference_of_an_agent_is_told(forest: Forest, client: Client) -> None:
    agent = grown(client, "sh", "-c", "echo more >> file; exec sleep 300")

    eventually(lambda: "+more\n" in run(client, "diff", agent=agent.id, plain=True))
    told = run(client, "diff", agent=agent.id)
    assert (told["files"], told["commits"]) == (["file"], 0)
    with pytest.raises(NotFoundError, match="does not run in a worktree"):
        run(client, "diff", agent=client.agent.spawn(spec=spec(*SLEEP)).id)


def test_worktree_goes_with_its_agent(forest: Forest, client: Client) -> None:
    agent = grown(client)
    assert len(forest.trees) == 1

    client.agent.kill(id=agent.id)
    assert len(forest.trees) == 1
    client.agent.remove(id=agent.id)

    eventually(lambda: (forest.trees, forest.branches) == ([], ["main"]))


def test_worktree_with_work_in_it_outlives_its_agent(forest: Forest, client: Client) -> None:
    agent = grown(client, "sh", "-c", "echo more >> file")
    client.agent.wait(id=agent.id)
    client.agent.remove(id=agent.id)

    eventually(lambda: "worktree.kept" in forest.server.log_text())
    assert len(forest.trees) == 1


def test_commits_of_a_removed_agent_are_on_its_branch(forest: Forest, client: Client) -> None:
    agent = grown(client, **{"worktree.branch": "kept"})
    assert agent.spec.cwd is not None
    done = commit(Path(agent.spec.cwd), "done", "done\n")
    client.agent.kill(id=agent.id)
    client.agent.remove(id=agent.id)

    eventually(lambda: forest.trees == [])
    assert git(forest.repo, "rev-parse", "kept") == done
    git(forest.repo, "branch", "-D", "kept")


def test_agent_whose_program_is_not_there_leaves_no_worktree(
    forest: Forest, client: Client
) -> None:
    with pytest.raises(InvalidArgumentError):
        grown(client, "/nowhere")

    eventually(lambda: (forest.trees, forest.branches) == ([], ["main"]))


def test_agent_that_cannot_have_its_worktree_is_not_started(forest: Forest, client: Client) -> None:
    labels = {"worktree": "nothing"}
    with pytest.raises(NotFoundError, match="repo: there is no repository 'nothing'"):
        client.agent.spawn(spec=spec(*SLEEP, labels=labels))
    with pytest.raises(InvalidArgumentError, match="cwd: an agent with the label"):
        client.agent.spawn(spec=spec(*SLEEP, labels={"worktree": "web"}, cwd="/tmp"))

    assert client.agent.list().total == 0


def test_many_agents_at_once_have_a_worktree_each(forest: Forest, client: Client) -> None:
    wanted = [spec(*SLEEP, labels={"worktree": "web"}) for _ in range(12)]

    started = client.batch.spawn(specs=wanted)

    places = {item.agent.spec.cwd for item in started.results if item.agent is not None}
    assert len(places) == 12, started.results


def test_worktrees_of_others_are_not_seen(forest: Forest, client: Client) -> None:
    made = run(client, "create", repo="web")
    with forest.server.client(forest.server.issue("other", "operator")) as other:
        assert run(other, "list") == []
        for action in ("diff", "remove"):
            with pytest.raises(NotFoundError, match="there is no worktree"):
                run(other, action, name=made["name"])


def test_worktree_of_an_agent_is_remembered_over_a_crash(forest: Forest, client: Client) -> None:
    agent = grown(client)
    eventually(lambda: [each["agent"] for each in run(client, "list")] == [agent.id])

    forest.server.crash_and_restart()
    client.agent.kill(id=agent.id)
    client.agent.remove(id=agent.id)

    eventually(lambda: forest.trees == [])


def test_git_that_hangs_starts_no_agent_in_the_wrong_place(tmp_path: Path) -> None:
    made = Forest(spawn_s=0.2)  # type: ignore[arg-type]
    with made.server as server:
        server.start()
        # A fifo in the place of the list of branches is read for ever.
        os.mkfifo(made.repo / ".git" / "packed-refs")
        with server.client() as client:
            with pytest.raises(UnavailableError, match=r"not done in time|not made within"):
                grown(client)
            assert client.agent.list().total == 0
            assert client.server.health().status == "ok"


def test_directory_that_cannot_be_used_keeps_agents_from_starting_however_long() -> None:
    made = Forest()
    (made.root / "trees").touch()
    with made.server as server:
        server.start()
        with server.client() as client:
            for _ in range(12):
                agent = client.agent.wait(id=client.agent.spawn(spec=spec("true")).id)
                client.agent.remove(id=agent.id)
            with pytest.raises(UnavailableError, match="the directory for worktrees cannot be"):
                grown(client)
            (plugin,) = [each for each in client.plugin.list().plugins if each.name == "worktree"]

    assert (plugin.state, plugin.errors) == ("loaded", 0)


def test_worktree_of_a_removed_agent_is_kept_where_that_is_wanted() -> None:
    made = Forest(when_removed="keep")
    with made.server as server:
        server.start()
        with server.client() as client:
            agent = grown(client, "true")
            client.agent.wait(id=agent.id)
            client.agent.remove(id=agent.id)
            (kept,) = run(client, "list")
        assert server.stop() == 0
        assert made.trees == [kept["name"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start agents of another user")
def test_agent_of_another_user_works_and_commits_in_a_group_it_shares() -> None:
    other = pwd.getpwnam("nobody")
    group = grp.getgrgid(other.pw_gid)
    made = Forest(group=group.gr_name)
    with made.server as server:
        server.environ["TMPDIR"] = "/tmp"
        os.chmod(made.root, 0o755)
        git(made.repo, "config", "core.sharedRepository", "group")
        for directory, _, names in os.walk(made.repo / ".git"):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(path, -1, group.gr_gid)
                os.chmod(path, os.stat(path).st_mode | stat.S_IWGRP)
            os.chmod(directory, os.stat(directory).st_mode | stat.S_ISGID)
        server.start()
        script = "umask 002; mkdir new && echo more > new/file && git add . && git commit -qm Work"
        env = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        labels = {"worktree": "web", "worktree.branch": "work"}
        wanted = spec("sh", "-c", script, user="nobody", env=env, labels=labels)
        with server.client() as client:
            agent = client.agent.wait(id=client.agent.spawn(spec=wanted).id)
            said = client.agent.output(id=agent.id, stream="stderr").data
            client.agent.remove(id=agent.id)
        eventually(lambda: made.trees == [])

        assert agent.outcome is not None
        assert agent.outcome.exit_code == 0, said
        assert git(made.repo, "show", "work:new/file") == "more"
