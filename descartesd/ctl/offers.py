"""What a word of a command may be: from the wire's own types, or as the server has it now."""

from __future__ import annotations

import os
from argparse import Action
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, get_args

from descartesd.ctl.command import NOUNS
from descartesd.errors import DescartesError

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.wire.agent import State

_T = TypeVar("_T")
# What a shell adds by itself: 'words' is nothing.
Kind = Literal["words", "files", "directories", "programs"]
# Somebody waits with a finger on the key.
_ASKING_S = 3.0
_PROFILES = "~/.config/descartes"
_FILES = ("FILE", "FILE.pub", "KEY.pub", "PROFILE", "F")
_DIRECTORIES = ("DIR", "D")
# Of the agents only those are offered that a verb does something to.
_STATES: Mapping[str, tuple[State, ...]] = {
    "agent pause": ("running",),
    "agent resume": ("paused",),
    "agent respawn": ("completed", "failed", "terminated", "lost"),
    **dict.fromkeys(
        ("agent stop", "agent kill"),
        ("queued", "starting", "running", "paused", "stopping", "backoff"),
    ),
    **dict.fromkeys(
        ("agent attach", "agent write", "agent say", "agent answer", "agent signal"),
        ("running", "paused", "stopping"),
    ),
}


class Offer(NamedTuple):
    """A whole word, and a sentence about it."""

    word: str
    about: str = ""


class Answer(NamedTuple):
    """What may stand in the place of the word that is being typed."""

    words: Sequence[Offer] = ()
    kind: Kind = "words"


class Line(NamedTuple):
    """What stands in a line already, and what has been typed of the next value behind `prefix`."""

    positionals: Sequence[str]
    given: Mapping[str, str]
    current: str
    prefix: str = ""


def values(title: str, action: Action, line: Line) -> Answer:
    """What an option or a positional of a command may be."""
    if action.choices is not None:
        return _fitting(map(Offer, action.choices), line)
    find = _OF_ONE.get((title, action.dest)) or _OF_ANY.get(action.dest)
    if find is not None:
        return _fitting(find(title, line), line)
    if action.metavar == "FILE|NAME":
        return _fitting(_profiles(), line)._replace(kind="files")
    if action.metavar in _FILES:
        return Answer(kind="files")
    return Answer(kind="directories" if action.metavar in _DIRECTORIES else "words")


def _fitting(offers: Iterable[Offer], line: Line) -> Answer:
    prefix = line.prefix
    return Answer(
        [Offer(f"{prefix}{word}", said) for word, said in offers if word.startswith(line.current)]
    )


def _agents(title: str, line: Line) -> Iterator[Offer]:
    states = _STATES.get(title, ())
    for agent in _asked(line, lambda client: client.agent.list(states=states).agents):
        if agent.name not in line.positionals:
            yield Offer(agent.name, agent.state)
        if line.current and agent.id not in line.positionals:
            yield Offer(agent.id, f"{agent.name}, {agent.state}")


def _actions(_: str, line: Line) -> Iterator[Offer]:
    for action in _asked(line, lambda client: client.action.list().actions):
        yield Offer(action.name, action.summary)


def _parameters(_: str, line: Line) -> Iterator[Offer]:
    from descartesd.ctl.parameters import parameters  # noqa: PLC0415  # start-up time

    given = {word.partition("=")[0].removesuffix(":") for word in line.positionals[1:]}
    for action in _asked(line, lambda client: client.action.list().actions):
        if action.name == line.positionals[0]:
            yield from (
                Offer(f"{each}=") for each in parameters(action.params) if each not in given
            )


def _plugins(_: str, line: Line) -> Iterator[Offer]:
    for plugin in _asked(line, lambda client: client.plugin.list().plugins):
        yield Offer(plugin.name, plugin.version)


def _certificates(_: str, line: Line) -> Iterator[Offer]:
    for each in _asked(line, lambda client: client.cert.list().certificates):
        if each.name:
            yield Offer(each.name, f"{each.role}, {each.status}")


def _backends(_: str, line: Line) -> Iterator[Offer]:
    yield from map(Offer, _asked(line, lambda client: client.server.hello().backends))


def _asked(line: Line, ask: Callable[[Client], Sequence[_T]]) -> Sequence[_T]:
    from descartesd.client import Client  # noqa: PLC0415  # start-up time

    profile = line.given.get("profile")
    try:
        with Client(profile, timeout_s=_ASKING_S, connect_timeout_s=_ASKING_S) as client:
            return ask(client)
    except (DescartesError, OSError):
        # Amid a line that is being typed there is no place to tell why.
        return ()


def _states(_: str, _line: Line) -> Iterator[Offer]:
    from descartesd.wire.agent import State  # noqa: PLC0415  # start-up time

    yield from map(Offer, get_args(State))


def _roles(_: str, _line: Line) -> Iterator[Offer]:
    from descartesd.wire.server import Role  # noqa: PLC0415  # start-up time

    yield from map(Offer, get_args(Role))


def _methods(_: str, _line: Line) -> Iterator[Offer]:
    from descartesd.wire.methods import METHODS  # noqa: PLC0415  # start-up time

    for method in METHODS.values():
        yield Offer(method.name, method.summary)


def _signals(_: str, _line: Line) -> Iterator[Offer]:
    import signal  # noqa: PLC0415  # start-up time

    yield from (Offer(each.name.removeprefix("SIG")) for each in signal.Signals)


def _topics(_: str, _line: Line) -> Iterator[Offer]:
    yield Offer("exit-codes", "what the exit statuses mean")
    yield from (Offer(name, noun.summary) for name, noun in NOUNS.items())


def _users(_: str, _line: Line) -> Iterator[Offer]:
    import pwd  # noqa: PLC0415  # start-up time

    yield from (Offer(user.pw_name) for user in pwd.getpwall())


def _profiles() -> Iterator[Offer]:
    try:
        names = sorted(os.listdir(os.path.expanduser(_PROFILES)))
    except OSError:
        # Nobody has made one.
        return
    yield from (Offer(name.removesuffix(".toml")) for name in names if name.endswith(".toml"))


_Find = Callable[[str, Line], Iterator[Offer]]
_OF_ANY: dict[str, _Find] = {
    "id": _agents,
    "ids": _agents,
    "agent": _agents,
    "state": _states,
    "role": _roles,
    "method": _methods,
    "backend": _backends,
    "signal": _signals,
    "stop_signal": _signals,
    "who": _certificates,
    "identity": _certificates,
    "user": _users,
    "topic": _topics,
}
_OF_ONE: dict[tuple[str, str], _Find] = {
    ("action run", "name"): _actions,
    ("action run", "params"): _parameters,
    ("plugin show", "name"): _plugins,
}
