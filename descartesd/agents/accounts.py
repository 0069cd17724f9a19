"""Under which account of the host an agent runs."""

from __future__ import annotations

import functools
import os
import pwd
from typing import Any

from descartesd.errors import InvalidArgumentError, PermissionDeniedError, StartupRefusedError

_LOCAL = "uid:"


@functools.cache
def own_account() -> pwd.struct_passwd:
    """The account this process runs under, as it was when first asked for."""
    return _by_uid(os.getuid(), os.getgid())


def account_of_agents(user: str) -> pwd.struct_passwd:
    """The account of server.runner.user, the server's own where it names none.

    Raises StartupRefusedError for a user that does not exist, or that no agent may be.
    """
    if not user:
        return own_account()
    try:
        account = _named(user)
    except InvalidArgumentError as exc:
        raise StartupRefusedError(
            f"server.runner.user: this host has no user '{user}'", hint=exc.hint
        ) from exc
    if account.pw_uid in (0, os.getuid()):
        raise StartupRefusedError(
            f"server.runner.user: agents are not to run as '{account.pw_name}'",
            hint="give them an account of their own, or leave it out",
        )
    return account


def account_for(
    user: str | None, owner: str, shared: pwd.struct_passwd | None = None
) -> pwd.struct_passwd:
    """The account of an agent: the one asked for, else a local owner's own, else the shared one.

    Where `shared` is the server's own account, only a server of root can start programs as others,
    and a local user gets no account but its own. Otherwise the keeper can, and who may ask for
    which is the policy's to say: none gets the server's own, and root's only by its name.
    Raises InvalidArgumentError for a user that does not exist, PermissionDeniedError.
    """
    own = own_account()
    shared = shared or own
    is_apart = shared.pw_uid != own.pw_uid
    theirs = shared
    if (is_apart or own.pw_uid == 0) and owner.startswith(_LOCAL):
        uid = int(owner.removeprefix(_LOCAL))
        if uid not in (0, own.pw_uid):
            theirs = _by_uid(uid, uid)
    if user is None:
        return theirs
    wanted = _named(user)
    if is_apart:
        if wanted.pw_uid == own.pw_uid:
            raise PermissionDeniedError(
                f"spec.user: '{user}' is the server's own account, and no agent's",
                hint="leave the user out",
            )
    elif theirs.pw_uid not in (0, wanted.pw_uid):
        whose = "this server runs as" if theirs is own else "the local user is"
        raise PermissionDeniedError(
            f"spec.user: {whose} '{theirs.pw_name}', and starts nothing as '{user}'",
            hint="leave the user out, or have root ask a server of root for it",
        )
    return wanted


def keeper_fields(account: pwd.struct_passwd) -> dict[str, Any]:
    """What the keeper is told of an account other than the server's own."""
    if account.pw_uid == own_account().pw_uid:
        return {}
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": {"uid": account.pw_uid, "gid": account.pw_gid, "groups": groups}}


def _named(user: str) -> pwd.struct_passwd:
    try:
        return (
            pwd.getpwuid(int(user)) if user.isascii() and user.isdecimal() else pwd.getpwnam(user)
        )
    except (KeyError, OverflowError):
        raise InvalidArgumentError(
            f"spec.user: this host has no user '{user}'", hint="see them with: getent passwd"
        ) from None


def _by_uid(uid: int, gid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        # A container may run under a uid nobody has told it of.
        return pwd.struct_passwd((str(uid), "x", uid, gid, "", "/", "/bin/sh"))
