"""Every setting of a role: what whoever has it may do, and how much of it."""

from __future__ import annotations

import posixpath
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from descartesd.wire.agent import NAME_PATTERN

Scope = Literal["own", "any"]
MethodPattern = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[a-z*]+\.[a-z_*]+)$(?!\n)",
        title='a method or a pattern, in quotes: "agent.get", "agent.*"',
    ),
]
# Of a role in a table of users; whether it is defined is checked when all layers are known.
RoleRef = Annotated[str, Meta(pattern=NAME_PATTERN, title="a role's name")]
RoleKey = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        title="a lower-case letter and up to 62 lower-case letters, digits, '.', '_' or '-'",
    ),
]
_Text = Annotated[str, Meta(pattern=r"^[^\x00]+$(?!\n)")]
_TEXTS = "a list of texts"
# None, which no file can say, is no limit.
_Count = Annotated[int, Meta(ge=1, le=1_000_000)] | None
_CountOrNone = Annotated[int, Meta(ge=0, le=1_000_000)] | None


def _check_prefixes(prefixes: tuple[str, ...]) -> None:
    for prefix in prefixes:
        if not prefix.startswith("/") or posixpath.normpath(prefix) != prefix:
            raise ValueError(
                f"expected absolute paths without '.', '..' or a '/' at the end, got '{prefix}'"
            )


class Quotas(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one identity of a role may have; nothing is limited that is not given."""

    agents: Annotated[
        _Count,
        Meta(description="Agents of one identity that may be alive at once; more are queued."),
    ] = None
    queued: Annotated[
        _CountOrNone,
        Meta(
            description="Agents of one identity that may be queued; more are refused. 0: none may."
        ),
    ] = None
    spawns_per_minute: Annotated[
        _Count,
        Meta(description="Starts one identity may ask for in a minute; so many of them at once."),
    ] = None
    requests_per_second: Annotated[
        _Count,
        Meta(
            description="Requests of one identity in a second, over all its connections; so many "
            "of them at once."
        ),
    ] = None
    streams: Annotated[
        _Count, Meta(description="Streams of one identity that may be open at once.")
    ] = None


class Role(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is not listed is not allowed; of the built-in roles only quotas and deny may be set."""

    methods: Annotated[
        dict[MethodPattern, Scope],
        Meta(
            description="Methods that are allowed, by name or pattern, on agents of one's `own` or "
            "on `any`, which alone grants what is about the whole server, as `cert.sign`; a name "
            "goes before a pattern, a longer pattern before a shorter one."
        ),
    ] = field(default_factory=dict)
    deny: Annotated[
        tuple[MethodPattern, ...],
        Meta(
            description="Methods that are denied, whatever this or another role of the same "
            "identity allows.",
            title='a list of methods and patterns: "agent.kill", "cert.*"',
        ),
    ] = ()
    backends: Annotated[
        tuple[_Text, ...],
        Meta(description="Backends a spec may name, as patterns.", title=_TEXTS),
    ] = ()
    commands: Annotated[
        tuple[_Text, ...],
        Meta(
            description="Programs a spec may name as the first element of its command, as "
            "patterns whose `*` stands for no `/`; one without `/` is looked up in "
            "server.runner.path. `**` is any program.",
            title=_TEXTS,
        ),
    ] = ()
    users: Annotated[
        tuple[_Text, ...],
        Meta(
            description="Users a spec may name, by name or uid, as patterns; root and the "
            "server's own only where they are written out.",
            title=_TEXTS,
        ),
    ] = ()
    cwd: Annotated[
        tuple[_Text, ...],
        Meta(
            description="Directories a spec's cwd may be or be below, symbolic links resolved.",
            title="a list of absolute paths",
            extra={"check": _check_prefixes},
        ),
    ] = ()
    env: Annotated[
        tuple[_Text, ...],
        Meta(
            description="Variables a spec may set by env or secret_env, as patterns; `*` also "
            "allows env_file.",
            title=_TEXTS,
        ),
    ] = ()
    extra_args: Annotated[
        tuple[_Text, ...],
        Meta(description="Arguments a spec may add to a backend's, as patterns.", title=_TEXTS),
    ] = ()
    actions: Annotated[
        tuple[_Text, ...],
        Meta(description="Custom actions that may be run, as patterns.", title=_TEXTS),
    ] = ()
    quotas: Quotas = field(default_factory=Quotas)
