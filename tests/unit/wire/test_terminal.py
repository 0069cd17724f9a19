from __future__ import annotations

import pytest

from descartesd.wire.terminal import Modes

VIM = (
    b"\x1b[?1049h\x1b[>4;2m\x1b[?1h\x1b=\x1b[?2004h\x1b[?1004h\x1b[1;24r\x1b[?12h\x1b[?12l\x1b[?25l"
)


def fed(*pieces: bytes) -> Modes:
    modes = Modes()
    for piece in pieces:
        modes.feed(piece)
    return modes


def test_modes_a_program_has_set_can_be_entered_and_left() -> None:
    modes = fed(VIM)

    assert modes.has_other_screen
    assert modes.enter() == (b"\x1b[?1049h\x1b[?1h\x1b[?2004h\x1b[?1004h\x1b[?25l\x1b=\x1b[>4;2m")
    assert modes.leave() == (
        b"\x1b[>4m\x1b>\x1b[?1l\x1b[?2004l\x1b[?1004l\x1b[?25h\x1b[r\x1b[?1049l"
    )


def test_what_is_entered_is_left_again() -> None:
    assert fed(VIM, fed(VIM).leave()).enter() == b""
    assert fed(fed(VIM).enter()).enter() == fed(VIM).enter()


def test_modes_are_the_same_wherever_the_output_is_cut() -> None:
    whole = fed(VIM).enter()

    for at in range(len(VIM)):
        assert fed(VIM[:at], VIM[at:]).enter() == whole
    assert fed(*(VIM[at : at + 1] for at in range(len(VIM)))).enter() == whole


@pytest.mark.parametrize(
    ("written", "entered"),
    [
        (b"plain \x1b[31mtext\x1b[m", b""),
        (b"\x1b[?1049h\x1b[?1049l", b""),
        (b"\x1b[?1000;1006h", b"\x1b[?1000h\x1b[?1006h"),
        (b"\x1b[?25l\x1bc", b""),
        (b"\x1b[?1049h\x1b[?25l\x1b=\x1b[!p", b"\x1b[?1049h"),
        (b"\x1b[>1u\x1b[>5u", b"\x1b[>1u\x1b[>5u"),
        (b"\x1b[>1u\x1b[>5u\x1b[<u", b"\x1b[>1u"),
        (b"\x1b[>1u\x1b[=7;1u", b"\x1b[>7u"),
        (b"\x1b[>1u\x1b[<9u", b""),
        # Nobody wants these again: 132 columns clear the screen, and held output is let go.
        (b"\x1b[?3h\x1b[?2026h\x1b[?99999h", b""),
        (b"\x1b[?\x1b[?;h\x1b\x1b[", b""),
    ],
)
def test_only_what_is_unusual_and_wanted_is_entered(written: bytes, entered: bytes) -> None:
    modes = fed(written)

    assert modes.enter() == entered
    assert bool(modes.leave()) == bool(entered)
