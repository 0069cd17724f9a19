"""Opens the connection a command asked for."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from descartesd.ctl import be_interruptible, end_when_interrupted

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.keys.profile import Profile


class Connection:
    """Tells people when the connection is lost and when it has come back."""

    def __init__(
        self, tell: Callable[[str], None], on_return: Callable[[], None] | None = None
    ) -> None:
        self._tell = tell
        self._on_return = on_return
        self._was_lost = False

    def changed(self, news: str, endpoint: str) -> None:
        """The connection has come, "up", or is gone, "lost"."""
        if news == "lost":
            self._tell(f"the connection to '{endpoint}' was lost; waiting for it")
        elif self._was_lost:
            self._tell(f"connected to '{endpoint}' again")
            if self._on_return is not None:
                self._on_return()
        self._was_lost = news == "lost"


def connect(
    args: Namespace,
    *,
    patient: bool = False,
    connection: Connection | None = None,
    profile: Profile | None = None,
) -> Client:
    """A client as the global options want it; `patient` waits for ever unless `--timeout` says.

    With `profile` it speaks as that says, whatever the options name.
    """
    end_when_interrupted()
    from descartesd.client import Client  # noqa: PLC0415  # start-up time

    be_interruptible()
    gc.enable()
    given: dict[str, Any] = {}
    if args.timeout is not None or patient:
        given["timeout_s"] = args.timeout
    return Client(
        profile or args.profile,
        wait_for_server_s=args.wait_for_server,
        on_connection=None if connection is None else connection.changed,
        **given,
    )
