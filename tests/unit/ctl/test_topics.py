from __future__ import annotations

from descartesd.ctl.command import NOUNS, SINGLE
from descartesd.ctl.topics import exit_codes, overview, verbs
from descartesd.errors import ERRORS


def test_every_error_stands_beside_its_exit_status() -> None:
    lines = dict(line.split(maxsplit=1) for line in exit_codes().splitlines()[:-2])

    for code, error in ERRORS.items():
        assert code in lines[str(error.exit_status)].split(", ")
    assert set(lines) == {"0", "1", "130", "141"} | {str(e.exit_status) for e in ERRORS.values()}


def test_overview_names_every_noun_and_single_command() -> None:
    first_words = [line.split()[0] for line in overview().splitlines() if line.startswith("  ")]

    assert first_words[: len(NOUNS | SINGLE)] == [*NOUNS, *SINGLE]


def test_verbs_of_a_noun_are_told_with_what_they_do() -> None:
    assert "  health   Tell whether every part of the server works" in verbs("server")
