"""Why no connection came about, said so that the reader knows what to do next."""

from __future__ import annotations

import errno
import grp
import os
import stat

import zmq

from descartesd.errors import (
    DeadlineExceededError,
    DescartesError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from descartesd.keys.curve import fingerprint
from descartesd.keys.profile import LOCAL_SOCKET, UNIX

_MALFORMED = {
    errno.EINVAL,
    errno.ENODEV,
    errno.ENAMETOOLONG,
    errno.EPROTONOSUPPORT,
    zmq.ENOCOMPATPROTO,
}


def unreachable(endpoint: str) -> UnavailableError:
    """Nobody accepts connections there."""
    return UnavailableError(
        f"nobody answers at '{endpoint}'", hint=f"is the server running? {how_to_start(endpoint)}"
    )


def silent(endpoint: str, seconds: float) -> UnavailableError:
    """No handshake within the time for one attempt."""
    who = f"the server at '{endpoint}' does not answer"
    if not endpoint.startswith(UNIX):
        who = f"nobody answers at '{endpoint}'"
    return UnavailableError(
        f"{who}: no handshake within {seconds:g} s", hint=_when_silent(endpoint)
    )


def not_connected(endpoint: str, seconds: float) -> DeadlineExceededError:
    """The deadline of a request came before any other sign."""
    return DeadlineExceededError(
        f"not connected to '{endpoint}' within {seconds:g} s",
        hint="a longer time is given with --timeout or deadline_s; if that is no help: "
        + _when_silent(endpoint),
        retryable=True,
    )


def _when_silent(endpoint: str) -> str:
    if endpoint.startswith(UNIX):
        return (
            "the server is there but does not answer, it may hang: look at it with "
            "'ps -C descartesd -o pid,stat,args' and in its log"
        )
    return (
        "check the host's name and that no firewall drops the packets; if the server hangs, its "
        "log tells why"
    )


def made_elsewhere(pid: int) -> UnavailableError:
    """The client came into this process by fork(2), without what makes it work."""
    return UnavailableError(
        f"this client was made in another process (pid {pid})",
        hint="make one after the fork",
        retryable=False,
    )


def does_not_read(endpoint: str) -> UnavailableError:
    """There is a connection, and the server takes nothing from it."""
    return UnavailableError(
        f"the server at '{endpoint}' does not read its requests", hint="its log tells why"
    )


def circuit_open(endpoint: str, failures: int, seconds: float) -> UnavailableError:
    """So many requests in a row have found nobody that further ones do not even wait."""
    return UnavailableError(
        f"nobody has answered at '{endpoint}' {failures} times in a row: the next try is in "
        f"{seconds:.1f} s",
        hint="requests fail at once until then (circuit_failures and circuit_reset_secs in the "
        f"profile); {how_to_start(endpoint)}",
        details={"sent": False, "retry_after_s": round(seconds, 3)},
    )


def queue_full(endpoint: str, limit: int) -> ResourceExhaustedError:
    """As many requests wait for the connection as may."""
    return ResourceExhaustedError(
        f"{limit} requests wait for a connection to '{endpoint}': offline_queue_size is {limit}",
        hint="ask again when there is a connection; the profile may allow more",
        details={"sent": False, "offline_queue_size": limit},
    )


def never_sent(error: DescartesError, method: str) -> DescartesError:
    """Why a request that waited for the connection in vain has certainly not happened."""
    if not isinstance(error, UnavailableError | DeadlineExceededError):
        return fresh(error)
    return type(error)(
        f"{error.message}; '{method}' was not sent",
        hint=error.hint,
        retryable=error.retryable,
        details={"sent": False},
    )


def undecided(endpoint: str) -> UnavailableError:
    """The server let nobody in because it could not look up the key."""
    return UnavailableError(
        f"the server at '{endpoint}' could not check the key of this client",
        hint="its log tells why",
    )


def broken(endpoint: str) -> UnavailableError:
    """The handshake failed without a reason, so far less than three times in a row."""
    return UnavailableError(
        f"the handshake with the server at '{endpoint}' failed",
        hint="it may be restarting, or another program listens there",
    )


def denied(endpoint: str, public_key: bytes) -> UnauthenticatedError:
    """The server knows neither this key nor, over its Unix socket, this user."""
    if endpoint.startswith(UNIX):
        uid = os.getuid()
        return UnauthenticatedError(
            f"uid {uid} has no role on the server at '{endpoint}'",
            hint="an administrator gives it one with these lines in descartesd.toml and a reload:"
            f'\n[policy.local_uids]\n{uid} = "operator"',
        )
    return UnauthenticatedError(
        f"key not authorised {fingerprint(public_key)} by the server at '{endpoint}'",
        hint="ask an administrator for a profile: "
        "descartesctl cert issue NAME --role operator --out NAME.toml",
    )


def wrong_server_key(endpoint: str, expected: tuple[bytes, ...]) -> UnauthenticatedError:
    """Somebody answers there and cannot prove to hold any expected key."""
    known = " or ".join(fingerprint(key) for key in expected)
    return UnauthenticatedError(
        f"wrong server key: the server at '{endpoint}' does not hold {known}",
        hint="compare with the server.pub of the server (in its run directory) and correct "
        "server_keys in the profile; if the server's key was not changed, somebody else answers "
        "at this address",
    )


def malformed_endpoint(endpoint: str, why: str) -> InvalidArgumentError:
    """The profile names something that cannot be connected to."""
    return InvalidArgumentError(
        f"endpoint '{endpoint}' cannot be used: {why}",
        hint="an endpoint is tcp://HOST:PORT or ipc:///PATH",
    )


def no_socket(endpoint: str, error: zmq.ZMQError) -> DescartesError:
    """libzmq would not even begin."""
    if error.errno in _MALFORMED:
        return malformed_endpoint(endpoint, error.strerror)
    return UnavailableError(f"cannot connect to '{endpoint}': {error.strerror}")


def check_unix_socket(path: str) -> None:
    """See beforehand what libzmq would not tell.

    Raises UnavailableError when no socket is there, PermissionDeniedError when it may not be used.
    """
    try:
        found = os.stat(path)
    except PermissionError as exc:
        raise _not_permitted(path, None) from exc
    except OSError as exc:
        raise unreachable(UNIX + path) from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise malformed_endpoint(UNIX + path, "it is not a socket")
    if not os.access(path, os.W_OK, effective_ids=True):
        raise _not_permitted(path, found)


def _not_permitted(path: str, found: os.stat_result | None) -> PermissionDeniedError:
    if found is None:
        hint = f"its directory may not be searched: see ls -ld {os.path.dirname(path)}"
    else:
        hint = f"its mode is {stat.filemode(found.st_mode)}, its group '{_group(found.st_gid)}'"
    return PermissionDeniedError(f"the socket '{path}' may not be used by this user", hint=hint)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def how_to_start(endpoint: str) -> str:
    """The command that starts the server of this endpoint, as far as the endpoint tells."""
    if endpoint == UNIX + LOCAL_SOCKET:
        return "start it with: sudo systemctl start descartesd"
    if endpoint.startswith(UNIX):
        home = os.path.dirname(os.path.dirname(endpoint.removeprefix(UNIX)))
        config = os.path.join(home, "descartesd.toml")
        if os.path.exists(config):
            return f"start it with: descartesd --config {config}"
    return "start it with: descartesd --config FILE"


def fresh(error: DescartesError) -> DescartesError:
    """The same error once more, for another caller to raise."""
    return type(error)(
        error.message, hint=error.hint, retryable=error.retryable, details=error.details
    )
