"""Accounts: who an agent runs as, and what the keeper is told of it."""

from __future__ import annotations

import os
import pwd

import pytest

from descartesd.agents.accounts import account_for, account_of_agents, keeper_fields, own_account
from descartesd.errors import InvalidArgumentError, PermissionDeniedError, StartupRefusedError

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may start agents as others")
needs_another = pytest.mark.skipif(os.getuid() == 0, reason="root may start agents as anybody")


def test_agent_is_the_servers_own_by_default() -> None:
    account = account_for(None, "key:SHA256:abc")

    assert account.pw_uid == os.getuid()
    assert keeper_fields(account) == {}


def test_own_account_can_be_named_by_anybody() -> None:
    own = own_account()

    assert account_for(own.pw_name, "key:SHA256:abc").pw_uid == os.getuid()
    assert account_for(str(os.getuid()), "key:SHA256:abc").pw_uid == os.getuid()


def test_unknown_user_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidArgumentError, match="this host has no user 'nobody-at-all'"):
        account_for("nobody-at-all", "uid:0")
    with pytest.raises(InvalidArgumentError, match="this host has no user '99999999999999999999'"):
        account_for("9" * 20, "uid:0")


@needs_root
def test_local_owner_of_a_server_of_root_keeps_its_uid() -> None:
    account = account_for(None, "uid:54321")

    assert (account.pw_uid, account.pw_gid, account.pw_dir) == (54321, 54321, "/")
    assert keeper_fields(account) == {"user": {"uid": 54321, "gid": 54321, "groups": [54321]}}
    assert account_for(None, "uid:0").pw_uid == 0


@needs_root
def test_server_of_root_takes_the_user_asked_for() -> None:
    nobody = pwd.getpwnam("nobody")
    account = account_for("nobody", "uid:0")

    assert account == account_for("nobody", "key:SHA256:abc") == nobody
    told = keeper_fields(account)["user"]
    assert (told["uid"], told["gid"]) == (nobody.pw_uid, nobody.pw_gid)


@needs_root
def test_local_user_of_a_server_of_root_gets_no_other_account() -> None:
    assert account_for("nobody", f"uid:{pwd.getpwnam('nobody').pw_uid}")
    for user in ("root", "nobody"):
        with pytest.raises(PermissionDeniedError, match=f"starts nothing as '{user}'"):
            account_for(user, "uid:54321")


@needs_another
def test_other_user_is_refused_where_the_server_is_not_root() -> None:
    with pytest.raises(PermissionDeniedError, match="starts nothing as 'root'"):
        account_for("root", f"uid:{os.getuid()}")


@pytest.fixture
def shared() -> pwd.struct_passwd:
    """The account of agents of a server whose keeper is another user than it is."""
    name = "daemon" if os.getuid() == 0 else "nobody"
    return pwd.getpwnam(name)


def test_agents_of_a_service_are_the_local_owner_or_the_shared_account(
    shared: pwd.struct_passwd,
) -> None:
    for owner in ("key:SHA256:abc", "uid:0", f"uid:{os.getuid()}"):
        assert account_for(None, owner, shared) == shared
    assert account_for(None, "uid:54321", shared).pw_uid == 54321
    assert account_for("games", "uid:54321", shared).pw_name == "games"


def test_no_agent_of_a_service_is_the_server_itself(shared: pwd.struct_passwd) -> None:
    with pytest.raises(PermissionDeniedError, match="the server's own account"):
        account_for(own_account().pw_name, "uid:0", shared)
    with pytest.raises(StartupRefusedError, match="agents are not to run as"):
        account_of_agents(own_account().pw_name)
    with pytest.raises(StartupRefusedError, match="has no user 'nobody-at-all'"):
        account_of_agents("nobody-at-all")
