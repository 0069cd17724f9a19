"""Collects what plugins add to the server, once, before it serves; a fault refuses the start."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, TypeVar

from descartesd.api import Action, Backend, Exporter, Metric
from descartesd.errors import StartupRefusedError
from descartesd.hooks.implementation import Implementation, unawaited
from descartesd.hooks.record import kind_of, named

_Named = TypeVar("_Named", Action, Backend, Metric, Exporter)


def collected(
    implementations: Iterable[Implementation], kind: type[_Named], timeout_s: float
) -> dict[str, tuple[str, _Named]]:
    """What every plugin registers of this kind, by name, with the name of the plugin.

    Raises StartupRefusedError naming the plugin that does not do as it should.
    """
    word = kind.__name__.lower()
    found: dict[str, tuple[str, _Named]] = {}
    for implementation in implementations:
        record = implementation.record
        for each in _contributed(implementation, kind, timeout_s):
            if each.name in found:
                raise StartupRefusedError(
                    f"plugin '{record.name}' registers the {word} '{each.name}', which plugin"
                    f" '{found[each.name][0]}' has registered",
                    hint="take one of the two out of plugins.enabled",
                )
            found[each.name] = record.name, each
            record.registered.setdefault(f"{word}s", []).append(each.name)
    return found


def _contributed(
    implementation: Implementation, kind: type[_Named], timeout_s: float
) -> list[_Named]:
    word = f"{kind.__name__.lower()}s"
    answers: list[Any] = []

    def register() -> None:
        try:
            answer = implementation.bound({})()
            answers.append(unawaited(answer) or list(answer))
        except BaseException as exc:  # noqa: BLE001  # the boundary: the plugin's fault, whatever it is
            answers.append(exc)

    # In a thread: one that hangs must not keep the server from saying so.
    thread = threading.Thread(target=register, name=implementation.hook, daemon=True)
    thread.start()
    thread.join(timeout_s)
    answer = answers[0] if answers else f"it took more than {timeout_s:g} s"
    if isinstance(answer, list):
        junk = next((each for each in answer if not isinstance(each, kind)), None)
        if junk is None:
            return answer
        answer = f"{kind_of(junk)} is no {kind.__name__}"
    fault = named(answer) if isinstance(answer, BaseException) else answer
    name = implementation.record.name
    raise StartupRefusedError(
        f"plugin '{name}' cannot register its {word}: {fault}",
        hint=f"try it with: descartesctl plugin check {name}",
    )
