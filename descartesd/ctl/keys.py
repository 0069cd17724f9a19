"""The keys by which one leaves an agent's terminal; all others are the agent's."""

from __future__ import annotations

_CALL = b"\x1d"
SHOWN = "ctrl-] d"


class Keys:
    """Tells what is typed apart: ctrl-] d leaves, ctrl-] ctrl-] is one ctrl-] for the agent."""

    def __init__(self) -> None:
        self._is_called = False
        self.has_left = False

    def feed(self, typed: bytes) -> bytes:
        """What of it is the agent's; nothing behind the keys that leave."""
        passed = bytearray()
        for key in (typed[at : at + 1] for at in range(len(typed))):
            if not self._is_called:
                self._is_called = key == _CALL
                passed += b"" if self._is_called else key
                continue
            self._is_called = False
            if key == b"d":
                self.has_left = True
                break
            passed += key if key == _CALL else _CALL + key
        return bytes(passed)
