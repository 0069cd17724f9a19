"""The modes a terminal is put in by what a program writes to it (ECMA-48, xterm's ctlseqs)."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"(?P<reset>c|\[!p)"
    rb"|(?P<keypad>[=>])"
    rb"|\[\?(?P<modes>[0-9;]{1,64})(?P<switch>[hl])"
    rb"|\[>4(?:;(?P<level>[0-9]))?m"
    rb"|\[(?P<flags>[<>=])(?P<numbers>[0-9;]{0,16})u"
    rb")"
)
_LONGEST = 80
_SCREENS = (47, 1047, 1049)
# Switched on where nothing was written: wrapping at the margin, and the cursor.
_USUALLY_ON = (7, 25)
# Cursor keys, reverse video, origin, wrapping, cursor, its blinking, keypad, mouse, focus, paste.
_KEPT = frozenset(
    (1, 5, 6, 7, 12, 25, 66, *_SCREENS, 9, *range(1000, 1008), 1015, 1016, 2004)
)  # fmt: skip
# What the soft reset, DECSTR, puts back.
_SOFT = (1, 6, 7, 25, 66)


class Modes:
    """The modes in force behind everything fed so far, in pieces of any size."""

    def __init__(self) -> None:
        self._left = b""
        self._switches: dict[int, bool] = {}
        self._has_keypad = False
        # xterm's modifyOtherKeys, and the stack of kitty's keyboard flags.
        self._level = 0
        self._flags: list[int] = []

    def feed(self, data: bytes) -> None:
        """Take note of what a program has written."""
        data = self._left + data
        end = 0
        for found in _SEQUENCE.finditer(data):
            self._note(found)
            end = found.end()
        begun = data.rfind(b"\x1b", max(end, len(data) - _LONGEST))
        self._left = data[begun:] if begun >= 0 else b""

    def _note(self, found: re.Match[bytes]) -> None:
        if found["reset"] == b"c":
            self._switches, self._flags = {}, []
            self._has_keypad, self._level = False, 0
        elif found["reset"]:
            self._has_keypad = False
            for mode in _SOFT:
                self._switches.pop(mode, None)
        elif found["keypad"]:
            self._has_keypad = found["keypad"] == b"="
        elif found["modes"]:
            for mode in _KEPT.intersection(map(int, filter(None, found["modes"].split(b";")))):
                self._switches[mode] = found["switch"] == b"h"
        elif found["flags"]:
            self._note_flags(found["flags"], int(found["numbers"].partition(b";")[0] or 0))
        else:
            self._level = int(found["level"] or 0)

    def _note_flags(self, change: bytes, number: int) -> None:
        if change == b">":
            self._flags = [*self._flags[-15:], number]
        elif change == b"<":
            del self._flags[-max(number, 1) :]
        else:
            self._flags[-1:] = [number]

    @property
    def has_other_screen(self) -> bool:
        """Whether the alternate screen is shown."""
        return any(self._switches.get(mode, False) for mode in _SCREENS)

    def enter(self) -> bytes:
        """The sequences that put a terminal as it was switched on into these modes."""
        screens, others = self._changed()
        parts = [b"\x1b[?%dh" % mode for mode in screens]
        parts += [b"\x1b[?%d%c" % (mode, b"h" if on else b"l") for mode, on in others.items()]
        if self._has_keypad:
            parts.append(b"\x1b=")
        if self._level:
            parts.append(b"\x1b[>4;%dm" % self._level)
        parts += [b"\x1b[>%du" % flags for flags in self._flags]
        return b"".join(parts)

    def leave(self) -> bytes:
        """The sequences that bring a terminal out of these modes; empty when there are none."""
        screens, others = self._changed()
        parts = [b"\x1b[<%du" % len(self._flags)] if self._flags else []
        if self._level:
            parts.append(b"\x1b[>4m")
        if self._has_keypad:
            parts.append(b"\x1b>")
        parts += [b"\x1b[?%d%c" % (mode, b"l" if on else b"h") for mode, on in others.items()]
        # The margins are those of both screens; to set them moves the cursor.
        parts += [b"\x1b[r\x1b[?%dl" % mode for mode in screens]
        return b"".join(parts)

    def _changed(self) -> tuple[list[int], dict[int, bool]]:
        """The other screen, if it is shown, and the switches that are not as usual."""
        changed = {mode: on for mode, on in self._switches.items() if on != (mode in _USUALLY_ON)}
        screens = [mode for mode in _SCREENS if changed.pop(mode, False)]
        return screens[-1:], changed
