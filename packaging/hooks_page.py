"""docs/reference/hooks.md, from the specifications of the hooks and what they are told."""
# ruff: noqa: INP001  # a script beside the package

from __future__ import annotations

import inspect

from methods_page import page, sentences

from descartesd import api
from descartesd.hooks import hookspecs
from descartesd.hooks.checks import SPECS

_INTRO = """
A plugin is a package that registers an entry point in the group `descartesd`.
It takes part by hooks: functions of these names, marked with `descartesd.api.hookimpl`.
[Write a plugin](../how-to/write-a-plugin.md) shows one from top to bottom.

A hook names the parameters it wants, all of them or fewer, and is given them by name.
Plain functions and coroutine functions work alike, except where it says that one of them does not.
What a hook may take is in `plugins.hook_timeout_s`, and a plugin that fails too often is benched:
left out for `plugins.bench_s`, then tried again.
"""
_GROUPS = {
    "Facts": "Something has happened; a hook is told, and has nothing to answer.",
    "Questions": "Something is about to happen; a hook may change or refuse it.",
    "Contributions": "A hook is asked once what the plugin adds.",
}


def hooks_page() -> str:
    """The text of the page."""
    parts = [_INTRO]
    for group, about in _GROUPS.items():
        parts.append(f"## {group}\n\n{about}\n")
        parts += [_hook(name) for name in SPECS if _group(name) == group]
    parts.append(_exports())
    return page("Hooks", "descartesd/hooks/hookspecs.py", *parts)


def _group(name: str) -> str:
    if name.startswith("register_"):
        return "Contributions"
    is_fact = SPECS[name].return_annotation == "None"
    return "Facts" if is_fact else "Questions"


def _hook(name: str) -> str:
    spec = SPECS[name]
    takes = ", ".join(f"{each.name}: {each.annotation}" for each in spec.parameters.values())
    text = inspect.getdoc(getattr(hookspecs, name)) or ""
    event, _, rest = text.partition("\n\n")
    return (
        f"### {name}\n\n{sentences(event)}\n\n"
        f"```text\ndef {name}({takes}) -> {spec.return_annotation}: ...\n```\n\n"
        f"{sentences(' '.join(rest.split()))}\n"
    )


def _exports() -> str:
    names = ", ".join(f"`{name}`" for name in api.__all__)
    return (
        f"## What descartesd.api has\n\nIts version is `{api.API_VERSION}`;"
        " a plugin that needs one says so with `requires_api`.\nThe first part"
        " changes when something is taken away, the second when something is added.\n\n"
        f"{names}\n"
    )
