"""Every error that crosses a process boundary: code on the wire, exit status, retryable.

DescartesError
├── InvalidArgumentError    the request is wrong as written
├── NotFoundError           no such agent, method, certificate
├── UnauthenticatedError    key unknown, revoked or expired; wrong server key
├── PermissionDeniedError   the role is too small
├── UnavailableError        the daemon or the keeper cannot be reached
├── AbortedError            cut short by a crash; nothing was left half done
├── DeadlineExceededError   no answer in time; the work may still happen
├── ConflictError           the agent's state forbids this
├── AlreadyExistsError      the name is taken
├── ResourceExhaustedError  a limit was reached
├── WouldBlockError         the agent does not read its stdin
├── UnimplementedError      this daemon or backend cannot do that
├── InternalError           a bug of ours
└── StartupRefusedError     configuration or state refused at start

A class exists only where a caller should act differently.
"""

from __future__ import annotations

from typing import Any, ClassVar


class DescartesError(Exception):
    """Base of the family: a sentence, a next step and details, each safe to show to a client."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 70
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable
        self.details = details


class InvalidArgumentError(DescartesError):
    """The request is wrong as written; sent again unchanged it fails again."""

    code = "invalid_argument"
    exit_status = 2


class NotFoundError(DescartesError):
    """What was named does not exist, or may not be seen."""

    code = "not_found"
    exit_status = 3


class UnauthenticatedError(DescartesError):
    """The key is unknown, revoked or expired, or the server's key is not the expected one."""

    code = "unauthenticated"
    exit_status = 4


class PermissionDeniedError(DescartesError):
    """The caller is known and may not do this."""

    code = "permission_denied"
    exit_status = 4


class UnavailableError(DescartesError):
    """Nobody serves at the endpoint now; a later try may succeed."""

    code = "unavailable"
    exit_status = 5
    default_retryable = True


class AbortedError(DescartesError):
    """The request was cut short by a restart and was not carried out."""

    code = "aborted"
    exit_status = 5


class DeadlineExceededError(DescartesError):
    """The answer did not come in time; what was asked for may still happen."""

    code = "deadline_exceeded"
    exit_status = 6


class ConflictError(DescartesError):
    """The state of the target forbids this; the message names the state and what is needed."""

    code = "conflict"
    exit_status = 7


class AlreadyExistsError(DescartesError):
    """The name is taken."""

    code = "already_exists"
    exit_status = 7


class ResourceExhaustedError(DescartesError):
    """A limit was reached; the message names the limit and its value."""

    code = "resource_exhausted"
    exit_status = 8
    default_retryable = True


class WouldBlockError(DescartesError):
    """The agent does not read its stdin and the buffer is full."""

    code = "would_block"
    exit_status = 8
    default_retryable = True


class UnimplementedError(DescartesError):
    """This daemon, keeper or backend cannot do that."""

    code = "unimplemented"
    exit_status = 9


class InternalError(DescartesError):
    """A bug of ours; the journal has the traceback under the incident id."""

    code = "internal"
    exit_status = 70


class StartupRefusedError(DescartesError):
    """Configuration or state refused at start, a second daemon on the same state included."""

    code = "startup_refused"
    exit_status = 78


ERRORS: dict[str, type[DescartesError]] = {
    cls.code: cls
    for cls in (
        InvalidArgumentError,
        NotFoundError,
        UnauthenticatedError,
        PermissionDeniedError,
        UnavailableError,
        AbortedError,
        DeadlineExceededError,
        ConflictError,
        AlreadyExistsError,
        ResourceExhaustedError,
        WouldBlockError,
        UnimplementedError,
        InternalError,
        StartupRefusedError,
    )
}


def from_wire(
    code: str,
    message: str,
    *,
    hint: str | None = None,
    retryable: bool = False,
    details: dict[str, Any] | None = None,
) -> DescartesError:
    """Rebuild the error a peer sent; a code this version does not know becomes `internal`."""
    cls = ERRORS.get(code, InternalError)
    return cls(message, hint=hint, retryable=retryable, details=details)
