"""Ticks into a file until it is ended, and so does a daemon it leaves: `tick.py FILE`."""

from __future__ import annotations

import os
import sys
import time


def tick(path: str) -> None:
    """Add a character to the file again and again."""
    for _ in range(3000):
        with open(path, "a", encoding="ascii") as file:
            file.write(".")
        time.sleep(0.1)


if __name__ == "__main__":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            tick(f"{sys.argv[1]}.daemon")
        os._exit(0)
    tick(sys.argv[1])
