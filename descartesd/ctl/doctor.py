"""`doctor`: checks this host, the profile and the server, with or without a server."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from descartesd.ctl import ports
from descartesd.ctl.command import Command
from descartesd.ctl.connect import connect
from descartesd.ctl.output import Output
from descartesd.ctl.text import safe
from descartesd.errors import DescartesError, StartupRefusedError, UnavailableError

if TYPE_CHECKING:
    from descartesd.keys.profile import Profile
    from descartesd.wire.server import KeeperHealth, ServerHealth, ServerHello, Stray

_CHECK_FAILED = 1
_OLDEST_PYTHON = (3, 11)
_PROGRAMS = ("descartesd", "descartes-keeper")
# Directories of a server directory that nobody else may enter.
_CLOSED_DIRECTORIES = ("keys", "state", "profiles")
_PUBLIC_SUFFIX = ".pub"
_UNIX = "ipc://"
_STRAYS_NAMED = 5


class Check(NamedTuple):
    """What was looked at, whether it is well, and what to do if not."""

    name: str
    ok: bool
    detail: str
    hint: str | None = None

    def item(self) -> dict[str, Any]:
        """The check as JSON has it."""
        return {key: value for key, value in self._asdict().items() if value is not None}


class Facts(NamedTuple):
    """What the server says about itself."""

    hello: ServerHello
    health: ServerHealth


def _doctor(args: Namespace, out: Output) -> int:
    checks = list(_checks(args))
    failed = [check.name for check in checks if not check.ok]
    out.document(
        {"checks": [check.item() for check in checks], "ok": not failed},
        ids=failed,
        lines=_lines(checks),
    )
    return _CHECK_FAILED if failed else 0


def _lines(checks: list[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield f"{'✓' if check.ok else '✗'} {check.name.ljust(width)}  {safe(check.detail)}"
        for line in (check.hint or "").splitlines():
            yield f"  {'':{width}}  {safe(line)}"


def _checks(args: Namespace) -> Iterator[Check]:
    from descartesd.client.profiles import find_profile, profile_path  # noqa: PLC0415  # start-up time

    yield _python()
    try:
        profile = find_profile(args.profile)
    except DescartesError as error:
        yield _programs(is_needed=True)
        yield Check("profile", ok=False, detail=error.message, hint=error.hint)
        return
    hosts = [_tcp_address(endpoint) for endpoint in profile.endpoints]
    yield _programs(is_needed=any(host is None or is_this_host(host[0]) for host in hosts))
    path = profile_path(args.profile)
    path = path and os.path.abspath(path)
    endpoints = ", ".join(profile.endpoints)
    yield Check("profile", ok=True, detail=f"{path or 'none, the local socket'}: {endpoints}")
    if path is not None:
        yield _modes(path, profile)
    if profile.certificate is not None:
        from descartesd.ctl.expiry import of_certificate  # noqa: PLC0415  # start-up time

        yield Check("certificate", **of_certificate(profile)._asdict())
    answer = _ask(args)
    yield _server(answer)
    try:
        for port in sorted(_ports(profile, answer)):
            yield _port(port, answer)
    except StartupRefusedError as error:
        yield Check("config", ok=False, detail=error.message, hint=error.hint)
    if not isinstance(answer, DescartesError):
        yield from _parts(answer.health)


def _python() -> Check:
    import zmq  # noqa: PLC0415  # start-up time

    version = ".".join(map(str, sys.version_info[:3]))
    detail = f"Python {version}, libzmq {zmq.zmq_version()}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Check("python", ok=False, detail=detail, hint="Python 3.11 or newer is needed")
    if not zmq.has("curve"):
        hint = "install a pyzmq whose libzmq was built with CURVE"
        return Check("python", ok=False, detail=f"{detail} without CURVE", hint=hint)
    return Check("python", ok=True, detail=f"{detail} with CURVE")


def _programs(*, is_needed: bool) -> Check:
    beside = os.path.dirname(os.path.abspath(sys.argv[0]))
    found = {name: shutil.which(name) or shutil.which(name, path=beside) for name in _PROGRAMS}
    missing = [name for name, path in found.items() if path is None]
    if missing and is_needed:
        hint = "install descartesd for this user, or put its bin directory on PATH"
        return Check("programs", ok=False, detail=f"not on PATH: {', '.join(missing)}", hint=hint)
    detail = ", ".join(path for path in found.values() if path is not None)
    return Check("programs", ok=True, detail=detail or "none here, and the server is elsewhere")


def _modes(path: str, profile: Profile) -> Check:
    faults = dict(_too_open(path, profile))
    if not faults:
        return Check("modes", ok=True, detail="keys, profiles and state are closed to others")
    detail = ", ".join(f"'{found}' has mode {mode:04o}" for found, mode in faults.items())
    return Check("modes", ok=False, detail=detail, hint="\n".join(map(_chmod, faults)))


def _chmod(path: str) -> str:
    return f"chmod {'700' if os.path.isdir(path) else '600'} {shlex.quote(path)}"


def _too_open(path: str, profile: Profile) -> Iterator[tuple[str, int]]:
    """Files and directories, with their modes, that hold secrets and are open to others."""
    if profile.secret_key is not None:
        yield from _if_open(path)
    profiles = os.path.dirname(path)
    if os.path.basename(profiles) != "profiles":
        return
    for name in _CLOSED_DIRECTORIES:
        directory = os.path.join(os.path.dirname(profiles), name)
        yield from _if_open(directory)
        if name == "keys" and os.access(directory, os.R_OK | os.X_OK):
            for file in sorted(os.listdir(directory)):
                if not file.endswith(_PUBLIC_SUFFIX):
                    yield from _if_open(os.path.join(directory, file))


def _if_open(path: str) -> Iterator[tuple[str, int]]:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:  # not there, or closed to us as well
        return
    if mode & 0o077:
        yield path, mode


def _ask(args: Namespace) -> Facts | DescartesError:
    try:
        with connect(args) as client:
            return Facts(client.server.hello(), client.server.health())
    except DescartesError as error:
        return error


def _server(answer: Facts | DescartesError) -> Check:
    if isinstance(answer, DescartesError):
        return Check("server", ok=False, detail=answer.message, hint=answer.hint)
    hello, health = answer
    detail = f"version {hello.version}, takes you for {hello.identity.id} ({hello.identity.role})"
    if health.status == "ok":
        return Check("server", ok=True, detail=detail)
    return Check("server", ok=False, detail=f"{detail}; degraded", hint="\n".join(health.reasons))


def _ports(profile: Profile, answer: Facts | DescartesError) -> set[int]:
    """Ports of this host the server listens on, or would. Raises StartupRefusedError."""
    endpoints = list(profile.endpoints)
    for endpoint in profile.endpoints:
        # The profile of a socket names no port.
        if not endpoint.startswith(_UNIX):
            continue
        if isinstance(answer, DescartesError):
            endpoints += _configured(endpoint.removeprefix(_UNIX))
        else:
            endpoints += answer.health.listeners
    addresses = filter(None, map(_tcp_address, endpoints))
    return {port for host, port in addresses if is_this_host(host)}


def _configured(socket_path: str) -> list[str]:
    """The endpoint of the server directory a socket stands in, if it stands in one."""
    path = os.path.join(os.path.dirname(os.path.dirname(socket_path)), "descartesd.toml")
    if not os.path.exists(path):
        return []
    from descartesd.config.load import load_config  # noqa: PLC0415  # costs 100 ms

    return [load_config(path, environ=os.environ).server.endpoint]


def _port(port: int, answer: Facts | DescartesError) -> Check:
    holders = ports.listening(port)
    if not holders:
        return Check("port", ok=True, detail=f"{port} is free: nobody listens")
    held = f"{port} is held by {', '.join(map(str, holders))}"
    if isinstance(answer, UnavailableError):
        hint = "stop that process, or give the server another port (server.endpoint)"
        return Check("port", ok=False, detail=f"{held}, which is not this server", hint=hint)
    return Check("port", ok=True, detail=held)


def _parts(health: ServerHealth) -> Iterator[Check]:
    """What only the server can tell."""
    if health.keeper.connected:
        yield Check("keeper", ok=True, detail=f"connected, pid {health.keeper.pid}")
        yield _keeper_version(health.keeper)
    else:
        hint = "the server's log tells why"
        yield Check("keeper", ok=False, detail="not connected: nothing can be started", hint=hint)
    if health.certificates_expiring:
        count = health.certificates_expiring
        noun = "certificate has" if count == 1 else "certificates have"
        detail = f"{count} {noun} less than a third of their life left"
        yield Check(
            "certificates", ok=True, detail=detail, hint="see which: descartesctl cert list"
        )
    if health.keeper.strays:
        yield _strays(health.keeper.strays)
    if health.isolation == "none":
        detail = "none: agents run as the server's own user"
    else:
        detail = "agents run as users of their own"
    yield Check("isolation", ok=True, detail=detail)


def _keeper_version(keeper: KeeperHealth) -> Check:
    """A note, no fault: it works with the server as it is."""
    detail = f"version {keeper.version}, build {keeper.build}"
    if keeper.build == keeper.installed_build:
        return Check("keeper version", ok=True, detail=f"{detail}, as installed")
    installed = f"version {keeper.installed_version}, build {keeper.installed_build}"
    if keeper.stays_because is None:
        detail = f"{detail}; it is about to become {installed}"
        return Check("keeper version", ok=True, detail=detail)
    return Check(
        "keeper version",
        ok=True,
        detail=f"{detail}; installed is {installed}: {keeper.stays_because}",
        hint="it does all it did before; a restart of it brings the installed one, ends its agents",
    )


def _strays(strays: list[Stray]) -> Check:
    """A note, no fault: agents may leave processes on purpose."""
    listed = [f"{stray.pid} {stray.command}" for stray in strays[:_STRAYS_NAMED]]
    more = ["…"] if len(strays) > _STRAYS_NAMED else []
    noun = "process" if len(strays) == 1 else "processes"
    detail = f"{len(strays)} {noun} of no agent: {', '.join([*listed, *more])}"
    return Check("strays", ok=True, detail=detail)


def _tcp_address(endpoint: str) -> tuple[str, int] | None:
    if not endpoint.startswith("tcp://"):
        return None
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def is_this_host(host: str) -> bool:
    """Whether an address of that name is one of this host's."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError:
        return False
    return True


COMMANDS = {
    "doctor": Command(
        summary="Check this host, the profile and the server; 1 if a check fails.",
        examples=("doctor", "--json --profile ci doctor"),
        run=_doctor,
    ),
}
