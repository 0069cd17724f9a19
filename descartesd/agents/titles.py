"""Finds the title a program has given its terminal."""

from __future__ import annotations

import re

# Operating system commands 0 and 2, ended by BEL or ST (xterm control sequences, "OSC").
_TITLE = re.compile(rb"\x1b\](?:0|2);([^\x07\x1b]*)(?:\x07|\x1b\\)")
SEARCHED = 65_536
_TITLE_MAX = 256


def last_title(data: bytes) -> str | None:
    """The last title set in what a terminal was sent; None when there is none.

    At most 256 characters, none of which moves a cursor or turns the direction of writing.
    """
    titles = _TITLE.findall(data[-SEARCHED:])
    if not titles:
        return None
    text = titles[-1].decode(errors="replace")
    return "".join(each for each in text if each.isprintable())[:_TITLE_MAX].strip()
