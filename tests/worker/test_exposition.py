"""What we write is what prometheus_client writes of the same, byte for byte, and what its parser reads is what was put in."""

import math
from collections.abc import Iterable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from celeriac.telemetry.exposition import Family, Labels

#: In the order of their names the last of these is the first, the middle, the last, and the only one.
LABELS = [("namespace", "pool", "kind"), ("namespace", "pool", "objective"), ("namespace", "pool", "queue"), ("queue",)]
BOUNDS = (0.005, 1.0, 10.0, 14400.0)
HELP = 'what "it" \\ is\nand was'

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["mails", 'evil"\n\\{%s}', ""])
values = st.floats().map(lambda value: value + 0.0) | st.integers(min_value=0, max_value=2**53)
sets_of_labels = st.sampled_from(LABELS)


def by_prometheus_client(metric: Metric) -> str:
    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return [metric]

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry).decode()


@given(names=sets_of_labels, data=st.data(), value=values)
def test_counters_gauges_and_infos(names: tuple[str, ...], data: st.DataObject, value: float) -> None:
    labels = tuple([data.draw(texts) for _ in names])
    counter, gauge = CounterMetricFamily("n", HELP, labels=names), GaugeMetricFamily("n", HELP, labels=names)
    info = InfoMetricFamily("n", HELP, value=dict(zip(names, labels, strict=True)))
    counter.add_metric(labels, value)
    gauge.add_metric(labels, value)

    for kind, theirs, shown in (("counter", counter, value), ("gauge", gauge, value), ("info", info, 1)):
        ours = Family("n", kind, HELP, Labels(*names))
        ours.add(labels, shown)
        assert ours.text().decode() == by_prometheus_client(theirs)


@given(names=sets_of_labels, data=st.data(), each=st.dictionaries(texts, values))
def test_samples_that_differ_by_the_last_label(
    names: tuple[str, ...], data: st.DataObject, each: dict[str, float]
) -> None:
    ours, theirs = Family("n", "gauge", HELP, Labels(*names)), GaugeMetricFamily("n", HELP, labels=names)

    for _ in range(2):
        labels = tuple([data.draw(texts) for _ in names[1:]])
        ours.add_each(labels, each)
        for last, value in each.items():
            theirs.add_metric([*labels, last], value)

    assert ours.text().decode() == by_prometheus_client(theirs)


@given(
    names=sets_of_labels, data=st.data(), total=values,
    counts=st.lists(st.integers(0, 2**40), min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1),
)  # fmt: skip
def test_histograms_and_summaries(names: tuple[str, ...], data: st.DataObject, total: float, counts: list[int]) -> None:
    labels = tuple([data.draw(texts) for _ in names])
    ours, theirs = (
        Family("n", "histogram", HELP, Labels(*names), bounds=BOUNDS),
        HistogramMetricFamily("n", HELP, labels=names),
    )
    bounds = [*map(str, BOUNDS), "+Inf"]
    ours.add_histogram(labels, counts, total)
    theirs.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
    assert ours.text().decode() == by_prometheus_client(theirs)

    ours, sums = Family("n", "summary", HELP, Labels(*names)), SummaryMetricFamily("n", HELP, labels=names)
    ours.add_summary(labels, sum(counts), total)
    sums.add_metric(labels, sum(counts), total)
    assert ours.text().decode() == by_prometheus_client(sums)


@pytest.mark.parametrize(
    "value",
    [0, True, 999_999, 999_999.5, 1e6, 1_000_000.5, 1_234_567, 1_763_850_000.25, 1e15, 1e16, 1.5e300, -1e6, -1e15, -2e20, 5e-324,
     math.inf, -math.inf, math.nan],
)  # fmt: skip
def test_numbers(value: float) -> None:
    ours = Family("n", "gauge", HELP)
    ours.add((), value)

    assert ours.text().decode() == by_prometheus_client(GaugeMetricFamily("n", HELP, value=value))


@given(labels=st.tuples(texts, texts, texts), value=values)
def test_what_is_read_is_what_was_written(labels: tuple[str, ...], value: float) -> None:
    family = Family("n", "gauge", HELP, Labels("b", "a", "c"))
    family.add(labels, value)

    ((sample,),) = [found.samples for found in text_string_to_metric_families(family.text().decode())]

    assert sample.labels == dict(zip(("b", "a", "c"), labels, strict=True))
    assert sample.value == float(value) or math.isnan(value)


def test_half_a_character_in_a_name_takes_the_page_from_nobody() -> None:
    family = Family("n", "gauge", HELP, Labels("task"))
    family.add_each((), {"ok": 1, "half \ud800": 2, "\udfff": 3})

    [found] = text_string_to_metric_families(family.text().decode())

    assert [(sample.labels["task"], sample.value) for sample in found.samples] == [
        ("ok", 1), ("half \\ud800", 2), ("\\udfff", 3),
    ]  # fmt: skip


def test_a_histogram_is_given_a_count_for_each_bucket() -> None:
    with pytest.raises(ValueError, match="zip"):
        Family("n", "histogram", HELP, bounds=BOUNDS).add_histogram((), [1] * len(BOUNDS), 1.0)
