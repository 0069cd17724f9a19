"""The ZeroMQ context of a server process."""

from __future__ import annotations

import ctypes
import os
from typing import TypeAlias

import zmq

IO_THREADS = 1
Context: TypeAlias = zmq.Context[zmq.Socket[bytes]]


def server_context() -> Context:
    """Make the context; must run before the process creates its first ROUTER.

    libzmq draws the routing ids it gives out from the C library's rand(3) and seeds it nowhere:
    without this they are the same in every process.
    """
    libc = ctypes.CDLL(None)
    libc.srand.argtypes = [ctypes.c_uint]
    libc.srand.restype = None
    libc.srand(int.from_bytes(os.urandom(4), "little"))
    return zmq.Context(io_threads=IO_THREADS)
