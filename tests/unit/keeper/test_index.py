"""The time index on its own: when it notes, how it stays bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from descartesd.keeper import index
from descartesd.keeper.index import TimeIndex
from descartesd.keeper.protocol import INDEX_ENTRY, INDEX_HEADER, INDEX_MAGIC


def entries(path: Path) -> list[tuple[int, float]]:
    return list(INDEX_ENTRY.iter_unpack(path.read_bytes()[INDEX_HEADER.size :]))


def test_notes_the_first_byte_then_every_tenth_of_a_second_or_64_kib(tmp_path: Path) -> None:
    path = tmp_path / "idx"
    made = TimeIndex(str(path))
    assert not path.exists()

    marks = [(0, 10.0), (5, 10.0625), (9, 10.25), (10, 10.3), (70_000, 10.3125), (70_001, 10.33)]
    for offset, now in marks:
        made.mark(offset, now)
    made.close()

    assert entries(path) == [(0, 10.0), (9, 10.25), (70_000, 10.3125)]


def test_notes_again_after_the_clock_was_set_back(tmp_path: Path) -> None:
    made = TimeIndex(str(tmp_path / "idx"))

    made.mark(0, 1000.0)
    made.mark(1, 10.0)
    made.mark(1, 11.0)
    made.close()

    assert entries(tmp_path / "idx") == [(0, 1000.0), (1, 10.0)]


def test_head_outlives_the_process_and_a_torn_entry_does_not(tmp_path: Path) -> None:
    path = tmp_path / "idx"
    made = TimeIndex(str(path))
    made.mark(0, 1.0)
    made.mark(70_000, 2.0)
    made.move_head(4096)
    made.close()
    with path.open("ab") as file:
        file.write(b"torn")

    again = TimeIndex(str(path))
    again.load()
    assert again.head == 4096
    again.mark(140_000, 3.0)
    again.close()

    assert INDEX_HEADER.unpack_from(path.read_bytes()) == (INDEX_MAGIC, 0, 4096)
    assert entries(path) == [(0, 1.0), (70_000, 2.0), (140_000, 3.0)]


@pytest.mark.parametrize("content", [b"", b"DX", b"ZZZZ" + bytes(12)])
def test_file_that_is_no_index_has_no_head(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "idx").write_bytes(content)

    made = TimeIndex(str(tmp_path / "idx"))
    made.load()
    assert made.head == 0


def fill(made: TimeIndex, first: int, count: int) -> None:
    for number in range(first, first + count):
        made.mark(number * 65_536, float(number))


def test_full_index_first_drops_what_is_before_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ENTRIES_MAX", 100)
    path = tmp_path / "idx"
    made = TimeIndex(str(path))
    fill(made, 0, 100)
    made.move_head(80 * 65_536 + 4096)

    fill(made, 100, 1)
    made.close()

    # The entry that covers the head stays.
    assert [when for _, when in entries(path)] == [float(n) for n in range(80, 101)]
    again = TimeIndex(str(path))
    again.load()
    assert again.head == 80 * 65_536 + 4096
    assert [each.name for each in tmp_path.iterdir()] == ["idx"]


def test_full_index_of_a_stream_that_keeps_all_is_thinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ENTRIES_MAX", 100)
    path = tmp_path / "idx"
    made = TimeIndex(str(path))

    fill(made, 0, 1000)
    made.close()

    found = entries(path)
    assert 50 <= len(found) <= 100
    assert found == sorted(found)
    assert found[0] == (0, 0.0)
    assert found[-1] == (999 * 65_536, 999.0)
    assert all(offset == int(when) * 65_536 for offset, when in found)


def test_index_that_cannot_be_made_raises_and_comes_later(tmp_path: Path) -> None:
    made = TimeIndex(str(tmp_path / "later" / "idx"))
    with pytest.raises(FileNotFoundError):
        made.mark(0, 1.0)

    (tmp_path / "later").mkdir()
    made.mark(0, 2.0)
    made.close()

    assert entries(tmp_path / "later" / "idx") == [(0, 2.0)]


def test_failed_compaction_leaves_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ENTRIES_MAX", 10)
    path = tmp_path / "idx"
    made = TimeIndex(str(path))
    fill(made, 0, 10)
    (tmp_path / "idx.new").mkdir()

    with pytest.raises(IsADirectoryError):
        fill(made, 10, 1)
    (tmp_path / "idx.new").rmdir()
    fill(made, 10, 1)
    made.close()

    assert [when for _, when in entries(path)] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
