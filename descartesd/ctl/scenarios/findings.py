"""What a scenario did and what it found: every check is one that can fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

from descartesd.errors import DescartesError

T = TypeVar("T")
_PATIENCE_S = 10.0
_POLL_S = 0.01


class CheckError(Exception):
    """Something is not as it must be."""


class Check(NamedTuple):
    """What must hold, whether it did, and where it did not what was found instead."""

    sentence: str
    ok: bool
    found: str = ""

    def item(self) -> dict[str, Any]:
        """The check as JSON has it."""
        item: dict[str, Any] = {"check": self.sentence, "ok": self.ok}
        return item if self.ok else {**item, "found": self.found}


class Findings:
    """The notes of one scenario: `shown` for the reader, `checks` in the order they were made."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.checks: list[Check] = []

    def show(self, sentence: str) -> None:
        """Note in a sentence what a step has shown, once its checks have held."""
        self.shown.append(sentence)

    def check(self, holds: bool, sentence: str, found: object = "it is not so") -> None:
        """Note what must hold; raises CheckError unless it does."""
        if not holds:
            self.fail(sentence, found)
        self.checks.append(Check(sentence, ok=True))

    def fail(self, sentence: str, found: object) -> NoReturn:
        """Note what does not hold, and what was found instead; raises CheckError."""
        self.checks.append(Check(sentence, ok=False, found=str(found)))
        raise CheckError(f"{sentence}: {found}")

    def same(self, found: object, expected: object, sentence: str) -> None:
        """Note that two values must be equal; raises CheckError unless they are."""
        self.check(found == expected, sentence, f"expected {expected!r}, found {found!r}")

    def until(self, probe: Callable[[], T], sentence: str, within_s: float = _PATIENCE_S) -> T:
        """Ask until the answer is true, and return it; raises CheckError when it never is."""
        deadline = time.monotonic() + within_s
        while not (answer := probe()):
            if time.monotonic() > deadline:
                self.fail(sentence, f"not within {within_s:g} s, but {answer!r}")
            time.sleep(_POLL_S)
        self.checks.append(Check(sentence, ok=True))
        return answer

    def refused(self, request: Callable[[], object], code: str, sentence: str) -> DescartesError:
        """Make a request that must be refused with this code; the refusal."""
        try:
            answer = request()
        except DescartesError as refusal:
            self.check(refusal.code == code, sentence, f"{refusal.code}: {refusal.message}")
            return refusal
        else:
            self.fail(sentence, f"it was answered with {answer!r}")

    def broke(self, cause: Exception) -> None:
        """Note what ended the scenario, unless that was a check noted already."""
        if not self.checks or self.checks[-1].ok:
            self.checks.append(Check("the scenario runs to its end", ok=False, found=str(cause)))
