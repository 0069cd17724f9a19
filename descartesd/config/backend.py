"""Every setting of a backend: a program clients start by name."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from descartesd.template import Part, check_argv, check_json, check_said
from descartesd.wire.agent import NAME_PATTERN

Words = str | tuple[str, ...]
# To dynaconf a name that begins with dynaconf_ is an instruction.
BackendName = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        title="a lower-case letter and up to 62 lower-case letters, digits, '.', '_' or '-'",
    ),
]
Variable = Annotated[
    str,
    Meta(
        pattern=r"^(?!dynaconf_)[A-Za-z_][A-Za-z0-9_]{0,254}$(?!\n)",
        title="letters, digits and '_', not beginning with a digit",
    ),
]
Level = Annotated[
    str, Meta(pattern=r"^(?!dynaconf_)[a-z][a-z0-9_-]{0,62}$(?!\n)", title="a level's name")
]
Dialect = Literal["", "auto", "claude", "codex", "gemini", "opencode", "pi", "qwen", "seed", "none"]
_LIST = "a list of texts, and of lists of texts"
_JSON = "a text of JSON"


def _check_argv(template: tuple[Part, ...]) -> None:
    if template:
        check_argv(template)


def _check_json(template: str) -> None:
    if template:
        check_json(template)


def _check_said(template: str) -> None:
    if template:
        check_said(template)


class Backend(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is given here is so; what is not is as a built-in backend of this name has it."""

    command: Annotated[
        tuple[Words, ...],
        Meta(
            description="Argument vector with places: `{task}`, `{model}`, `{tools}`, "
            "`{system_prompt}`, `{subagents}`, each an element of its own or `-x={place}`; a list "
            "in the list stands there only when what it names is given. Before a bare `{task}` "
            "there must be a `--`.",
            title=_LIST,
            extra={"check": _check_argv},
        ),
    ] = ()
    resume: Annotated[
        tuple[Words, ...],
        Meta(
            description="The same for going on with the conversation `{session}`.",
            title=_LIST,
            extra={"check": _check_argv},
        ),
    ] = ()
    chat: Annotated[
        tuple[Words, ...],
        Meta(
            description="The same for a program that is spoken to on its stdin, by `say`; a group "
            '`["--resume={session}"]` lets it go on with a conversation.',
            title=_LIST,
            extra={"check": _check_argv},
        ),
    ] = ()
    path: Annotated[
        str,
        Meta(
            description="The program instead of the first element of each of these.",
            pattern=r"^(/[^\x00]*)?$(?!\n)",
            title="an absolute path",
        ),
    ] = ""
    env: Annotated[
        dict[Variable, str],
        Meta(description="Environment variables; those of an agent's spec go before them."),
    ] = field(default_factory=dict)
    dialect: Annotated[
        Dialect,
        Meta(
            description="Which events the program writes to its stdout; empty: any of them, told "
            "apart by line."
        ),
    ] = ""
    task_via: Annotated[
        Literal["", "argv", "stdin", "file"],
        Meta(
            description="Whether the program finds its task as an argument, on its stdin, or in "
            "the file `{task_file}`; empty: as an argument."
        ),
    ] = ""
    tools: Annotated[
        dict[Level, str],
        Meta(description="What `{tools}` is for each tool level that may be asked for."),
    ] = field(default_factory=dict)
    say: Annotated[
        str,
        Meta(
            description="JSON line that says the text `{text}` in a chat.",
            title=_JSON,
            extra={"check": _check_said},
        ),
    ] = ""
    interrupt: Annotated[
        str,
        Meta(
            description="JSON line that ends the chat's present turn; `{id}` is new each time.",
            title=_JSON,
            extra={"check": _check_json},
        ),
    ] = ""
    interrupted: Annotated[
        str,
        Meta(
            description="JSON whose every field is found in the line that acknowledges it.",
            title=_JSON,
            extra={"check": _check_json},
        ),
    ] = ""
    allow: Annotated[
        str,
        Meta(
            description="JSON line that answers the question `{id}`: go on, with `{input}`.",
            title=_JSON,
            extra={"check": _check_json},
        ),
    ] = ""
    deny: Annotated[
        str,
        Meta(
            description="JSON line that answers it: do not, saying `{message}`.",
            title=_JSON,
            extra={"check": _check_json},
        ),
    ] = ""

    def __repr__(self) -> str:
        # Among the values of `env` may be keys.
        return f"Backend({self.command!r}, {sorted(self.env)})"
