"""What time it is, for certificates: a clock that no jump of the host's can make lie at once.

It runs with the time since boot, and follows the host's clock in small steps only. Where that is
behind what was seen before it goes on from there, so that nothing that had ended begins anew.
Where that has jumped ahead it is not believed for a while, in which somebody can put it right,
before everybody's certificate has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from descartesd.errors import DescartesError
from descartesd.keys.files import replace_secret

# A difference up to this is a correction, a greater one a jump.
JUMP_S = 3600.0
# So long a clock that has jumped ahead is not believed.
HOLD_S = 600.0
# A server may have been away for long; for longer than this it is worth a word.
_AWAY_S = 30 * 86_400.0
_KEEP_EVERY_S = 1800.0
_DAY_S = 86_400


# Seconds since boot, those asleep included. It is asked for every request.
since_boot: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class SteadyClock:
    """Call it for the time. What was seen last stands in the file `path`, for the next start."""

    def __init__(
        self,
        path: str,
        *,
        host: Callable[[], float] = time.time,
        steady: Callable[[], float] = since_boot,
    ) -> None:
        # What is wrong with the host's clock, for people.
        self.problem: str | None = None
        self._path = path
        self._host = host
        self._steady = steady
        self._keep_at = 0.0
        self._jumped_at: float | None = None
        self._offset = self._started(host()) - steady()

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self._offset + self._steady()

    def tick(self) -> None:
        """Compare with the host's clock; to be called about once a second."""
        ahead = self._host() - self()
        if ahead > JUMP_S:
            self._judge_jump(ahead)
        elif ahead < -JUMP_S:
            self._jumped_at = None
            self.problem = (
                f"the host's clock is {_span(-ahead)} behind what it was: certificates are judged"
                f" by the later time; if that was wrong, remove '{self._path}' and restart"
            )
        else:
            self._jumped_at, self.problem = None, None
            self._offset += ahead
        if self._steady() >= self._keep_at:
            self._keep()

    def _judge_jump(self, ahead: float) -> None:
        now = self._steady()
        if self._jumped_at is None:
            self._jumped_at = now
        left = self._jumped_at + HOLD_S - now
        if left <= 0:
            self._jumped_at, self.problem = None, None
            self._offset += ahead
            return
        self.problem = (
            f"the host's clock has jumped ahead by {_span(ahead)}: certificates are judged by it"
            f" in {left:.0f} s, unless it is put right"
        )

    def _started(self, host: float) -> float:
        try:
            with open(self._path, encoding="ascii") as file:
                last = float(file.read(32))
        except (OSError, ValueError):
            return host
        if host - last > _AWAY_S:
            self.problem = f"the host's clock is {_span(host - last)} ahead of what was seen last"
        return last if last - host > JUMP_S else host

    def _keep(self) -> None:
        self._keep_at = self._steady() + _KEEP_EVERY_S
        try:
            replace_secret(self._path, f"{self():.0f}\n".encode())
        except DescartesError:
            # Health tells of a directory that cannot be written.
            return


def _span(seconds: float) -> str:
    days = seconds / _DAY_S
    return f"{days:.0f} days" if days >= 2 else f"{seconds / 3600:.1f} hours"


def clock_file(state_dir: str) -> str:
    """Where a server notes the time it has seen."""
    return os.path.join(state_dir, "clock")
