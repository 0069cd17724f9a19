"""Starts the keeper: arguments, what it inherited, its socket."""

from __future__ import annotations

import fcntl
import gc
import os
import pwd
import resource
import socket
import sys
from typing import Final, NamedTuple, NoReturn

from descartesd.errors import InvalidArgumentError, StartupRefusedError
from descartesd.keeper import kernel
from descartesd.keeper.keeper import Keeper, Notices
from descartesd.keeper.launch import HOME
from descartesd.keeper.notify import take_notifier
from descartesd.keeper.signals import reset_inherited

USAGE: Final = (
    "usage: descartes-keeper --socket PATH --output-dir DIR [--idle-exit SECONDS] [--open-files N]"
    " [--daemon-user NAME]"
)
_OPTIONS: Final = ("--socket", "--output-dir", "--idle-exit", "--open-files", "--daemon-user")
AGENTS_UMASK: Final = 0o022  # they inherit it; what the keeper makes has a mode of its own
SOCKET_PATH_MAX: Final = 107  # unix(7)
GARBAGE_LOOKED_FOR_AFTER: Final = 20_000  # objects; a start leaves hardly any cycle


class Options(NamedTuple):
    """The command line."""

    socket: str
    output_dir: str
    idle_exit_s: float | None
    # The soft limit that agents are started with; that of this process where none is given.
    open_files: int | None = None
    # The only one, beside root, that may connect; this process's own where none is given.
    daemon_uid: int | None = None


def main() -> NoReturn:
    """Run the keeper; exits 0 after an end in order, 2 on wrong usage, 78 when refused."""
    try:
        options = _read_options(sys.argv[1:])
    except InvalidArgumentError as error:
        _say(f"{error.message}\n{USAGE}")
        sys.exit(error.exit_status)
    _prepare()
    try:
        _pass_on(options.open_files)
        os.makedirs(options.output_dir, mode=0o750, exist_ok=True)
        # Of another user the group may connect; who that may be, the kernel's word decides.
        listener = _listen(options.socket, 0o600 if options.daemon_uid is None else 0o660)
        keeper = Keeper(
            listener,
            options.output_dir,
            idle_exit_s=options.idle_exit_s,
            daemon_uid=options.daemon_uid,
            notices=Notices(_say, take_notifier(_say)),
        )
    except StartupRefusedError as error:
        _say(error.message)
        sys.exit(error.exit_status)
    except OSError as exc:
        _say(f"cannot start: {exc}")
        sys.exit(StartupRefusedError.exit_status)
    keeper.run()
    os.unlink(options.socket)
    sys.exit(0)


def _read_options(arguments: list[str]) -> Options:
    values: dict[str, str] = {}
    left = iter(arguments)
    for argument in left:
        name, joined, value = argument.partition("=")
        if name not in _OPTIONS:
            raise InvalidArgumentError(f"no option '{argument}'")
        values[name] = value if joined else next(left, "")
    for name in ("--socket", "--output-dir"):
        if not values.get(name):
            raise InvalidArgumentError(f"{name} is missing")
    return Options(
        os.path.abspath(values["--socket"]),
        os.path.abspath(values["--output-dir"]),
        _read_seconds(values["--idle-exit"]) if "--idle-exit" in values else None,
        _read_number(values["--open-files"]) if "--open-files" in values else None,
        _read_user(values["--daemon-user"]) if "--daemon-user" in values else None,
    )


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InvalidArgumentError(f"--idle-exit: expected a number of seconds, got '{text}'")
    return seconds


def _read_number(text: str) -> int:
    # -1 is no limit, as getrlimit(2) tells it.
    if not text.removeprefix("-").isdecimal() or int(text) < resource.RLIM_INFINITY:
        raise InvalidArgumentError(f"--open-files: expected a number of files, got '{text}'")
    return int(text)


def _read_user(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise InvalidArgumentError(f"--daemon-user: this host has no user '{name}'") from None


def _pass_on(open_files: int | None) -> None:
    """Have agents inherit this soft limit, as far as the hard one allows it."""
    if open_files is None:
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = hard if open_files == resource.RLIM_INFINITY else open_files
    resource.setrlimit(
        resource.RLIMIT_NOFILE,
        (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard),
    )


def _prepare() -> None:
    # No pipe of an agent may come to lie on a standard descriptor that was closed.
    while (null := os.open("/dev/null", os.O_RDWR)) <= 2:
        continue
    os.close(null)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    gc.set_threshold(GARBAGE_LOOKED_FOR_AFTER)
    os.umask(AGENTS_UMASK)
    os.chdir(HOME)
    reset_inherited()
    kernel.become_subreaper()
    kernel.clear_ambient_capabilities()


def _listen(path: str, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise StartupRefusedError(
            f"socket path '{path}' is {len(os.fsencode(path))} bytes: at most {SOCKET_PATH_MAX}"
        )
    # Held as long as this process lives, and by it alone: agents inherit no descriptor.
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StartupRefusedError(f"another keeper serves '{path}'") from exc
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    if os.path.lexists(path):
        os.unlink(path)
    umask = os.umask(0o777 & ~mode)
    try:
        listener.bind(path)
    finally:
        os.umask(umask)
    listener.listen(8)
    return listener


def _say(sentence: str) -> None:
    try:
        os.write(2, f"descartes-keeper: {sentence}\n".encode())
    except OSError:
        # Nobody reads stderr any more; agents outlive whoever started their keeper.
        return
