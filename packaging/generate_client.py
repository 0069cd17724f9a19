"""Write the functions of both clients from the table of methods: `generate_client.py [--check]`.

With --check nothing is written; the exit status is 1 when a file is not what it should be.
"""

# ruff: noqa: INP001  # a script beside the package

from __future__ import annotations

import argparse
import functools
import operator
import subprocess
import sys
import types
import typing
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo

from descartesd.wire import (
    action,
    agent,
    attach,
    audit,
    batch,
    cert,
    event,
    methods,
    plugin,
    policy,
    server,
)
from descartesd.wire.methods import METHODS, Method

CLIENT = Path(__file__).resolve().parent.parent / "descartesd" / "client"
# The clients grant credit and cancel by themselves.
LEFT_OUT = {"stream"}
# Where types have names of their own; each module imports from those before it.
WIRE = (agent, attach, server, batch, event, action, plugin, cert, audit, policy)
# As many as the project's linter allows without a word.
MAX_ARGUMENTS = 7


@dataclass(frozen=True, slots=True)
class Flavour:
    """What the two files differ in."""

    file: str
    home: str
    prefix: str
    define: str
    wait: str


SYNC = Flavour("sync_methods.py", "sync", "", "def", "")
ASYNC = Flavour("async_methods.py", "aio", "Async", "async def", "await ")


def main() -> int:
    """Write or check both files."""
    parser = argparse.ArgumentParser(description="write the clients' functions")
    parser.add_argument("--check", action="store_true", help="only tell whether they are current")
    is_check = parser.parse_args().check
    stale = 0
    for flavour in (SYNC, ASYNC):
        path = CLIENT / flavour.file
        text = formatted(Module(flavour).text(), path)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if is_check:
            stale += 1
            sys.stderr.write(f"{path} is stale: run {Path(__file__).name}\n")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


class Module:
    """The text of one file, and the names it uses."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour
        self._imports: defaultdict[str, set[str]] = defaultdict(set)
        self._waived = ["A002"]

    def text(self) -> str:
        """All of it, not yet formatted."""
        nouns: defaultdict[str, list[str]] = defaultdict(list)
        for method in METHODS.values():
            noun, verb = method.name.split(".")
            if noun not in LEFT_OUT:
                nouns[noun].append(self._function(method, verb))
        namespaces = [self._namespace(noun, nouns[noun]) for noun in sorted(nouns)]
        every = self._every(sorted(nouns))
        return "\n".join([*self._head(), every, *namespaces])

    def _head(self) -> list[str]:
        self._imports["typing"].add("TYPE_CHECKING")
        return [
            '"""One function for each row of the table of methods; by generate_client.py."""',
            f"# ruff: noqa: {', '.join(self._waived)}  # parameters are those on the wire",
            "from __future__ import annotations",
            *(f"from {home} import {', '.join(found)}" for home, found in self._imports.items()),
            "if TYPE_CHECKING:",
            f"    from descartesd.client.requests import {self._caller}",
            f"    from descartesd.client.{self._flavour.home} import {self._stream}",
        ]

    def _every(self, nouns: list[str]) -> str:
        return "\n".join(
            [
                f"class {self._flavour.prefix}Methods:",
                '    """Every method, under its noun."""',
                f"    def __init__(self, caller: {self._caller}) -> None:",
                *(f"        self.{noun} = {self._class(noun)}(caller)" for noun in nouns),
            ]
        )

    def _namespace(self, noun: str, functions: list[str]) -> str:
        return "\n".join(
            [
                f"class {self._class(noun)}:",
                f'    """The methods `{noun}.*`."""',
                '    __slots__ = ("_caller",)',
                f"    def __init__(self, caller: {self._caller}) -> None:",
                "        self._caller = caller",
                *functions,
            ]
        )

    def _function(self, method: Method[Any, Any], verb: str) -> str:
        constant = method.name.upper().replace(".", "_")
        if getattr(methods, constant) is not method:
            raise AssertionError(f"'{constant}' is not the row '{method.name}'")
        self._imports[methods.__name__].add(constant)
        request, reply = self._type(method.request), self._type(method.reply)
        hints = typing.get_type_hints(method.request, include_extras=True)
        fields = [
            self._field(field, hints[field.name])
            for field in msgspec.structs.fields(method.request)
        ]
        arguments = ", ".join(argument for _, argument in fields)
        given = [parameter for parameter, _ in fields]
        passed = [constant, f"{request}({arguments})", "deadline_s=deadline_s"]
        given.append("deadline_s: float | None = None")
        if method.resend == "idem":
            given.append("idem: str | None = None")
            passed.append("idem=idem")
        if len(given) > MAX_ARGUMENTS and "PLR0913" not in self._waived:
            self._waived.append("PLR0913")
        define, wait, call = self._flavour.define, self._flavour.wait, "call"
        if method.stream:
            define, wait, call = "def", "", "stream"
            reply = f"{self._stream}[{reply}]"
        return "\n".join(
            [
                f"    {define} {verb}(self, *, {', '.join(given)}) -> {reply}:",
                f'        """{method.summary}"""',
                f"        return {wait}self._caller.{call}({', '.join(passed)})",
            ]
        )

    def _field(self, field: FieldInfo, hint: Any) -> tuple[str, str]:
        """How it stands among the parameters, and how it is handed to the request."""
        name, shown = field.name, self._type(hint)
        if field.default_factory is not NODEFAULT:
            made = field.default_factory()
            if isinstance(made, list):
                self._imports["collections.abc"].add("Sequence")
                element = self._type(typing.get_args(hint_of(hint))[0])
                return f"{name}: Sequence[{element}] = {tuple(made)!r}", f"{name}=list({name})"
            return optional(name, shown, "{}")
        if field.default is NODEFAULT:
            return f"{name}: {shown}", f"{name}={name}"
        if isinstance(field.default, Struct):
            return optional(name, shown, f"{shown}()")
        return f"{name}: {shown} = {field.default!r}", f"{name}={name}"

    def _type(self, hint: Any) -> str:
        """A type as it is written, by the name the wire's modules give it."""
        for module in WIRE:
            for name, value in vars(module).items():
                if name[0].isupper() and not isinstance(value, type) and value == hint:
                    self._imports[module.__name__].add(name)
                    return name
        origin, parts = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            return self._type(parts[0])
        if origin is Literal:
            self._imports["typing"].add("Literal")
            return f"Literal[{', '.join(map(repr, parts))}]"
        if origin in {Union, types.UnionType}:
            return self._union(parts)
        if origin is not None:
            return f"{origin.__name__}[{', '.join(self._type(part) for part in parts)}]"
        if hint is Any:
            self._imports["typing"].add("Any")
        elif issubclass(hint, Struct):
            self._imports[hint.__module__].add(hint.__name__)
        return str(hint.__name__)

    def _union(self, parts: tuple[Any, ...]) -> str:
        kinds = [part for part in parts if part is not types.NoneType]
        if len(kinds) == len(parts):
            return " | ".join(self._type(kind) for kind in kinds)
        # What is left without None may have a name of its own.
        return f"{self._type(functools.reduce(operator.or_, kinds))} | None"

    @property
    def _caller(self) -> str:
        return f"{self._flavour.prefix}Caller"

    @property
    def _stream(self) -> str:
        return f"{self._flavour.prefix}Stream"

    def _class(self, noun: str) -> str:
        return f"{self._flavour.prefix}{noun.capitalize()}Methods"


def hint_of(hint: Any) -> Any:
    """A type without its constraints."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def optional(name: str, shown: str, default: str) -> tuple[str, str]:
    """A parameter whose default cannot stand in a signature."""
    return f"{name}: {shown} | None = None", f"{name}={default} if {name} is None else {name}"


def formatted(text: str, path: Path) -> str:
    """The text as the formatter wants it."""
    ruff = [sys.executable, "-m", "ruff"]
    stdin = ["--stdin-filename", str(path), "-"]
    for command in (["check", "--quiet", "--select=I", "--fix"], ["format", "--quiet"]):
        run = subprocess.run(
            [*ruff, *command, *stdin], input=text, text=True, stdout=subprocess.PIPE, check=True
        )
        text = run.stdout
    return text


if __name__ == "__main__":
    sys.exit(main())
