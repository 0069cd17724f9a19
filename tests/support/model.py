"""What may be true of one agent, as far as the answers of its server tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from descartesd.agents.lifecycle import ENDED
from descartesd.wire.agent import State

Verb = Literal["get", "pause", "resume", "stop", "kill", "signal", "respawn", "remove"]
Place = State | Literal["gone"]
# What is said to a verb: the state it left behind, or why it was refused.
Answer = Place | Literal["conflict", "not_found"]

_ALIVE: dict[Place, Place] = {"running": "running", "paused": "paused"}
_ENDED: dict[Place, Place] = {state: state for state in sorted(ENDED)}
_WAITING: dict[Place, Place] = {"queued": "queued", "backoff": "backoff"}
_ENDS_BY_US: dict[Place, Place] = dict.fromkeys((*_WAITING, *_ALIVE), "terminated")
# Where each verb leads from each state; from one that is missing it is refused.
LEADS: dict[Verb, dict[Place, Place]] = {
    "get": _WAITING | _ALIVE | _ENDED,
    "pause": dict.fromkeys(_ALIVE, "paused"),
    "resume": dict.fromkeys(_ALIVE, "running"),
    "stop": _ENDS_BY_US | _ENDED,
    "kill": _ENDS_BY_US | _ENDED,
    "signal": _ALIVE,
    "respawn": dict.fromkeys(_ENDED, "queued"),
    "remove": dict.fromkeys(_ENDED, "gone"),
}


@dataclass(slots=True, eq=False)
class Model:
    """An agent whose program, left to run, ends in one of the states `ends`.

    One that restarts does so a few times before. One that is queued may have its turn any time.
    """

    id: str
    kind: str
    ends: frozenset[State] = frozenset()
    # A deadly signal is on its way: paused or not, it fails.
    is_doomed: bool = False
    restarts: bool = False
    # How an attempt of one that restarts ends, if a person asks for its end just then.
    last: frozenset[State] = frozenset()
    attempts: int = 1
    may_be: set[Place] = field(default_factory=lambda: {"running"})

    def now(self, since: Iterable[Place] | None = None) -> set[Place]:
        """Where it may be by now, having been in one of `since`."""
        found = set(self.may_be if since is None else since)
        if self.is_doomed and found & (_WAITING | _ALIVE).keys():
            found.add("backoff" if self.restarts else "failed")
        if found & _WAITING.keys():
            found.add("running")
        if "running" in found:
            found |= self.ends
            if self.restarts:
                found.add("backoff")
        return found

    def outcomes(self, verb: Verb) -> dict[Answer, set[Place]]:
        """What may be answered, and where the agent may be then."""
        found: dict[Answer, set[Place]] = {}
        for state in self.now():
            if state in LEADS[verb]:
                for then in self.now([LEADS[verb][state]]):
                    found.setdefault(then, set()).add(then)
                if state == "running" and verb in ("stop", "kill"):
                    for then in self.last:
                        found.setdefault(then, set()).add(then)
            else:
                found.setdefault("not_found" if state == "gone" else "conflict", set()).add(state)
        return found

    def told(self, verb: Verb, answer: Answer) -> None:
        """Believe an answer, if there can be such a one."""
        outcomes = self.outcomes(verb)
        assert answer in outcomes, (
            f"{verb} of '{self.kind}' {self.id}: {answer}, not {sorted(outcomes)}"
        )
        self.may_be = outcomes[answer]

    def heard_nothing(self, verb: Verb) -> None:
        """The verb was begun, and nobody knows how far it came."""
        self.may_be = self.now().union(*self.outcomes(verb).values())

    def lost(self) -> None:
        """The keeper has died, and whatever ran with it."""
        found = self.now()
        self.may_be = found - _ALIVE.keys()
        if found & _ALIVE.keys():
            self.may_be.add("backoff" if self.restarts else "lost")
        self.is_doomed = False
