"""Every kind of line that is logged is explained, and none is that nobody logs."""

from __future__ import annotations

import ast
from pathlib import Path

from descartesd.observe.events import EVENTS
from descartesd.observe.journald import message_id

PACKAGE = Path(__file__).parents[2] / "descartesd"
LEVELS = frozenset(("debug", "info", "warning", "error", "exception", "log"))
# Programs that write for people.
NOT_THE_DAEMON = frozenset(("ctl", "client", "keeper"))
# Handed to who logs it.
BY_NAME = frozenset(("Tally", "_tell"))


def words(call: ast.Call) -> set[str]:
    """The constant names of kinds in a call that logs."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else None
    plain = call.func.id if isinstance(call.func, ast.Name) else name
    if plain in BY_NAME:
        found = call.args[:1]
    elif name is None and plain == "tell" and len(call.args) == 4:
        found = call.args[2:3]
    elif name in LEVELS and isinstance(call.func, ast.Attribute) and is_log(call.func.value):
        found = call.args[name == "log" :][:1]
    else:
        return set()
    return {
        each.value for each in found if isinstance(each, ast.Constant) and "." in str(each.value)
    }


def is_log(of: ast.expr) -> bool:
    if isinstance(of, ast.Call):
        return ast.unparse(of.func) == "logging.getLogger"
    return (of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")) in ("log", "_log")


def logged() -> set[str]:
    """Every kind of line in the source of the daemon."""
    # These two have no noun.
    return {"enrolled", "internal"} | {
        word
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in NOT_THE_DAEMON
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for word in words(node)
    }


def test_every_kind_is_explained_and_logged() -> None:
    explained = [name for group in EVENTS.values() for name in group]

    assert len(explained) == len(set(explained))
    assert set(explained) == logged()


def test_each_kind_has_an_id_of_its_own() -> None:
    names = [name for group in EVENTS.values() for name in group]

    assert len({message_id(name) for name in names}) == len(names)
    # Somebody has it in a script.
    assert message_id("agent.state") == "11ca360d9a4fb19fc8f3687c53371608"
