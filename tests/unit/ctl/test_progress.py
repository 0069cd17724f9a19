from __future__ import annotations

import io
import sys

import pytest

from descartesd.ctl.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal: in the test itself, for pytest sets it anew after the fixtures."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    return made


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = terminal(monkeypatch)

    with progress(wanted=True) as show:
        show("requests", 5, 10)

    assert "requests" in watched.getvalue()


def test_without_rich_it_is_a_line_that_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.console", None)

    with progress(wanted=True) as show:
        show("requests", 5, 10)

    assert "requests: 5 of 10" in watched.getvalue()
    assert watched.getvalue().endswith("\r\x1b[K")


def test_nothing_is_drawn_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = terminal(monkeypatch)

    with progress(wanted=False) as show:
        show("requests", 5, 10)

    assert watched.getvalue() == ""


def test_nothing_is_drawn_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(wanted=True) as show:
        show("requests", 5, 10)

    assert capsys.readouterr().err == ""
