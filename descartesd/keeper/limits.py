"""The limits agents start with: those this process was started with, and those asked for."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from descartesd.errors import InvalidArgumentError

KINDS: Final = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
SPARES: Final = 4
_OOM_SCORE: Final = "/proc/self/oom_score_adj"


class Limits:
    """Raises this process's soft limit of open files to the hard one, for itself alone."""

    def __init__(self) -> None:
        self._inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.descriptors_max = self._inherited[1]
        self._own = (self.descriptors_max, self.descriptors_max)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
        with open(_OOM_SCORE, encoding="ascii") as file:
            self._resets_oom_score = file.read().strip() != "0"
        self._spares: list[int] = []
        self._take_spares()

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

    @contextmanager
    def passed_on(self, rlimits: dict[str, int]) -> Iterator[None]:
        """Have a child started inside inherit the soft limit of open files it is to have.

        That is the one asked for, else the one this process was started with. Lent like this it
        needs no fork, whose cost grows with this process.
        """
        lent = (rlimits.get("nofile", self._inherited[0]), self._own[1])
        if lent == self._own:
            yield
            return
        # Only low numbers can be opened under the lower limit: the spares leave some.
        while self._spares:
            os.close(self._spares.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, lent)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
            self._take_spares()

    def settle(self, pid: int, rlimits: dict[str, int]) -> None:
        """Bring a child's hard limit of open files down to the soft one it started with.

        Raises PermissionError where its program runs as somebody else (prlimit(2)).
        """
        if "nofile" in rlimits:
            value = rlimits["nofile"]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (value, value))

    def preparation(self, rlimits: dict[str, int]) -> Callable[[], None] | None:
        """What a child has to do between fork and execve(2); None where that is nothing."""
        wanted = [
            (KINDS[name], (value, value)) for name, value in rlimits.items() if name != "nofile"
        ]
        if not wanted and not self._resets_oom_score:
            return None
        oom_score = _OOM_SCORE if self._resets_oom_score else None

        def prepare() -> None:
            for kind, pair in wanted:
                resource.setrlimit(kind, pair)
            if oom_score is not None:
                with open(oom_score, "wb", buffering=0) as file:
                    file.write(b"0")

        return prepare

    def _take_spares(self) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._spares.extend(os.open("/dev/null", flags) for _ in range(SPARES))
