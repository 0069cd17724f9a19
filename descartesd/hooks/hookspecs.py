"""Every hook a plugin may implement: a plain function, marked with descartesd.api.hookimpl."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from descartesd.api import Action, Backend

hookspec = pluggy.HookspecMarker("descartesd")


# Contributions: called once.


@hookspec
def register_actions() -> Iterable[Action]:  # type: ignore[empty-body]  # only a declaration
    """The server starts and collects its custom actions.

    Returns the actions this plugin adds; a name another plugin has taken is refused.
    Runs once, in the main thread before the server serves: it only makes them, and returns at once.
    If it raises, the server does not start, and says which plugin it was.
    Since 0.1.
    """


@hookspec
def register_backends() -> Iterable[Backend]:  # type: ignore[empty-body]  # only a declaration
    """The server starts and collects the programs clients may start by name.

    Returns the backends this plugin adds; a name another plugin has taken is refused.
    Runs once, in the main thread before the server serves: it only makes them, and returns at once.
    If it raises, the server does not start, and says which plugin it was.
    Since 0.2.
    """
