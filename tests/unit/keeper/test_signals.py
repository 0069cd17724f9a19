"""Signals become calls from the loop, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
from descartesd.keeper.loop import Loop
from descartesd.keeper.signals import Signals, reset_ignored, unblock_all
reset_ignored()
unblock_all()
print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, signal.pthread_sigmask(0, ()) == set())
loop, told = Loop(), []

def ended():
    told.append("end")
    loop.stop()

Signals(loop, on_child=lambda: told.append("child"), on_end=ended)
for signum in signal.valid_signals():
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        assert signal.getsignal(signum) != signal.SIG_IGN, signum
if os.fork() == 0:
    os._exit(0)
os.wait()
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGUSR2)
loop.call_later(0.05, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(70000)])
loop.run()
print(told)
"""


def test_signals_are_told_apart_and_none_is_lost_in_a_storm() -> None:
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, text=True
    )

    assert told.stdout.splitlines() == ["True True", "['child', 'end']"]
