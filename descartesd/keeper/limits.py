"""The limits agents start with: those this process was started with, and those asked for."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from descartesd.errors import InvalidArgumentError, UnimplementedError
from descartesd.keeper import fields, procfs
from descartesd.keeper.cgroup import Groups
from descartesd.keeper.prepare import Step
from descartesd.keeper.users import User

Fds = tuple[int, int, int]
KINDS: Final = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
_OOM_SCORE: Final = "/proc/self/oom_score_adj"
_CPU_PERIOD_US: Final = 100_000
# The controller of each limit that only a control group can hold (cgroups(7)).
_CONTROLLERS: Final = {"memory_bytes": "memory", "cpu_percent": "cpu", "tasks": "pids"}


class Bounds(NamedTuple):
    """What a request asks an agent to be limited to; None where it does not."""

    memory_bytes: int | None
    cpu_percent: int | None
    tasks: int | None
    run_s: float | None
    # Whether to start it without the limits this host cannot enforce.
    is_best_effort: bool


UNBOUNDED: Final = Bounds(None, None, None, None, is_best_effort=False)


class Plan(NamedTuple):
    """How the limits of one agent are enforced."""

    # What to write into the files of its control group.
    group: dict[str, str]
    rlimits: dict[str, int]
    run_s: float | None
    # Which of the limits asked for are real.
    enforced: dict[str, bool]


def read_bounds(request: fields.Fields) -> Bounds:
    """`limits: {memory_bytes, cpu_percent, tasks, run_seconds, best_effort}`, all optional.

    Raises InvalidArgumentError.
    """
    asked = fields.mapping(request, "limits")
    if not asked:
        return UNBOUNDED

    def count(key: str) -> int | None:
        return None if asked.get(key) is None else fields.number(asked, key, least=1)

    return Bounds(
        count("memory_bytes"),
        count("cpu_percent"),
        count("tasks"),
        None if asked.get("run_seconds") is None else fields.seconds(asked, "run_seconds"),
        fields.flag(asked, "best_effort"),
    )


def plan(bounds: Bounds, rlimits: Mapping[str, int], groups: Groups, user: User | None) -> Plan:
    """Decide by what each limit is enforced.

    Raises UnimplementedError for one this host cannot enforce, unless best effort will do.
    """
    made = Plan({}, dict(rlimits), bounds.run_s, {})
    if bounds is not UNBOUNDED:
        _hold(made, bounds, groups, user)
    if "nofile" in rlimits:
        made.enforced["open_files"] = True
    if bounds.run_s is not None:
        made.enforced["run_seconds"] = True
    return made


def _hold(made: Plan, bounds: Bounds, groups: Groups, user: User | None) -> None:
    for name, controller in _CONTROLLERS.items():
        value = getattr(bounds, name)
        if value is None:
            continue
        is_real = controller in groups.controllers
        if is_real:
            made.group.update(_files(name, value))
        elif name == "tasks" and _has_no_task(user):
            # It counts all processes of the uid: a bound of this agent where there is no other.
            made.rlimits["nproc"] = value
            is_real = True
        elif not bounds.is_best_effort:
            raise _cannot(name, controller, groups)
        made.enforced[name] = is_real


def _files(name: str, value: int) -> dict[str, str]:
    if name == "memory_bytes":
        # What does not fit is not swapped out instead, and dies as a whole.
        return {"memory.max": str(value), "memory.swap.max": "0", "memory.oom.group": "1"}
    if name == "cpu_percent":
        return {"cpu.max": f"{value * _CPU_PERIOD_US // 100} {_CPU_PERIOD_US}"}
    return {"pids.max": str(value)}


def _has_no_task(user: User | None) -> bool:
    """Whether nothing runs as this uid, and the kernel heeds RLIMIT_NPROC of it (setrlimit(2))."""
    if user is None or user.uid == 0:
        return False
    return all(procfs.uid(pid) != user.uid for pid in procfs.pids())


def _cannot(name: str, controller: str, groups: Groups) -> UnimplementedError:
    why = (
        f"its control group has no controller '{controller}'"
        if groups
        else "the keeper has no control groups of its own"
    )
    return UnimplementedError(
        f"limits.{name}: this host cannot enforce it: {why}",
        hint="with limits.best_effort (--best-effort) the agent is started without this limit",
    )


class Limits:
    """Raises this process's soft limit of open files to the hard one, for itself alone."""

    def __init__(self) -> None:
        self._inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.descriptors_max = self._inherited[1]
        self._own = (self.descriptors_max, self.descriptors_max)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        first, second, third = (os.dup(self._null) for _ in range(3))
        self._low = first, second, third
        self._is_lent = self._is_low_lent = False
        with open(_OOM_SCORE, encoding="ascii") as file:
            self._resets_oom_score = file.read().strip() != "0"

    @property
    def inherited_files(self) -> int:
        """The soft limit of open files that agents are started with."""
        return self._inherited[0]

    def check(self, rlimits: dict[str, int]) -> None:
        """Refuse limits that do not exist or are over this process's hard limit.

        Raises InvalidArgumentError.
        """
        for name, value in rlimits.items():
            if name not in KINDS:
                raise InvalidArgumentError(
                    f"rlimits: no limit '{name}', expected one of {', '.join(KINDS)}"
                )
            hard = resource.getrlimit(KINDS[name])[1]
            if hard != resource.RLIM_INFINITY and value > hard:
                raise InvalidArgumentError(
                    f"rlimits: {name} {value} is over the keeper's own hard limit of {hard}",
                    hint="raise the limit of the service that runs the keeper",
                )

    def lend(self, rlimits: dict[str, int], fds: Fds) -> Fds:
        """Have a child inherit the soft limit of open files it is to have, until `take_back`.

        That is the one asked for, else the one this process was started with. Lent like this it
        needs no fork, whose cost grows with this process. Until then this process may be unable to
        open anything. Returns these descriptors as numbers below that limit, as posix_spawn(3)
        takes no others.
        """
        lent = self._soft(rlimits)
        if lent == self.descriptors_max:
            return fds
        self._is_low_lent = max(fds) >= lent
        if self._is_low_lent:
            for low, fd in zip(self._low, fds, strict=True):
                os.dup2(fd, low, inheritable=False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lent, self.descriptors_max))
        self._is_lent = True
        return self._low if self._is_low_lent else fds

    def take_back(self) -> None:
        """Have this process's own limit again."""
        if not self._is_lent:
            return
        self._is_lent = False
        resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
        if self._is_low_lent:
            for low in self._low:
                os.dup2(self._null, low, inheritable=False)

    def settle(self, pid: int, rlimits: dict[str, int]) -> None:
        """Bring a child's hard limit of open files down to the soft one it started with.

        Raises PermissionError where its program runs as somebody else (prlimit(2)).
        """
        if "nofile" in rlimits:
            value = rlimits["nofile"]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (value, value))

    def steps(self, rlimits: dict[str, int]) -> list[Step]:
        """What only a child itself can do, between fork and execve(2)."""
        steps: list[Step] = []
        if self._resets_oom_score:
            steps.append(("oom_score_adj", _reset_oom_score))
        if "nproc" in rlimits:
            limits = (rlimits["nproc"], rlimits["nproc"])
            steps.append(("nproc", partial(resource.setrlimit, resource.RLIMIT_NPROC, limits)))
        return steps

    def files_step(self, rlimits: dict[str, int]) -> Step:
        """What `lend` and `settle` do, for a child that is forked.

        It may be unable to open anything from then on.
        """
        soft = self._soft(rlimits)
        hard = soft if "nofile" in rlimits else self.descriptors_max
        return "nofile", partial(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def _soft(self, rlimits: dict[str, int]) -> int:
        return rlimits.get("nofile", self._inherited[0])


def _reset_oom_score() -> None:
    with open(_OOM_SCORE, "wb", buffering=0) as file:
        file.write(b"0")
