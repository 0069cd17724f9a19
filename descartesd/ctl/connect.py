"""Opens the connection a command asked for."""

from __future__ import annotations

import gc
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from descartesd.ctl import be_interruptible, end_when_interrupted

if TYPE_CHECKING:
    from descartesd.client import Client
    from descartesd.ctl.output import Output


def connect(
    args: Namespace,
    *,
    patient: bool = False,
    tell: Output | None = None,
) -> Client:
    """A client as the global options want it; `patient` waits for ever unless `--timeout` says.

    What `tell` prints for people says as well that the connection was lost or has come back.
    """
    end_when_interrupted()
    from descartesd.client import Client  # noqa: PLC0415  # start-up time

    be_interruptible()
    gc.enable()
    given: dict[str, Any] = {}
    if args.timeout is not None or patient:
        given["timeout_s"] = args.timeout
    return Client(
        args.profile,
        wait_for_server_s=args.wait_for_server,
        on_connection=None if tell is None else _Connection(tell).changed,
        **given,
    )


class _Connection:
    """Tells people when the connection is lost and when it has come back."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._was_lost = False

    def changed(self, news: str, endpoint: str) -> None:
        if news == "lost":
            self._out.note(f"the connection to '{endpoint}' was lost; waiting for it")
        elif self._was_lost:
            self._out.note(f"connected to '{endpoint}' again")
        self._was_lost = news == "lost"
