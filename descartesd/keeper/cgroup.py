"""The control groups of agents (cgroups(7), version 2), where this keeper owns a subtree."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Mapping
from typing import Any, Final

CONTROLLERS: Final = ("memory", "cpu", "pids")
_KEEPER: Final = "keeper"
_PREFIX: Final = "agent-"
_DELAY_MIN_S: Final = 0.01
_DELAY_MAX_S: Final = 30.0
# Of a directory without others in it: its name, and its own '.'.
_LINKS_ALONE: Final = 2


class Group:
    """The group of one attempt of an agent."""

    __slots__ = ("_name", "_path")

    def __init__(self, path: str, name: str) -> None:
        """`path` is its directory, `name` how /proc/PID/cgroup calls it."""
        self._path = path
        self._name = name

    def set(self, values: Mapping[str, str]) -> None:
        """Write to its files; one that this kernel does not have is left out.

        Raises OSError where the kernel refuses.
        """
        for name, value in values.items():
            path = os.path.join(self._path, name)
            if os.path.exists(path):
                _write(path, value)

    def open(self) -> int:
        """A descriptor by which a process joins when it writes `0` to it.

        Raises OSError.
        """
        return os.open(os.path.join(self._path, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)

    def freeze(self) -> bool:
        """Begin to stop every process of it; False where the kernel refuses."""
        return self._try("cgroup.freeze", "1")

    def thaw(self) -> bool:
        """Let every process of it go on; False where the kernel refuses."""
        return self._try("cgroup.freeze", "0")

    def kill(self) -> bool:
        """Kill every process of it, frozen ones too, and none can fork out of reach.

        False where the kernel refuses.
        """
        return self._try("cgroup.kill", "1")

    def _try(self, name: str, value: str) -> bool:
        try:
            self.set({name: value})
        except OSError:
            return False
        return True

    @property
    def is_frozen(self) -> bool:
        """Whether every process of it stands still."""
        return self.counts("cgroup.events").get("frozen") == 1

    @property
    def is_populated(self) -> bool:
        """Whether a living process is in it."""
        return self.counts("cgroup.events").get("populated") == 1

    @property
    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        return self.counts("memory.events").get("oom_kill", 0)

    def counts(self, name: str) -> dict[str, int]:
        """A file of names and numbers; empty where there is none."""
        pairs = (line.split() for line in _read(os.path.join(self._path, name)).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs}

    def count(self, name: str) -> int | None:
        """A file of one number; None where there is none."""
        text = _read(os.path.join(self._path, name))
        return int(text) if text else None

    def pids(self) -> list[int]:
        """The processes in it, those of groups made below it too."""
        return [int(pid) for path in _groups(self._path) for pid in _procs(path)]

    def has(self, pid: int) -> bool:
        """Whether a process is in it, or in a group below it."""
        return f"{_own_name(pid)}/".startswith(f"{self._name}/")

    def remove(self) -> bool:
        """Remove it with what was made below it; False while somebody is in it."""
        for path in sorted(_groups(self._path), key=len, reverse=True):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


class Groups:
    """The subtree: `keeper/` for this process, and a group for each agent."""

    def __init__(self, path: str | None = None, name: str = "") -> None:
        """`path` is its directory, `name` how /proc/PID/cgroup calls it; None: there is none."""
        self._path = path
        self._name = name.rstrip("/")
        self.controllers: frozenset[str] = frozenset()
        # How many processes an earlier keeper had left, killed by now, and in which groups.
        self.ended = 0
        self.left: list[Group] = []

    def __bool__(self) -> bool:
        return self._path is not None

    def claim(self) -> None:
        """Move this process out of the way, kill what is left of others, enable controllers.

        Raises OSError.
        """
        if self._path is None:
            return
        own = os.path.join(self._path, _KEEPER)
        os.makedirs(own, exist_ok=True)
        _write(os.path.join(own, "cgroup.procs"), str(os.getpid()))
        for name in os.listdir(self._path):
            if name.startswith(_PREFIX):
                left = self._group(name)
                self.ended += len(left.pids())
                left.kill()
                self.left.append(left)
        subtree = os.path.join(self._path, "cgroup.subtree_control")
        for controller in CONTROLLERS:
            try:
                _write(subtree, f"+{controller}")
            except OSError:
                # Not there, or in use by threads that cannot be moved: limits tell of it.
                continue
        self.controllers = frozenset(_read(subtree).split())

    def state(self) -> dict[str, Any]:
        """What `restored` needs."""
        return {
            "path": self._path,
            "name": self._name,
            "controllers": sorted(self.controllers),
            "ended": self.ended,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Groups:
        """The subtree another program of this process has claimed."""
        made = cls(state["path"], state["name"])
        made.controllers = frozenset(state["controllers"])
        made.ended = state["ended"]
        return made

    def find(self, agent_id: str, attempt: int) -> Group:
        """The group of an attempt that was made before."""
        return self._group(f"{_PREFIX}{agent_id}.{attempt}")

    def others(self, known: Collection[tuple[str, int]]) -> list[Group]:
        """The groups there are beside those of these attempts: nobody needs them any more."""
        if self._path is None:
            return []
        names = {f"{_PREFIX}{agent_id}.{attempt}" for agent_id, attempt in known}
        try:
            there = {name for name in os.listdir(self._path) if name.startswith(_PREFIX)}
        except OSError:
            # They go with the service.
            return []
        return [self._group(name) for name in sorted(there - names)]

    def make(self, agent_id: str, attempt: int, values: Mapping[str, str]) -> Group:
        """A group for one attempt, without processes, these values set.

        Raises OSError.
        """
        name = f"{_PREFIX}{agent_id}.{attempt}"
        group = self._group(name)
        try:
            os.mkdir(os.path.join(self._path or "", name))
        except FileExistsError:
            # A start that failed has left it: what is put into a frozen group never runs.
            group.thaw()
        try:
            group.set(values)
        except OSError:
            group.remove()
            raise
        return group

    def agent_of(self, pid: int) -> str | None:
        """The id of the agent in whose group a process is."""
        if self._path is None:
            return None
        name, prefix = _own_name(pid), f"{self._name}/{_PREFIX}"
        if not name.startswith(prefix):
            return None
        return name[len(prefix) :].partition("/")[0].partition(".")[0]

    def _group(self, name: str) -> Group:
        return Group(os.path.join(self._path or "", name), f"{self._name}/{name}")


def remove_when_empty(group: Group) -> Generator[float, None, None]:
    """Steps that remove a group once nobody is in it."""
    delay_s = _DELAY_MIN_S
    while not group.remove():
        yield delay_s
        delay_s = min(2 * delay_s, _DELAY_MAX_S)


def find_groups() -> Groups:
    """The subtree of the group this process is in, if it was made for this process alone.

    A group shared with others belongs to somebody else; the root of all has no limits and cannot
    be left; before Linux 5.14 there is no `cgroup.kill`.
    """
    name = _own_name(os.getpid())
    path = _path_of(name)
    if path is None or _procs(path) != [str(os.getpid())] or _procs(f"{path}/{_KEEPER}"):
        return Groups()
    # What a delegated group is given away with; its own limits and its end stay its maker's.
    ours = (".", "cgroup.procs", "cgroup.subtree_control")
    if not all(os.access(os.path.join(path, each), os.W_OK) for each in ours):
        return Groups()
    if not os.path.exists(os.path.join(path, "cgroup.kill")):
        return Groups()
    is_domain = _read(os.path.join(path, "cgroup.type")).startswith("domain")
    return Groups(path, name) if is_domain else Groups()


def _own_name(pid: int) -> str:
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def _path_of(name: str) -> str | None:
    """Where a group of this name is mounted; proc(5), mountinfo."""
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, mount_point = fields.split()[3:5]
            if name.startswith(root) and "/.." not in name:
                return os.path.join(mount_point, name[len(root) :].lstrip("/")).rstrip("/")
    return None


def _groups(path: str) -> list[str]:
    """A group and those below it."""
    try:
        if os.stat(path).st_nlink == _LINKS_ALONE:
            return [path]
    except OSError:
        return []
    return [directory for directory, _, _ in os.walk(path)]


def _procs(path: str) -> list[str]:
    return _read(os.path.join(path, "cgroup.procs")).split()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
