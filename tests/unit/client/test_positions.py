from __future__ import annotations

from msgspec.structs import replace

from descartesd.transport.positions import AttachPosition, FollowPosition
from descartesd.wire.agent import AgentFollow, FollowOffsets, Mark, OutputChunk, StreamName
from descartesd.wire.attach import AgentAttach, AttachOffsets


def chunk(
    data: bytes, offset: int, *, eof: bool = False, stream: StreamName = "stdout"
) -> OutputChunk:
    after = offset + len(data)
    return OutputChunk(
        stream=stream,
        data=data,
        offset=offset,
        next_offset=after,
        total=after,
        truncated_before=0,
        eof=eof,
    )


def test_an_overlap_is_cut_off() -> None:
    position = FollowPosition(AgentFollow(id="worker", offsets=FollowOffsets(stdout=10)))

    assert position.accept(chunk(b"old", 4)) is None
    assert position.accept(chunk(b"ldnew", 8)) == chunk(b"new", 10)
    assert position.accept(chunk(b"new", 10)) is None
    assert position.accept(chunk(b"err", 0, stream="stderr")) == chunk(b"err", 0, stream="stderr")


def test_a_gap_left_by_retention_is_passed_on() -> None:
    position = FollowPosition(AgentFollow(id="worker"))

    assert position.accept(chunk(b"late", 1000)) == chunk(b"late", 1000)
    assert position.request([]).offsets == FollowOffsets(stdout=1004)


def test_the_end_is_told_once() -> None:
    position = FollowPosition(AgentFollow(id="worker", streams=["stdout"]))
    end = chunk(b"", 0, eof=True)

    assert not position.is_complete([])
    assert position.is_complete([end])
    assert position.accept(end) == end
    assert position.accept(end) is None
    assert position.is_complete([])


def test_what_waits_for_the_consumer_is_not_asked_for_again() -> None:
    position = FollowPosition(AgentFollow(id="worker", offsets=FollowOffsets(stdout=5)))

    request = position.request([chunk(b"12345", 5), chunk(b"67", 10)])

    assert request.offsets == FollowOffsets(stdout=12)


def test_an_overlap_of_found_lines_is_cut_off_by_their_offsets() -> None:
    marks = [Mark(at=0, offset=3, time=1.0), Mark(at=4, offset=20, time=2.0),
             Mark(at=9, offset=40, time=3.0)]  # fmt: skip
    found = replace(chunk(b"one\ntwo!\nend\n", 0), next_offset=50, marks=marks)

    def after(offset: int) -> OutputChunk | None:
        offsets = FollowOffsets(stdout=offset)
        return FollowPosition(AgentFollow(id="worker", offsets=offsets)).accept(found)

    assert after(0) == found
    assert after(7) == replace(
        found, data=b"two!\nend\n", offset=7,
        marks=[Mark(at=0, offset=20, time=2.0), Mark(at=5, offset=40, time=3.0)],
    )  # fmt: skip
    assert after(22) == replace(
        found, data=b"o!\nend\n", offset=22,
        marks=[Mark(at=0, offset=22, time=2.0), Mark(at=3, offset=40, time=3.0)],
    )  # fmt: skip
    assert after(45) == replace(found, data=b"", offset=45, marks=[])
    assert after(50) is None


def test_an_attachment_begins_where_its_first_chunk_says() -> None:
    position = AttachPosition(AgentAttach(id="worker", writer="token-12345", steal=True))
    start = chunk(b"", 700)

    assert position.request([]) == AgentAttach(id="worker", writer="token-12345", steal=True)
    assert position.accept(start) == start
    assert position.accept(start) is None
    assert position.accept(chunk(b"ab", 700)) == chunk(b"ab", 700)
    assert position.accept(chunk(b"abc", 700)) == chunk(b"c", 702)


def test_an_attachment_that_goes_on_keeps_its_pen_and_steals_none() -> None:
    position = AttachPosition(AgentAttach(id="worker", writer="token-12345", steal=True))
    position.accept(chunk(b"abc", 700))

    assert position.request([chunk(b"d", 703), chunk(b"", 0, stream="stderr")]) == AgentAttach(
        id="worker", writer="token-12345", offsets=AttachOffsets(stdout=704, stderr=0)
    )


def test_an_attachment_is_complete_when_both_streams_have_ended() -> None:
    position = AttachPosition(AgentAttach(id="worker"))
    position.accept(chunk(b"a", 0, eof=True))

    assert not position.is_complete([])
    assert position.is_complete([chunk(b"b", 0, eof=True, stream="stderr")])
