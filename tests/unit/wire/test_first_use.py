"""Threads that meet a kind of reply for the first time together; the process may die of it."""

from __future__ import annotations

import subprocess
import sys

# The first thread is held up while msgspec looks at the kind; the second comes meanwhile.
PROGRAM = """
from __future__ import annotations

import threading
import msgspec
from descartesd.wire.codec import decode_as

begun, go_on = threading.Event(), threading.Event()

def held_up() -> type:
    begun.set()
    go_on.wait()
    return int

class Inner(msgspec.Struct):
    number: held_up()

class Outer(msgspec.Struct):
    inner: Inner
    name: str = ""

def use() -> None:
    assert decode_as(Outer, payload).inner.number == 1

payload = msgspec.msgpack.encode({"inner": {"number": 1}, "name": "x"})
first, second = threading.Thread(target=use), threading.Thread(target=use)
first.start()
begun.wait()
second.start()
# It waits for the first, or is gone.
second.join(0.2)
go_on.set()
first.join()
second.join()
"""


def test_threads_may_meet_a_kind_for_the_first_time_together() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
