"""Opens the connection a command asked for."""

from __future__ import annotations

import gc
from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from descartesd.client import Client


def connect(args: Namespace, *, patient: bool = False) -> Client:
    """A client as the global options want it; `patient` waits for ever unless `--timeout` says."""
    from descartesd.client import Client  # noqa: PLC0415  # start-up time

    gc.enable()
    if args.timeout is None and not patient:
        return Client(args.profile, wait_for_server_s=args.wait_for_server)
    return Client(args.profile, timeout_s=args.timeout, wait_for_server_s=args.wait_for_server)
