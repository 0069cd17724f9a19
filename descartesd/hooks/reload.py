"""Gives changed settings to the plugins that take them over while they work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from descartesd.config.plugin import Given, meant, typed
from descartesd.errors import StartupRefusedError
from descartesd.hooks.record import PluginRecord, named, now_ns
from descartesd.hooks.threads import Threads
from descartesd.hooks.within import CAUGHT, TooLateError, within


class Changed(NamedTuple):
    """The plugins whose settings differ: those that take over new ones, and the others."""

    settings: Mapping[str, Struct]
    restart: list[str]


def changed(records: Mapping[str, PluginRecord], given: Sequence[Given]) -> Changed:
    """Compare what plugins were given with what a configuration has for them now.

    Raises StartupRefusedError with every fault.
    """
    faults: list[str] = []
    settings: dict[str, Struct] = {}
    restart: list[str] = []
    for name, record in records.items():
        before = record.origin.settings
        own = [each for each in given if meant(each.plugin, records) == name]
        if before is None:
            faults += [f"{each.origin}: {each.key}: the plugin has no settings" for each in own]
            continue
        found = typed(type(before), name, own)
        faults += found.faults
        if found.value is None or found.value == before:
            continue
        if callable(getattr(record.plugin, "reload", None)):
            settings[name] = found.value
        else:
            restart.append(f"plugins.{name}")
    if faults:
        raise StartupRefusedError("\n".join(faults), details={"faults": faults})
    return Changed(settings, restart)


async def take_over(
    records: Mapping[str, PluginRecord], settings: Mapping[str, Struct], timeout_s: float
) -> None:
    """Have each plugin take over its settings; if one does not, all have their old ones again.

    Raises StartupRefusedError naming that plugin.
    """
    done: list[str] = []
    for name, new in settings.items():
        record = records[name]
        fault = await _told(record, new, timeout_s)
        if fault is not None:
            for each in [*done, name]:
                old = records[each].origin.settings
                if old is not None:
                    await _told(records[each], old, timeout_s)
            raise StartupRefusedError(
                f"plugin '{name}' does not take over its settings: {fault}",
                hint="restart the server to have them hold",
            )
        done.append(name)
    for name, new in settings.items():
        records[name].origin = records[name].origin._replace(settings=new)


async def _told(record: PluginRecord, settings: Struct, timeout_s: float) -> str | None:
    """Give a plugin its settings; why that went wrong."""
    began_ns = now_ns()
    reload = record.plugin.reload  # type: ignore[attr-defined]  # `changed` has looked
    is_async = inspect.iscoroutinefunction(reload)
    try:
        # A thread that hangs is left alone, as one of any other hook.
        work = reload(settings) if is_async else Threads(1).run(
            f"plugin {record.name}", lambda: reload(settings)
        )  # fmt: skip
        await within(work, timeout_s)
    except TooLateError as exc:
        fault = f"it took more than {exc}"
        record.went_wrong("reload", began_ns, fault)
    except CAUGHT as exc:
        fault = named(exc)
        record.went_wrong("reload", began_ns, fault, exc)
    else:
        record.went_well(began_ns)
        return None
    return fault
