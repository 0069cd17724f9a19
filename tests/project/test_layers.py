"""Imports go one way: checked from the syntax tree of every module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "descartesd"

# What each layer may import of descartesd, besides itself. A trailing dot means the whole layer.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "wire": ("errors",),
    "template": (),
    # What is measured, by a plugin as by the server itself.
    "metric": ("wire.",),
    "config": ("errors", "wire.", "template"),
    "keys": ("errors", "wire.", "config."),
    "observe": ("errors", "wire.", "config.", "keys.", "metric"),
    "api": ("errors", "wire.", "template", "metric"),
    "hooks": ("errors", "wire.", "config.", "keys.", "observe.", "api"),
    "transport": ("errors", "wire.", "config.", "keys.", "observe."),
    # It listens, which is transport's, on what systemd has kept.
    "systemd": ("errors", "wire.", "config.", "keys.", "observe.", "transport."),
    "keeper": ("errors",),
    "agents": (
        *("errors", "wire.", "config.", "keys.", "observe.", "template", "api"),
        "keeper.protocol",
    ),
    "methods": (
        *("errors", "wire.", "config.", "keys.", "observe.", "metric", "api", "hooks."),
        *("transport.", "agents."),
    ),
    "builtin": ("api",),
    "client": ("errors", "wire.", "keys.", "transport.channel"),
    "ctl": ("errors", "wire.", "keys.", "client."),
    "places": ("errors",),
    # It reads what a server left, and so what each of these wrote.
    "offline": ("errors", "wire.", "config.", "keys.", "observe.", "agents.meta", "init"),
    "init": ("errors", "wire.", "config.", "keys."),
}
# Only these commands of ctl may look further, and only this far.
CTL_EXCEPTIONS = {
    "ctl/plugin_check.py": ("hooks.trial",),
    "ctl/doctor.py": ("config.",),
    # What is wrong with the settings of a plugin, only the plugin can say.
    "ctl/config.py": ("config.", "plugins"),
    "ctl/cert.py": ("init", "config."),
    "ctl/audit.py": ("offline",),
}
ROOTS = {"listening", "daemon", "identities", "keeping", "main", "plugins", "reloading", "__init__"}
# Each untyped or heavy library has one module, or one layer, that imports it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "dynaconf": ("config/load.py",),
    "nacl": ("keys/",),
    "msgpack": ("keeper/",),
    "inotify_simple": ("agents/follow.py",),
    "pluggy": ("hooks/", "api/"),
    "sdnotify": ("systemd/notify.py",),
    # Its file, what is read of it from outside, and what is left of a damaged one.
    "sqlite3": (
        "agents/database.py",
        "agents/registry.py",
        "agents/meta.py",
        "agents/quarantine.py",
    ),
    "re2": ("agents/lines.py",),
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = ROOT.joinpath(*node.module.split("."))
            if package.is_dir():
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


def layer_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_its_layer_may(path: Path) -> None:
    layer = layer_of(path)
    if layer in ROOTS:
        return
    relative = str(path.relative_to(PACKAGE))
    allowed = (*MAY_IMPORT[layer], f"{layer}.", *CTL_EXCEPTIONS.get(relative, ()))

    for name in imports(path):
        if not name.startswith("descartesd."):
            continue
        inner = name.removeprefix("descartesd.")
        fits = any(
            inner.startswith((entry, f"{entry}.")) or inner == entry.rstrip(".")
            for entry in allowed
        )
        assert fits, f"{relative} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_library_is_imported_only_in_its_place(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))

    for name in imports(path):
        places = ONLY_IN.get(name.partition(".")[0])
        assert places is None or relative.startswith(places), f"{relative} imports {name}"


PLUGIN_MODULES = sorted((ROOT / "plugins").glob("*/descartesd_*/**/*.py"))


@pytest.mark.parametrize("path", PLUGIN_MODULES, ids=lambda path: path.stem)
def test_plugin_imports_of_the_server_its_api_alone(path: Path) -> None:
    for name in imports(path):
        inner = name.partition(".")[0] == "descartesd"
        assert not inner or name.startswith("descartesd.api"), f"{path.name} imports {name}"


def test_keeper_needs_nothing_but_the_standard_library_and_msgpack() -> None:
    allowed = sys.stdlib_module_names | {"msgpack", "descartesd"}

    for path in (PACKAGE / "keeper").glob("*.py"):
        for name in imports(path):
            assert name.partition(".")[0] in allowed, f"{path.name} imports {name}"
            assert not name.startswith("asyncio"), f"{path.name} imports asyncio"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_can_be_read_whole(path: Path) -> None:
    lines = len(path.read_text().splitlines())

    assert lines <= 400 or "by generate_client.py" in path.read_text(encoding="utf-8")[:400]
