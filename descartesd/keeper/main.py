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
from descartesd.keeper import handover, kernel
from descartesd.keeper.handover import State
from descartesd.keeper.keeper import Keeper, Notices, Place
from descartesd.keeper.launch import HOME
from descartesd.keeper.notify import take_notifier
from descartesd.keeper.reexec import CHECK_OPTION, Program
from descartesd.keeper.signals import reset_ignored, unblock_all

USAGE: Final = (
    "usage: descartes-keeper --socket PATH --output-dir DIR [--idle-exit SECONDS] [--open-files N]"
    " [--daemon-user NAME]"
)
OPTIONS: Final = {
    "--socket": "the socket it listens on for the daemon",
    "--output-dir": "directory it writes the output of agents to; made if there is none",
    "--idle-exit": "seconds without daemon and agents after which it ends; otherwise it stays",
    "--open-files": "soft limit of open files that agents are started with; -1 is the hard one",
    "--daemon-user": "the only user beside root that may connect; otherwise its own",
}
# Beside what a keeper asks its own next version with.
_KNOWN: Final = (*OPTIONS, CHECK_OPTION)
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
    # A descriptor of a state: whether this program could go on from it is all that is asked.
    checked: int | None = None


def main() -> NoReturn:
    """Run the keeper; exits 0 after an end in order, 2 on wrong usage, 78 when refused."""
    program = Program.of_this_process()
    try:
        options = _read_options(sys.argv[1:])
    except InvalidArgumentError as error:
        _say(f"{error.message}\n{USAGE}")
        sys.exit(error.exit_status)
    try:
        state = _take_state(options)
        _prepare(state)
        keeper = _make(options, program, state)
        unblock_all()
    except StartupRefusedError as error:
        _say(error.message)
        sys.exit(error.exit_status)
    except OSError as exc:
        _say(f"cannot start: {exc}")
        sys.exit(StartupRefusedError.exit_status)
    if options.checked is not None:
        sys.exit(0)
    keeper.run()
    os.unlink(options.socket)
    sys.exit(0)


def _take_state(options: Options) -> State | None:
    """What another program of this process has left; with `--check-state` without its descriptors.

    Raises StartupRefusedError.
    """
    if options.checked is not None:
        state: State = handover.stand_in(handover.read(options.checked))
        return state
    told = os.environ.pop(handover.VARIABLE, None)
    if told is None:
        return None
    if not told.isdecimal():
        raise StartupRefusedError(f"{handover.VARIABLE}: expected a descriptor, got '{told:.80}'")
    return handover.read(int(told))


def _make(options: Options, program: Program, state: State | None) -> Keeper:
    """The keeper, not running yet; raises StartupRefusedError and OSError."""
    notices = Notices(_say, take_notifier(_say))
    if state is None:
        os.makedirs(options.output_dir, mode=0o750, exist_ok=True)
        _pass_on(options.open_files)
        # Of another user the group may connect; who that may be, the kernel's word decides.
        mode = 0o600 if options.daemon_uid is None else 0o660
        place = _place(options, *_listen(options.socket, mode))
        return Keeper(place, program, notices)
    try:
        _pass_on(state["open_files"])
        listener = socket.socket(fileno=state["server"]["listener_fd"])
        listener.setblocking(False)
        return Keeper(_place(options, listener, state["lock_fd"]), program, notices, state)
    except handover.MALFORMED as exc:
        raise StartupRefusedError(
            f"cannot go on from the state of the keeper before: {type(exc).__name__}: {exc}"
        ) from exc


def _place(options: Options, listener: socket.socket, lock: int) -> Place:
    return Place(listener, lock, options.output_dir, options.idle_exit_s, options.daemon_uid)


def _read_options(arguments: list[str]) -> Options:
    values: dict[str, str] = {}
    left = iter(arguments)
    for argument in left:
        name, joined, value = argument.partition("=")
        if name not in _KNOWN:
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
        _read_number(values[CHECK_OPTION]) if CHECK_OPTION in values else None,
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


def _prepare(state: State | None) -> None:
    # No pipe of an agent may come to lie on a standard descriptor that was closed.
    while (null := os.open("/dev/null", os.O_RDWR)) <= 2:
        continue
    os.close(null)
    kept = set() if state is None else set(handover.descriptors(state))
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        os.set_inheritable(fd, False)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    gc.set_threshold(GARBAGE_LOOKED_FOR_AFTER)
    os.umask(AGENTS_UMASK)
    os.chdir(HOME)
    reset_ignored()
    kernel.become_subreaper()
    kernel.clear_ambient_capabilities()


def _listen(path: str, mode: int) -> tuple[socket.socket, int]:
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
    return listener, lock


def _say(sentence: str) -> None:
    try:
        os.write(2, f"descartes-keeper: {sentence}\n".encode())
    except OSError:
        # Nobody reads stderr any more; agents outlive whoever started their keeper.
        return
