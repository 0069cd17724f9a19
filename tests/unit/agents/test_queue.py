"""Who waits is served by priority, then by turn; and everybody's place is known."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.queue import Queue, Timetable

# Each comes with a priority, or one of those before it leaves, or the first is taken.
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(-3, 3)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("take"), st.just(0)),
    ),
    max_size=60,
)


@given(_STEPS)
def test_queue_gives_out_turns_by_priority_then_first_come(steps: list[tuple[str, int]]) -> None:
    queue = Queue()
    model: list[tuple[int, int, str]] = []
    taken: set[str] = set()
    for number, (step, value) in enumerate(steps):
        if step == "join":
            turn = queue.next_turn()
            queue.join(f"a{number}", value, turn)
            model.append((-value, turn, f"a{number}"))
        elif step == "leave" and model:
            queue.leave(model.pop(value % len(model))[2])
        elif step == "take" and model:
            model.sort()
            assert queue.take() == model[0][2]
            taken.add(model.pop(0)[2])
        model.sort()
        assert len(queue) == len(model)
        assert [queue.position(each[2]) for each in model] == list(range(1, len(model) + 1))
        assert all(queue.position(each) is None and each not in queue for each in taken)
        assert queue.taken == taken


def test_who_was_taken_holds_a_slot_until_it_leaves() -> None:
    queue = Queue()
    queue.join("a", 0, queue.next_turn())

    assert queue.take() == "a"
    queue.asked.add("a")
    assert (queue.taken, queue.asked) == ({"a"}, {"a"})
    queue.leave("a")
    assert (queue.taken, queue.asked) == (set(), set())
    with pytest.raises(IndexError):
        queue.take()


def test_turns_go_on_behind_those_of_a_former_life() -> None:
    queue = Queue()
    queue.join("old", 0, 41)
    queue.join("new", 0, queue.next_turn())

    assert (queue.take(), queue.take()) == ("old", "new")


def test_somebody_is_told_when_there_may_be_a_turn() -> None:
    queue = Queue()
    told: list[int] = []
    queue.on_turn = lambda: told.append(len(queue))
    queue.join("a", 0, 1)
    queue.join("a", 0, 1)

    assert told == [1]


def test_places_in_a_queue_of_ten_thousand_are_found_without_counting() -> None:
    queue = Queue()
    for number in range(10_000):
        queue.join(f"{number:05d}", 0, queue.next_turn())

    began = time.perf_counter()
    places = [queue.position(f"{number:05d}") for number in range(10_000)]

    assert places == list(range(1, 10_001))
    # Counting would take 50 million steps: several seconds.
    assert time.perf_counter() - began < 1


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=40), st.floats(0, 100))
def test_timetable_gives_those_whose_time_has_come(
    entries: list[tuple[int, float]], now: float
) -> None:
    timetable = Timetable()
    model: dict[str, float] = {}
    for number, due in entries:
        timetable.add(f"a{number}", due)
        model[f"a{number}"] = due

    assert timetable.next_due() == min(model.values(), default=None)
    due_now = timetable.take_due(now)
    assert sorted(due_now) == sorted(each for each, due in model.items() if due <= now)
    assert [model[each] for each in due_now] == sorted(model[each] for each in due_now)
    assert len(timetable) == len(model) - len(due_now)
    assert timetable.next_due() == min((due for due in model.values() if due > now), default=None)


def test_who_is_discarded_is_not_due_any_more() -> None:
    timetable = Timetable()
    timetable.add("a", 1.0)
    timetable.add("b", 2.0)
    timetable.discard("a")

    assert timetable.next_due() == 2.0
    assert timetable.take_due(5.0) == ["b"]
    assert timetable.next_due() is None


def test_whose_owner_has_no_room_is_passed_over_and_keeps_its_place() -> None:
    queue = Queue()
    for agent_id, owner in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        queue.join(agent_id, 0, queue.next_turn(), owner)

    assert queue.take(lambda owner: owner == "b") == "b1"
    assert queue.taken_of == {"b": 1}
    assert not queue.has_turn(lambda owner: owner == "b")
    assert [queue.position(each) for each in ("a1", "a2")] == [1, 2]
    with pytest.raises(IndexError):
        queue.take(lambda _owner: False)
    assert queue.take() == "a1"
    queue.leave("a1")
    queue.leave("b1")

    assert queue.taken_of == {}
    assert queue.take() == "a2"
