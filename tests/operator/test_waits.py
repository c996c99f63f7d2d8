"""How long messages waited, from counts by bucket: the percentile lies where the waits themselves have it."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.telemetry.totals import Histogram
from celeriac.wire.event import WAIT_BUCKETS_S
from celeriac_operator.scaling.waits import grown, percentile_s


def counts_of(**by_bound: int) -> tuple[int, ...]:
    """le_5=7: seven waits in the bucket that ends at 5 s; le_inf: beyond the last."""
    ends = [*map("{:g}".format, WAIT_BUCKETS_S), "inf"]
    counts = {name.removeprefix("le_").replace("_", "."): count for name, count in by_bound.items()}
    assert set(counts) <= set(ends)
    return tuple(counts.get(end, 0) for end in ends)


@pytest.mark.parametrize(
    ("counts", "percent", "expected"),
    [
        pytest.param(counts_of(le_0_05=100), 95, 0.0475, id="all at once: within the first bucket, from zero on"),
        pytest.param(counts_of(le_10=100), 50, 7.5, id="half way through the only bucket"),
        pytest.param(counts_of(le_0_05=90, le_30=10), 95, 20.0, id="nine of ten at once, half of the rest below"),
        pytest.param(counts_of(le_0_05=95, le_30=5), 95, 0.05, id="the bound itself, where the rank ends with its bucket"),
        pytest.param((3, 0, 0, 0, 3), 50, 0.05, id="the bound, without a rounding beyond it"),
        pytest.param(counts_of(le_0_05=94, le_30=6), 95, 10 + 20 / 6, id="just beyond it"),
        pytest.param(counts_of(le_0_05=1, le_60=1, le_120=98), 99, 120 - 60 / 98, id="near the upper end"),
        pytest.param(counts_of(le_0_05=50, le_7200=50), 99, 7200 - 5400 / 50, id="within the last bounded bucket"),
        pytest.param(counts_of(le_0_05=90, le_inf=10), 95, math.inf, id="beyond the last bound: nobody knows how far"),
        pytest.param(counts_of(le_0_05=90, le_inf=10), 90, 0.05, id="below it all the same"),
        pytest.param((90, 0, 0, 10), 95, 0.375, id="zeros at the end left out"),
        pytest.param((0.9, 0.1), 95, 0.075, id="counts that weigh less than one"),
        pytest.param((0, 0, 7), 50, 0.175, id="empty buckets first"),
    ],
)  # fmt: skip
def test_the_percentile_is_found_within_its_bucket(counts: tuple[float, ...], percent: int, expected: float) -> None:
    assert percentile_s(counts, percent) == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(), (0, 0)], ids=["no counts", "zeros"])
def test_without_waits_there_is_no_percentile(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no waits"):
        percentile_s(counts, 95)


@given(
    waits=st.lists(st.floats(0, 9000) | st.sampled_from([0.0, *WAIT_BUCKETS_S]), min_size=1, max_size=80),
    percent=st.sampled_from([50, 90, 95, 99]),
)
def test_the_percentile_lies_in_the_bucket_of_the_wait_it_stands_for(waits: list[float], percent: int) -> None:
    histogram = Histogram(WAIT_BUCKETS_S)
    for wait_s in waits:
        histogram.add(wait_s)

    found_s = percentile_s(histogram.counts, percent)

    nearest_rank_s = sorted(waits)[math.ceil(len(waits) * percent / 100) - 1]
    bucket = bisect_left(WAIT_BUCKETS_S, nearest_rank_s)
    edges_s = (0.0, *WAIT_BUCKETS_S, math.inf)
    assert edges_s[bucket] <= found_s <= edges_s[bucket + 1]
    assert (
        percentile_s(histogram.counts, 50) <= percentile_s(histogram.counts, 90) <= percentile_s(histogram.counts, 99)
    )


@pytest.mark.parametrize(
    ("counts", "before", "expected"),
    [
        pytest.param((5, 3, 1), (4, 3, 0), (1, 0, 1), id="bucket by bucket"),
        pytest.param((5, 3, 1), (), (5, 3, 1), id="nothing before"),
        pytest.param((5, 3, 1), (2,), (3, 3, 1), id="zeros left out before"),
        pytest.param((5,), (2, 3), (3, 0), id="never below zero"),
        pytest.param((), (), (), id="nobody tells"),
    ],
)
def test_what_was_counted_since(counts: tuple[int, ...], before: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert grown(counts, before) == expected
