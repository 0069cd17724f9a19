"""Which agent a process names in its environment, also where its own user alone may read that."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

from descartesd.keeper import procfs
from descartesd.keeper.procfs import Process
from descartesd.keeper.users import User, do_as, may_change

# Of one helper; a storm of orphans is looked through in several.
_AT_ONCE: Final = 256


class Name(NamedTuple):
    """The id; None for none, and then whether it may only not show it yet (execve(2))."""

    agent_id: str | None
    is_unclear: bool


_NONE: Final = Name(None, is_unclear=False)


class Named:
    """Reads what processes name.

    Each process of another user costs a helper's time only once.
    """

    def __init__(self) -> None:
        self._may_ask = may_change()
        self._known: dict[tuple[int, int], Name] = {}

    def names(self, processes: list[Process]) -> Iterable[tuple[Process, Name]]:
        """What each of them names."""
        found = {process.pid: _read(process.pid) for process in processes}
        if self._may_ask:
            self._forget_all_but(processes)
            self._ask([each for each in processes if not found[each.pid].agent_id])
        for process in processes:
            name = self._known.get((process.pid, process.start_time), found[process.pid])
            yield process, name

    def _forget_all_but(self, processes: list[Process]) -> None:
        identities = {(process.pid, process.start_time) for process in processes}
        self._known = {each: name for each, name in self._known.items() if each in identities}

    def _ask(self, processes: list[Process]) -> None:
        asked: dict[tuple[int, int], list[Process]] = {}
        for process in processes:
            is_known = (process.pid, process.start_time) in self._known
            if is_known or process.is_gone or not procfs.hides_environment(process.pid):
                continue
            owner = procfs.owner(process.pid)
            # What has changed its user shows its environment to neither; nobody becomes root here.
            if owner is not None and owner[0] != 0:
                asked.setdefault(owner, []).append(process)
        for (uid, gid), theirs in asked.items():
            for at in range(0, len(theirs), _AT_ONCE):
                self._ask_as(User(uid, gid, []), theirs[at : at + _AT_ONCE])

    def _ask_as(self, user: User, processes: list[Process]) -> None:
        try:
            told = do_as(user, partial(_read_all, [process.pid for process in processes]))
        except OSError:
            # No process to be had: they are asked again when they are next looked for.
            return
        for process, (agent_id, is_unclear) in zip(processes, told, strict=True):
            if not is_unclear:
                self._known[process.pid, process.start_time] = Name(agent_id, is_unclear=False)


def _read_all(pids: list[int]) -> list[Name]:
    return [_read(pid) for pid in pids]


def _read(pid: int) -> Name:
    agent_id = procfs.agent_id(pid)
    if agent_id is not None:
        return Name(agent_id, is_unclear=False)
    return Name(None, is_unclear=True) if procfs.is_beginning(pid) else _NONE
