from __future__ import annotations

from descartesd.transport.backoff import Backoff


def test_pauses_double_up_to_thirty_seconds_and_begin_again() -> None:
    backoff = Backoff(0.1, share=lambda: 1.0)

    pauses = [backoff.pause() for _ in range(12)]
    backoff.reset()

    assert [round(pause, 3) for pause in pauses[:5]] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == 30.0
    assert backoff.pause() == 0.1


def test_each_pause_is_a_random_share_of_its_limit() -> None:
    backoff = Backoff(0.1)

    assert all(0 <= backoff.pause() <= 0.1 * 2**n for n in range(8))
