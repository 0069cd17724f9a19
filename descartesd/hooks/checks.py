"""Finds out whether an object fits as a plugin: each of its hooks, before any is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pluggy

from descartesd.api import API_VERSION
from descartesd.hooks import hookspecs
from descartesd.wire.codec import nearest

# The mark on an implementation, as pluggy sets it.
_MARK = "descartesd_impl"
REMEDY = "see docs/reference/hooks.md"


def _specs() -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(each)
        for name, each in vars(hookspecs).items()
        if hasattr(each, "descartesd_spec")
    }


SPECS: Mapping[str, inspect.Signature] = _specs()


class Hook(NamedTuple):
    """One hook of a plugin; `fault` says why it cannot be called, None when it can."""

    name: str
    fault: str | None = None
    hint: str | None = None


def hooks_of(plugin: object) -> list[Hook]:
    """Every hook an object has, or seems to mean to have, in the order of their names."""
    return [_checked(name, member) for name, member in _members(plugin)]


def api_fault(plugin: object) -> str | None:
    """Why the plugin is for another API than this server's; None when it fits."""
    needs = getattr(plugin, "requires_api", API_VERSION)
    try:
        major, minor = (int(part) for part in str(needs).split("."))
    except ValueError:
        return f"requires_api is {needs!r}, expected a version such as '{API_VERSION}'"
    ours = tuple(int(part) for part in API_VERSION.split("."))
    if major == ours[0] and minor <= ours[1]:
        return None
    return f"it needs version {needs} of descartesd.api, and this server has {API_VERSION}"


def _members(plugin: object) -> Iterator[tuple[str, Any]]:
    for name in dir(plugin):
        if name.startswith("__"):
            continue
        try:
            member = getattr(plugin, name)
        except Exception:  # noqa: BLE001, S112  # what cannot even be looked at is no hook
            continue
        if callable(member) and (hasattr(member, _MARK) or name in SPECS):
            yield name, member


def _checked(name: str, member: Callable[..., Any]) -> Hook:
    if not hasattr(member, _MARK):
        return Hook(name, "it is not marked with @hookimpl", "mark it, or give it another name")
    options: pluggy.HookimplOpts = getattr(member, _MARK)
    hook = options.get("specname") or name
    if hook not in SPECS:
        near = nearest(hook, SPECS)
        hint = f"did you mean '{near}'" if near else REMEDY
        return Hook(hook, "there is no such hook", hint)
    if options.get("wrapper") or options.get("hookwrapper"):
        return Hook(hook, "it is a wrapper, and no implementation sees another", REMEDY)
    return Hook(hook, *(_shape_fault(hook, member) or _parameter_fault(hook, member) or ()))


def _shape_fault(hook: str, member: Callable[..., Any]) -> tuple[str, str] | None:
    is_contribution = hook.startswith("register_")
    if inspect.iscoroutinefunction(member) and is_contribution:
        return "it is a coroutine function", "make it a plain function: it runs in a thread"
    if inspect.isasyncgenfunction(member):
        return "it is an asynchronous generator", REMEDY
    if inspect.isgeneratorfunction(member) and not is_contribution:
        return "it is a generator, which would never run", "return instead of yield"
    return None


def _parameter_fault(hook: str, member: Callable[..., Any]) -> tuple[str, str] | None:
    known = SPECS[hook].parameters
    wants = f"it may take {', '.join(known)}" if known else "it takes no parameters"
    for name, parameter in inspect.signature(member).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return f"it takes *{name}, and parameters go by their names", wants
        if parameter.kind is parameter.POSITIONAL_ONLY:
            return f"its parameter '{name}' cannot be given by its name", wants
        if name not in known and parameter.default is parameter.empty:
            near = nearest(name, known)
            hint = f"did you mean '{near}'" if near else wants
            return f"it takes '{name}', which it is not given", hint
    return None
