"""Finds where the audit log ends when the server starts: where to go on, and what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from descartesd.observe.audit_chain import Chain
from descartesd.observe.audit_files import CURRENT, Piece, backwards, open_to_read, pieces
from descartesd.observe.audit_head import Head
from descartesd.observe.audit_line import NOTHING, decoded, hash_of

_BLOCK = 1 << 16


class End(NamedTuple):
    """The last whole line, the first line of the current file, the oldest line kept.

    `size` is that of the whole lines of the current file, `torn` what stands behind them; `fault`
    says why the log is not the one that was signed.
    """

    seq: int
    hash: str
    file_first: int
    first: int
    size: int
    torn: bytes
    fault: str | None


def find_end(directory: str, head: Head | None) -> End:
    """Look at the ends of the files, and at what came after the signed head. Raises OSError."""
    found = pieces(directory)
    seq, hash_ = _last_line(directory, found, head)
    size, torn = 0, b""
    file_first = seq + 1
    if found and found[-1].name == CURRENT:
        size, torn = _whole(directory)
        if size:
            file_first = _first_seq(directory, CURRENT) or file_first
    first = file_first
    if found and found[0].first is not None:
        first = found[0].first
    fault = None
    if head is not None:
        fault = _ends_early(seq, hash_, head) or _fault(directory, found, head, file_first)
        # A number that was given once is not given again.
        seq = max(seq, head.seq)
    elif seq:
        fault = "there are lines and no signed head for them"
    return End(seq, hash_, file_first, first, size, torn, fault)


def _backwards(directory: str, name: str, size: int | None = None) -> Iterator[bytes]:
    """The lines of a file, or of its first bytes, the last one first. Raises OSError."""
    fd = open_to_read(directory, name)
    try:
        yield from backwards(fd, os.fstat(fd).st_size if size is None else size)
    finally:
        os.close(fd)


def _last_line(directory: str, found: list[Piece], head: Head | None) -> tuple[int, str]:
    """Number and hash of the last line; lines that cannot be read are counted."""
    damaged, hash_ = 0, None
    for piece in reversed(found):
        size = _whole(directory)[0] if piece.name == CURRENT else None
        for data in _backwards(directory, piece.name, size):
            hash_ = hash_ or hash_of(data)
            line = decoded(data)
            if line is not None:
                return line.seq + damaged, hash_
            damaged += 1
    return (damaged if head is None else head.seq), hash_ or NOTHING


def _whole(directory: str) -> tuple[int, bytes]:
    """The bytes of whole lines in the current file, and what stands behind them."""
    fd = open_to_read(directory, CURRENT)
    try:
        at = size = os.fstat(fd).st_size
        tail = b""
        while at > 0:
            length = min(_BLOCK, at)
            at -= length
            tail = os.pread(fd, length, at) + tail
            if b"\n" in tail:
                torn = tail[tail.rfind(b"\n") + 1 :]
                return size - len(torn), torn
        return 0, tail
    finally:
        os.close(fd)


def _first_seq(directory: str, name: str) -> int | None:
    with open(open_to_read(directory, name), "rb") as file:
        line = decoded(file.readline(_BLOCK).rstrip(b"\n"))
    return None if line is None else line.seq


def _ends_early(seq: int, hash_: str, head: Head) -> str | None:
    if seq < head.seq:
        return f"the log ends with line {seq}, the signed head is line {head.seq}: its tail was cut"
    if seq == head.seq and hash_ != head.hash:
        return f"line {seq} is not the one that was signed"
    return None


def _fault(directory: str, found: list[Piece], head: Head, file_first: int) -> str | None:
    names = [piece.name for piece in found]
    if not names:
        return None if head.seq == 0 else "every file of the log is missing"
    signed = f"audit-{head.file_first:012d}.jsonl"
    if signed not in names:
        if head.file_first != file_first or CURRENT not in names:
            return f"the file that was signed last, from line {head.file_first} on, is missing"
        signed = CURRENT
    chain = Chain(head, seq=head.seq, hash_=head.hash)
    fault = _check_signed_line(directory, signed, head)
    if fault is not None:
        return fault
    at = head.offset
    for name in names[names.index(signed) :]:
        _follow(chain, directory, name, at)
        at = 0
    if chain.faults:
        worst = chain.faults[0]
        return f"line {worst.seq} {worst.what}"
    return None


def _check_signed_line(directory: str, name: str, head: Head) -> str | None:
    fd = open_to_read(directory, name)
    try:
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if size < head.offset:
        return f"'{name}' ends before line {head.seq}, which was signed: its tail was cut"
    if head.offset == 0:
        # The file had just been begun.
        return None
    line = next(_backwards(directory, name, head.offset), b"")
    if hash_of(line) != head.hash:
        return f"line {head.seq} is not the one that was signed"
    return None


def _follow(chain: Chain, directory: str, name: str, offset: int) -> None:
    with open(open_to_read(directory, name), "rb") as file:
        file.seek(offset)
        for number, data in enumerate(file, 1):
            if data.endswith(b"\n"):
                chain.take(name, number, data[:-1])
