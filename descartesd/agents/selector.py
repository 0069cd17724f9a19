"""Which agents are meant: conditions, read once and held against many agents."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from descartesd.agents.record import Agent
from descartesd.errors import InvalidArgumentError
from descartesd.wire.agent import State

Matcher = Callable[[Agent], bool]
_OnLabels = Callable[[Mapping[str, str]], bool]

_KEY = r"([A-Za-z0-9][A-Za-z0-9._/-]{0,62})"
_VALUE = r"[A-Za-z0-9._/:@+-]{0,255}"
_COMPARED = re.compile(rf"{_KEY}\s*(!=|==?)\s*({_VALUE})")
_AMONG = re.compile(rf"{_KEY}\s+(in|notin)\s*\(([^()]*)\)")
_ALMOST_COMPARED = re.compile(rf"{_KEY}\s*(?:!=|==?)\s*([^,=]*)")
_PRESENT = re.compile(rf"(!?)\s*{_KEY}")
_ONE_VALUE = re.compile(_VALUE)


def matcher(
    labels: Mapping[str, str] | Sequence[str],
    states: Collection[State],
    owner: str | None,
    *,
    field: str = "labels",
) -> Matcher:
    """Make one question of all conditions; without any, every agent is meant.

    Labels are a map, or conditions in the syntax of Kubernetes' label selectors, where `!=` and
    `notin` also mean agents that have no such label. Raises InvalidArgumentError naming the
    condition at fault.
    """
    asked: list[Matcher] = []
    if states:
        wanted = frozenset(states)
        asked.append(lambda agent: agent.state in wanted)
    if owner is not None:
        asked.append(lambda agent: agent.owner == owner)
    if labels:
        holds = _equal(labels) if isinstance(labels, Mapping) else _conditions(labels, field)
        asked.append(lambda agent: holds(agent.spec.labels))
    return _all_of(asked)


def _all_of(asked: list[Matcher]) -> Matcher:
    if len(asked) == 1:
        return asked[0]
    return lambda agent: all(holds(agent) for holds in asked)


def _equal(wanted: Mapping[str, str]) -> _OnLabels:
    return lambda labels: labels.items() >= wanted.items()


def _conditions(texts: Sequence[str], field: str) -> _OnLabels:
    parts = [_condition(text, f"{field}[{number}]") for number, text in enumerate(texts)]
    return lambda labels: all(holds(labels) for holds in parts)


def _condition(text: str, field: str) -> _OnLabels:
    # Stripped here, so that no expression can try two runs of spaces against each other.
    text = text.strip()
    if compared := _COMPARED.fullmatch(text):
        key, operator, value = compared.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if among := _AMONG.fullmatch(text):
        key, operator, listed = among.groups()
        values = frozenset(_value(each.strip(), field) for each in listed.split(","))
        if operator == "notin":
            return lambda labels: labels.get(key) not in values
        return lambda labels: labels.get(key) in values
    if present := _PRESENT.fullmatch(text):
        negated, key = present.groups()
        return (lambda labels: key not in labels) if negated else (lambda labels: key in labels)
    if almost := _ALMOST_COMPARED.fullmatch(text):
        _value(almost[2], field)
    raise InvalidArgumentError(
        f"{field}: '{text[:80]}' is no condition: expected k=v, k!=v, k in (a, b), k notin (a, b),"
        " k or !k",
        hint="give each condition on its own: --label A --label B, or an entry of the list each",
    )


def _value(text: str, field: str) -> str:
    if _ONE_VALUE.fullmatch(text) is None:
        raise InvalidArgumentError(
            f"{field}: '{text[:80]}' cannot be a label's value: expected up to 255 letters, digits"
            " and any of . _ / : @ + -"
        )
    return text
