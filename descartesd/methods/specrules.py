"""Whether a role allows a spec: its program, user, directory, variables and arguments."""

from __future__ import annotations

import os
import posixpath
import pwd
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from descartesd.agents.bounds import Bounds
from descartesd.errors import PermissionDeniedError
from descartesd.methods.grants import Grants, NamedRole
from descartesd.wire.agent import AgentSpec

_ANY_PROGRAM = "**"
_ANY_VARIABLE = "*"


def check_spec(grants: Grants, method: str, spec: AgentSpec) -> Bounds | None:
    """Find a role that grants the method and allows all of the spec.

    Each role stands for itself: what one allows as one user and another as another must not add
    up to more. Returns what must hold at every start, None where nothing is bounded. Raises
    PermissionDeniedError naming the field and the rule, by the first role.
    """
    first: str | None = None
    for role in grants.granting(method):
        if role.rank >= 0:
            refused = _refused_builtin(role, spec)
            if refused is None:
                return None
            first = first or refused
            continue
        refused = next(_refusals(role, spec), None)
        if refused is None:
            return Bounds(cwd=role.definition.cwd if spec.cwd is not None else ())
        first = first or refused
    raise PermissionDeniedError(
        first or f"spec: no role grants {method}",
        hint="ask an administrator for a role that allows it",
    )


def _refused_builtin(role: NamedRole, spec: AgentSpec) -> str | None:
    """What not even a built-in role may: root is handed out by name only, others by an admin.

    A server of root, which is one in the foreground, has but one account to give.
    """
    if spec.user is None:
        return None
    own = os.getuid()
    account = None if own == 0 else _account(spec.user)
    if account is None or account.pw_uid == own:
        return None
    if account.pw_uid == 0:
        return f"spec.user: '{spec.user}' needs a role that lists it in policy.roles.NAME.users"
    if role.name != "admin":
        return f"spec.user: role {role.name} names no user; agents have the caller's, or their own"
    return None


def _refusals(role: NamedRole, spec: AgentSpec) -> Iterator[str]:
    """Each field the role does not allow, and the list it is not in."""
    own, rules = role.definition, f"policy.roles.{role.name}"
    if spec.backend is not None and not _fits(spec.backend, own.backends):
        yield f"spec.backend: '{spec.backend}' is not listed in {rules}.backends"
    if spec.command and not _is_program(spec.command[0], own.commands):
        yield f"spec.command[0]: '{spec.command[0]}' is not listed in {rules}.commands"
    if spec.user is not None and not _is_user(spec.user, own.users):
        yield f"spec.user: '{spec.user}' is not listed in {rules}.users"
    if spec.cwd is not None and not _is_below(posixpath.normpath(spec.cwd), own.cwd):
        yield f"spec.cwd: '{spec.cwd}' is not below a directory listed in {rules}.cwd"
    for number, argument in enumerate(spec.extra_args):
        if not _fits(argument, own.extra_args):
            yield f"spec.extra_args[{number}]: it is not listed in {rules}.extra_args"
    yield from _refused_variables(spec, own.env, f"{rules}.env")


def _refused_variables(spec: AgentSpec, listed: tuple[str, ...], rule: str) -> Iterator[str]:
    for field, names in (("env", spec.env), ("secret_env", spec.secret_env)):
        for name in names:
            if not _fits(name, listed):
                yield f"spec.{field}: '{name}' is not listed in {rule}"
    if spec.env_file is not None and _ANY_VARIABLE not in listed:
        yield f"spec.env_file: it may set any variable, and {rule} does not list '*'"


def _fits(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _is_below(path: str, prefixes: Iterable[str]) -> bool:
    """Whether a path is one of the prefixes or below one, as they are written."""
    return any(path == prefix or path.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)


def _is_program(given: str, patterns: Iterable[str]) -> bool:
    """Part by part, so that no star reaches over a '/', and no '..' leads out of a directory."""
    parts = given.split("/")
    if _ANY_PROGRAM in patterns:
        return True
    if any(part in ("", ".", "..") for part in parts[1:]) or parts[0] in (".", ".."):
        return given in patterns
    return any(_fit_each(parts, pattern.split("/")) for pattern in patterns)


def _fit_each(parts: list[str], patterns: list[str]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _is_user(given: str, listed: Iterable[str]) -> bool:
    account = _account(given)
    if account is None:
        return _fits(given, listed)
    names = (account.pw_name, str(account.pw_uid))
    if account.pw_uid in (0, os.getuid()):
        # A star is not meant to hand out these.
        return any(name in listed for name in names)
    return any(_fits(name, listed) for name in names)


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return (
            pwd.getpwuid(int(user)) if user.isascii() and user.isdecimal() else pwd.getpwnam(user)
        )
    except (KeyError, OverflowError):
        return None
