from __future__ import annotations

import pytest

from descartesd.errors import UnavailableError
from descartesd.transport.circuit import Circuit

HERE = "tcp://here:1"


def opened(*, reset_s: float = 10.0) -> Circuit:
    """Open since the time 3."""
    circuit = Circuit(failures=3, reset_s=reset_s)
    for at in (1.0, 2.0, 3.0):
        circuit.admit(at - 0.5, HERE)
        circuit.failed(at - 0.5, at)
    return circuit


def test_it_opens_after_so_many_failures_in_a_row_and_tells_when_the_next_try_is() -> None:
    circuit = opened()

    with pytest.raises(UnavailableError, match="3 times in a row") as no:
        circuit.admit(7.0, HERE)

    assert no.value.details == {"sent": False, "retry_after_s": 6.0}
    assert no.value.retryable


def test_requests_that_wait_through_the_same_outage_are_one_failure() -> None:
    circuit = Circuit(failures=3, reset_s=10.0)

    for number in range(100):
        circuit.failed(0.01 * number, 3.0)
    circuit.failed(2.9, 5.9)

    assert not circuit.is_open(6.0)


def test_after_its_time_one_request_goes_through_to_try() -> None:
    circuit = opened()

    circuit.admit(13.0, HERE)

    assert circuit.is_open(13.1)
    with pytest.raises(UnavailableError):
        circuit.admit(13.1, HERE)


def test_a_try_that_fails_leaves_it_open_and_one_that_is_given_up_does_not_for_ever() -> None:
    circuit = opened()

    circuit.admit(13.0, HERE)
    circuit.failed(13.0, 16.0)
    assert circuit.is_open(25.9)

    circuit.admit(26.0, HERE)
    assert not circuit.is_open(36.0)


def test_a_connection_closes_it_and_the_count_begins_again() -> None:
    circuit = opened()

    circuit.close()

    circuit.admit(4.0, HERE)
    circuit.failed(4.0, 5.0)
    circuit.failed(5.0, 6.0)
    assert not circuit.is_open(6.0)


def test_without_a_number_of_failures_it_never_opens() -> None:
    circuit = Circuit(failures=0, reset_s=10.0)

    for at in range(100):
        circuit.failed(at, at + 1)

    assert not circuit.is_open(101.0)
