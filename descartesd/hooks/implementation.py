"""One plugin's function for one hook, and calling it so that only it suffers from what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from descartesd.errors import DescartesError
from descartesd.hooks.checks import SPECS
from descartesd.hooks.record import PluginRecord, kind_of, named, now_ns
from descartesd.hooks.threads import Threads
from descartesd.hooks.within import CAUGHT, TooLateError, within

# What a plugin that hangs may hold at once; further questions to it wait, and fail in time.
_MOST_THREADS = 16


class PluginFault(Exception):  # noqa: N818  # it names the fault of another
    """Why an implementation gave no answer; it has been logged and counted."""


class Implementation:
    """A function of a plugin, called with the parameters it names."""

    def __init__(self, record: PluginRecord, hook: str, function: Callable[..., Any]) -> None:
        self.record = record
        self.hook = hook
        self.is_async = inspect.iscoroutinefunction(function)
        self._function = function
        self._wants = [
            name
            for name in inspect.signature(function).parameters
            if name in SPECS[hook].parameters
        ]
        self._threads = Threads(_MOST_THREADS)

    def bound(self, given: Mapping[str, Any]) -> Callable[[], Any]:
        """The call, ready to be made."""
        wanted = {name: given[name] for name in self._wants}
        return lambda: self._function(**wanted)

    def tell(self, given: Mapping[str, Any], is_waited_for: Callable[[], bool]) -> None:
        """Call it in this thread, with a fact; when nobody waits any more it is not noted."""
        began_ns = now_ns()
        fault: str | None = None
        cause: BaseException | None = None
        try:
            answer = self.bound(given)()
            fault = _junk(answer)
        except BaseException as exc:  # noqa: BLE001  # the boundary: the plugin's fault, whatever it is
            fault, cause = named(exc), exc
        if not is_waited_for():
            return
        if fault is None:
            self.record.went_well(began_ns)
        else:
            self.record.went_wrong(self.hook, began_ns, fault, cause)

    async def tell_async(self, given: Mapping[str, Any], timeout_s: float) -> None:
        """Call it in the loop, with a fact."""
        began_ns = now_ns()
        try:
            answer = await within(self.bound(given)(), timeout_s)
        except CAUGHT as exc:
            self._note(began_ns, exc)
            return
        fault = _junk(answer)
        if fault is None:
            self.record.went_well(began_ns)
        else:
            self.record.went_wrong(self.hook, began_ns, fault)

    async def ask(
        self, given: Mapping[str, Any], timeout_s: float, kind: type | tuple[type, ...]
    ) -> Any:
        """Wait for its answer to a question: None or of this kind.

        Raises the DescartesError it raises, and PluginFault for everything else.
        """
        began_ns = now_ns()
        call = self.bound(given)
        work = call() if self.is_async else self._threads.run(f"plugin {self.record.name}", call)
        try:
            answer = await within(work, timeout_s)
        except DescartesError:
            self.record.went_well(began_ns)
            raise
        except CAUGHT as exc:
            raise PluginFault(self._note(began_ns, exc)) from exc
        if answer is not None and not isinstance(answer, kind):
            fault = unawaited(answer) or f"it answered {kind_of(answer)}"
            self.record.went_wrong(self.hook, began_ns, fault)
            raise PluginFault(fault)
        self.record.went_well(began_ns)
        return answer

    def _note(self, began_ns: int, exc: BaseException) -> str:
        fault = named(exc)
        cause: BaseException | None = exc
        if isinstance(exc, TooLateError):
            fault, cause = f"it took more than {exc}", None
        self.record.went_wrong(self.hook, began_ns, fault, cause)
        return fault


def _junk(answer: Any) -> str | None:
    """What is wrong with the answer of an implementation that has nothing to answer."""
    if answer is None:
        return None
    return unawaited(answer) or f"it answered {kind_of(answer)}, and there is nothing to answer"


def unawaited(answer: Any) -> str | None:
    """What is wrong with an answer that is a coroutine or alike; None where it is none."""
    if not inspect.isawaitable(answer):
        return None
    if inspect.iscoroutine(answer):
        answer.close()
    return "it answered with what nobody awaits: it has to be an `async def` itself"
