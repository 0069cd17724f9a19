"""The accounts agents run under, and work done as one of them in a forked helper.

This process never changes its own effective uid: that would make it undumpable, and every file of
it under /proc somebody else's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

import msgpack

from descartesd.errors import DescartesError, PermissionDeniedError, from_wire
from descartesd.keeper import fields, kernel

_ID_MAX: Final = 2**32 - 2
_NEEDED: Final = {"chown": 0, "kill": 5, "setgid": 6, "setuid": 7}  # capabilities(7)


class User(NamedTuple):
    """Somebody else than this process runs as."""

    uid: int
    gid: int
    groups: list[int]


class Users:
    """Knows who this process is, and whether it may start programs as others."""

    def __init__(self, daemon_uid: int | None = None) -> None:
        self.uid = os.getuid()
        # Where the daemon is another user than this process, no agent is either of the two.
        self._daemon_uid = daemon_uid
        self.may_change = may_change()

    def read(self, request: fields.Fields) -> User | None:
        """`user: {uid, gid, groups}`; None for this process's own account.

        Raises InvalidArgumentError, and PermissionDeniedError for one it may not start.
        """
        asked = fields.mapping(request, "user")
        if self._daemon_uid not in (None, self.uid):
            self._refuse_servers(asked)
        if not asked:
            return None
        uid = fields.number(asked, "uid", most=_ID_MAX)
        gid = fields.number(asked, "gid", most=_ID_MAX)
        if uid == self.uid:
            return None
        if not self.may_change:
            raise PermissionDeniedError(
                f"user of uid {uid}: this keeper is uid {self.uid} and starts nothing as another",
                hint="it needs the capabilities chown, kill, setgid and setuid, or to be root",
            )
        return User(uid, gid, fields.numbers(asked, "groups", most=_ID_MAX))

    def _refuse_servers(self, asked: fields.Fields) -> None:
        uid = fields.number(asked, "uid", most=_ID_MAX) if asked else self.uid
        if uid in (self.uid, self._daemon_uid):
            raise PermissionDeniedError(
                f"user of uid {uid}: it is the server's own account, and no agent's",
                hint="set server.runner.user to an account for agents, or name one in the spec",
            )


def become(user: User) -> None:
    """Change this process for good: groups, then gid, then uid, and no capability is left.

    The kernel takes capabilities from who leaves uid 0 only. Raises OSError.
    """
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    kernel.drop_capabilities()


def do_as(user: User, work: Callable[[], Any]) -> Any:
    """Do something short as somebody else, and return what it returns.

    Raises the DescartesError or OSError it raised.
    """
    reader, writer = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _answer(writer, user, work)
    finally:
        os.close(writer)
    try:
        answer = _read_all(reader)
    finally:
        os.close(reader)
        # Our own child, waited for at once: nobody else reaps it.
        os.waitpid(pid, 0)
    told: dict[str, Any] = msgpack.unpackb(answer) if answer else {"errno": 0, "filename": None}
    if "errno" in told:
        raise OSError(told["errno"], os.strerror(told["errno"]), told["filename"])
    if "code" in told:
        raise from_wire(told["code"], told["message"], hint=told["hint"])
    return told["value"]


def begin_as(user: User | None, work: Callable[[], None]) -> int:
    """Begin something long as somebody else, or as this process; the pid of the helper.

    Its exit status is 0 when the work was done. Raises OSError.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _let_go()
            if user is not None:
                become(user)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def _let_go() -> None:
    """Have nobody wait for the end of a pipe or a socket of this process as long as that works."""
    signal.set_wakeup_fd(-1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _answer(writer: int, user: User, work: Callable[[], Any]) -> NoReturn:
    try:
        os.write(writer, msgpack.packb(_attempt(user, work)))
    finally:
        os._exit(0)


def _attempt(user: User, work: Callable[[], Any]) -> dict[str, Any]:
    try:
        become(user)
        return {"value": work()}
    except OSError as exc:
        return {"errno": exc.errno or 0, "filename": exc.filename}
    except DescartesError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}


def _read_all(reader: int) -> bytes:
    parts = []
    while part := os.read(reader, 65536):
        parts.append(part)
    return b"".join(parts)


def may_change() -> bool:
    """Whether this process has what it needs to become somebody else."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        line = next(line for line in file if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return all(effective >> number & 1 for number in _NEEDED.values())
