"""What verification finds in an audit log that somebody has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from descartesd.observe.audit_line import hash_of
from tests.support.auditlog import Place, done

Lines = list[bytes]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    log = place.open()
    done(log, 8)
    log.close()
    assert place.verify().holds
    return place


def changed(lines: Lines) -> Lines:
    return [*lines[:4], lines[4].replace(b"agent-3", b"agent-4"), *lines[5:]]


def removed(lines: Lines) -> Lines:
    return lines[:4] + lines[5:]


def swapped(lines: Lines) -> Lines:
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


def inserted(lines: Lines) -> Lines:
    return [*lines[:5], lines[4], *lines[5:]]


def blank(lines: Lines) -> Lines:
    return [*lines[:5], b"\n", *lines[5:]]


def cut(lines: Lines) -> Lines:
    return lines[:-3]


def cut_in_the_middle(lines: Lines) -> Lines:
    return [*lines[:-3], lines[-3][:20]]


def beheaded(lines: Lines) -> Lines:
    return lines[2:]


def emptied(_lines: Lines) -> Lines:
    return []


def written_anew(lines: Lines) -> Lines:
    """Change a line and make the chain right again, as who has no key can."""
    found = [json.loads(line) for line in lines]
    found[4]["identity"] = "uid:0"
    made: Lines = []
    for line in found:
        if made:
            line["prev"] = hash_of(made[-1].rstrip(b"\n"))
        made.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return made


@pytest.mark.parametrize(
    ("tamper", "line", "seq", "what"),
    [
        (changed, 5, 5, "was changed"),
        (removed, 5, 6, "lines 5 to 5 are missing before it"),
        (swapped, 5, 6, "lines 5 to 5 are missing before it"),
        (inserted, 6, 5, "was inserted or moved"),
        (blank, 6, 6, "was changed: it is no line"),
        (cut, 7, 7, "the signed head is line 10: its tail was cut"),
        (cut_in_the_middle, 7, 7, "the signed head is line 10: its tail was cut"),
        (beheaded, 1, 3, "lines 1 to 2 are missing: the log begins late"),
        (emptied, 0, 0, "the signed head is line 10: its tail was cut"),
        (written_anew, 10, 10, "is not the line that was signed"),
    ],
)
def test_tampering_is_found_and_its_place_named(
    place: Place, tamper: Callable[[Lines], Lines], line: int, seq: int, what: str
) -> None:
    place.write(tamper(place.lines))

    report = place.verify()

    assert not report.holds
    fault = report.faults[0]
    assert (fault.line, fault.seq) == (line, seq)
    assert what in fault.what


@pytest.mark.parametrize("tamper", [changed, cut, emptied, removed, written_anew])
def test_a_restart_does_not_bless_what_was_tampered_with(
    place: Place, tamper: Callable[[Lines], Lines]
) -> None:
    place.write(tamper(place.lines))

    log = place.open()
    done(log, 3)
    log.close()

    assert not place.verify().holds


def test_every_flipped_bit_is_found(place: Place) -> None:
    whole = place.file.read_bytes()
    for at in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        place.file.write_bytes(flipped)
        assert not place.verify().holds, at


def test_a_tail_that_was_never_signed_can_be_cut_unseen_and_is_told_as_unsigned(
    place: Place,
) -> None:
    done(place.open(), 3)
    report = place.verify()
    assert report.unsigned == 4

    place.write(place.lines[:-1])

    assert place.verify().holds
    assert place.verify().unsigned == 3


def test_a_head_of_somebody_else_is_refused(place: Place) -> None:
    assert place.head is not None
    head = json.loads(place.head)
    head["seq"] -= 1
    place.head = json.dumps(head)

    report = place.verify()

    assert "the signature of the head does not hold" in [fault.what for fault in report.faults]


def test_without_a_head_nothing_can_be_said(place: Place) -> None:
    place.head = None

    (fault,) = place.verify().faults

    assert fault.what == "there is no signed head: a cut tail cannot be told"


def test_a_missing_file_in_the_middle_is_found(tmp_path: Path) -> None:
    place = Place(tmp_path)
    log = place.open(max_bytes=1500, keep_files=50)
    done(log, 30)
    log.close()
    assert place.verify().holds
    files = sorted(tmp_path.glob("audit-*.jsonl"))

    files[2].unlink()

    report = place.verify()
    assert report.faults[0].file == files[3].name
    assert report.faults[0].line == 1
    assert "are missing before it" in report.faults[0].what
