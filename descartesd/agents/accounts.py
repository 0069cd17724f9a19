"""Under which account of the host an agent runs."""

from __future__ import annotations

import functools
import os
import pwd
from typing import Any

from descartesd.errors import InvalidArgumentError, PermissionDeniedError

_LOCAL = "uid:"


@functools.cache
def own_account() -> pwd.struct_passwd:
    """The account this process runs under, as it was when first asked for."""
    return _by_uid(os.getuid(), os.getgid())


def account_for(user: str | None, owner: str) -> pwd.struct_passwd:
    """The account of an agent: the one asked for, else a local owner's own, else the server's.

    Only a server of root can start programs as others: elsewhere every agent is the server's. There
    a local user gets no account but its own.
    Raises InvalidArgumentError for a user that does not exist, PermissionDeniedError.
    """
    own = own_account()
    theirs = own
    if own.pw_uid == 0 and owner.startswith(_LOCAL):
        uid = int(owner.removeprefix(_LOCAL))
        theirs = own if uid == own.pw_uid else _by_uid(uid, uid)
    if user is None:
        return theirs
    wanted = _named(user)
    if theirs.pw_uid not in (0, wanted.pw_uid):
        whose = "this server runs as" if theirs is own else "the local user is"
        raise PermissionDeniedError(
            f"spec.user: {whose} '{theirs.pw_name}', and starts nothing as '{user}'",
            hint="leave the user out, or have root ask a server of root for it",
        )
    return wanted


def keeper_fields(account: pwd.struct_passwd) -> dict[str, Any]:
    """What the keeper is told of an account other than the server's own."""
    if account.pw_uid == os.getuid():
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
