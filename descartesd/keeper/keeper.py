"""The keeper itself: builds its parts, knows its agents, starts them, and ends in order."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from descartesd.errors import (
    ConflictError,
    DescartesError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from descartesd.keeper import fields, launch, procfs
from descartesd.keeper.agent import DESCRIPTORS, Agent, Agents
from descartesd.keeper.control import Control
from descartesd.keeper.launch import Launch, Launcher
from descartesd.keeper.loop import Loop, Steps, Timer, boottime
from descartesd.keeper.output import Pump
from descartesd.keeper.protocol import FEATURES, STREAMS, VERSION
from descartesd.keeper.recover import Recovery
from descartesd.keeper.server import Operation, Request, Server
from descartesd.keeper.signals import Signals
from descartesd.keeper.stdin import Stdin
from descartesd.keeper.tree import Tree, signal_process
from descartesd.keeper.verbs import SIGNALS_MAX, Verbs
from descartesd.keeper.wait import Reaper

PAGE_MAX: Final = 100
EOF_LIMIT_S: Final = 2.0
SWEPT_LIMIT_S: Final = 5.0
POLL_S: Final = 0.01
