"""Five failures a minute from one address, and no more."""

from __future__ import annotations

from descartesd.methods.failures import Failures


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_fifth_closes_for_the_rest_of_the_minute() -> None:
    clock = Clock()
    failures = Failures(clock=clock)

    closes = [failures.note("10.0.0.1") for _ in range(6)]

    assert closes == [False, False, False, False, True, False]
    assert failures.is_closed("10.0.0.1")
    assert not failures.is_closed("10.0.0.2")
    clock.now += 59
    assert failures.is_closed("10.0.0.1")
    clock.now += 1
    assert not failures.is_closed("10.0.0.1")


def test_slow_failures_close_nothing() -> None:
    clock = Clock()
    failures = Failures(clock=clock)

    for _ in range(50):
        assert not failures.note("10.0.0.1")
        clock.now += 15.1


def test_only_so_many_addresses_are_remembered() -> None:
    failures = Failures(clock=Clock())
    for _ in range(5):
        failures.note("first")
    for number in range(1000):
        failures.note(str(number))

    assert not failures.is_closed("first")
