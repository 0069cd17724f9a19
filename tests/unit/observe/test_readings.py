"""Every metric is read when somebody asks, and a broken one harms no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import pytest

from descartesd.errors import StartupRefusedError
from descartesd.metric import Distribution, Metric, MetricFamily, Sample
from descartesd.observe import declared
from descartesd.observe.readings import SAMPLES_MAX, Readings


def gauge(name: str, read: Callable[[], float | Iterable[Sample | Distribution]]) -> Metric:
    return Metric(name=name, kind="gauge", help="A number.", read=read)


def collected(readings: Readings) -> dict[str, MetricFamily]:
    return {family.name: family for family in readings.collect()}


def test_numbers_are_those_of_when_somebody_asks() -> None:
    readings = Readings()
    numbers: list[int] = []
    readings.add([gauge("plugin_numbers", lambda: len(numbers))], "plugin")

    numbers.extend((1, 2, 3))

    assert collected(readings)["plugin_numbers"].samples == (Sample(value=3),)


def test_who_asks_again_at_once_gets_what_was_read_already() -> None:
    readings = Readings()
    asked: list[None] = []

    def read() -> float:
        asked.append(None)
        return 0

    readings.add([gauge("plugin_asked", read)], "plugin")
    for _ in range(1000):
        readings.collect()

    assert len(asked) < 100


def test_metric_that_raises_is_counted_and_named_and_the_others_are_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    readings = Readings()
    readings.add([gauge("plugin_broken", lambda: 1 / 0)], "ill")
    readings.add([gauge("plugin_well", lambda: 1)], "well")

    with caplog.at_level(logging.ERROR):
        found = collected(readings)

    assert set(found) == {"plugin_well"}
    assert readings.failures == {"plugin_broken": 1}
    (told,) = caplog.records
    assert (told.metric, told.plugin) == ("plugin_broken", "ill")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("gauge", lambda: ["junk"]),
        ("gauge", lambda: None),
        ("gauge", lambda: [Distribution(bounds=[1.0], counts=[1, 2], sum=3.0)]),
        ("histogram", lambda: 1.0),
        ("histogram", lambda: [Distribution(bounds=[1.0], counts=[1], sum=1.0)]),
    ],
)
def test_what_is_no_reading_is_left_out(kind: str, read: Callable[[], object]) -> None:
    readings = Readings()
    metric = Metric(name="plugin_junk", kind=kind, help="Junk.", read=read)  # type: ignore[arg-type]
    readings.add([metric], "ill")

    assert readings.collect() == []
    assert readings.failures == {"plugin_junk": 1}


def test_samples_of_one_metric_are_bounded() -> None:
    readings = Readings()
    many = [Sample(value=1, labels={"request": str(number)}) for number in range(SAMPLES_MAX + 1)]
    readings.add([gauge("plugin_requests", lambda: many)], "careless")

    assert len(collected(readings)["plugin_requests"].samples) == SAMPLES_MAX


def test_name_that_is_taken_is_refused_with_both_plugins() -> None:
    readings = Readings()
    readings.add([gauge("same_name", lambda: 1)], "first")

    with pytest.raises(StartupRefusedError, match=r"'second'.*'same_name'.*'first'"):
        readings.add([gauge("same_name", lambda: 2)], "second")


def test_server_without_a_function_for_each_metric_does_not_start() -> None:
    with pytest.raises(ValueError, match="descartesd_healthy"):
        declared.with_readers({})


def test_names_and_meanings_are_unique_sentences() -> None:
    all_declared = [each for group in declared.DECLARED.values() for each in group]

    assert len({each.name for each in all_declared}) == len(all_declared)
    for each in all_declared:
        assert each.name.startswith("descartesd_")
        assert each.help.endswith(".")
