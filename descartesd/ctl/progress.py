"""How far a long command is, on stderr, when somebody watches it there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What is done, how much of it, and of how much.
Show = Callable[[str, int, int], None]
_ERASE_LINE = "\r\x1b[K"


@contextmanager
def progress(*, wanted: bool) -> Iterator[Show]:
    """A bar by rich, or a plain line without it; nothing unless `wanted` on a terminal."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield _hide
        return
    try:
        from rich.console import Console  # noqa: PLC0415  # optional, and dear to import
        from rich.progress import Progress  # noqa: PLC0415
    except ImportError:
        try:
            yield _show_line
        finally:
            print(_ERASE_LINE, end="", file=sys.stderr, flush=True)
        return
    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def show(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = bars.add_task(text)
            bars.update(tasks[text], completed=done, total=total)

        yield show


def _hide(_text: str, _done: int, _total: int) -> None:
    pass


def _show_line(text: str, done: int, total: int) -> None:
    print(f"{_ERASE_LINE}{text}: {done} of {total}", end="", file=sys.stderr, flush=True)
