"""Opens the connection a command asked for."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descartesd.client import Client


def connect(
    args: Namespace,
    *,
    patient: bool = False,
    on_connection: Callable[[str, str], object] | None = None,
) -> Client:
    """A client as the global options want it; `patient` waits for ever unless `--timeout` says."""
    from descartesd.client import Client  # noqa: PLC0415  # start-up time

    gc.enable()
    given: dict[str, Any] = {}
    if args.timeout is not None or patient:
        given["timeout_s"] = args.timeout
    return Client(
        args.profile,
        wait_for_server_s=args.wait_for_server,
        on_connection=on_connection,
        **given,
    )
