"""Keepers for the tests: one shared by all that leave it as they found it, or one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.keeper.harness import Keeper


@pytest.fixture(scope="session")
def shared_keeper() -> Iterator[Keeper]:
    made = Keeper()
    try:
        yield made
        assert made.ask("strays") == {"strays": []}
    finally:
        made.close()
    assert made.process.returncode == 0


@pytest.fixture
def keeper(shared_keeper: Keeper) -> Iterator[Keeper]:
    """A keeper without agents; what the test spawns is removed after it."""
    yield shared_keeper
    shared_keeper.clear()


@pytest.fixture
def make_keeper() -> Iterator[Callable[..., Keeper]]:
    """Makes keepers of the test's own."""
    made: list[Keeper] = []

    def make(*options: str, **how: object) -> Keeper:
        made.append(Keeper(*options, **how))  # type: ignore[arg-type] # passed through
        return made[-1]

    yield make
    for each in made:
        each.close()
