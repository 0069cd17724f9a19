"""The options of descartesd, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.main import main


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["--confg", "x.toml"], "unknown option '--confg'", "did you mean '--config'"),
        (["--confg=x.toml"], "unknown option '--confg'", "did you mean '--config'"),
        (["--chek-config"], "unknown option '--chek-config'", "did you mean '--check-config'"),
        (
            ["init", "x", "--endpont", "y"],
            "unknown option '--endpont'",
            "did you mean '--endpoint'",
        ),
        (["--zzz"], "unknown option '--zzz'", "see: descartesd --help"),
    ],
)
def test_misspelt_option_is_named_with_the_nearest_one(
    words: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2

    assert capsys.readouterr().err == f"error: {error}\nhint: {hint}\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["made"], 0),
        ([""], 2),
        (["d", "--endpoint", "nowhere"], 2),
        (["file/d"], 3),
        (["/sys/d"], 4),
        (["file"], 7),
    ],
)
def test_init_ends_with_the_status_of_its_error(
    words: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")

    assert main(["init", *words]) == status
