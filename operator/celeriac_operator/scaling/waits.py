"""How long messages waited, from the counts by bucket that workers tell."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise, zip_longest

from celeriac.wire.event import WAIT_BUCKETS_S

#: Edges of the buckets, in seconds; the last bucket ends nowhere.
_EDGES_S = (0.0, *WAIT_BUCKETS_S, math.inf)


def grown(counts: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """What was counted since `before`, bucket by bucket, never below zero. A bucket that is not there counts nothing."""
    return tuple([max(0, now - then) for now, then in zip_longest(counts, before, fillvalue=0)])


def percentile_s(counts: Sequence[float], percent: float) -> float:
    """Seconds that `percent` (0 to 100) of the waits counted do not exceed; infinite beyond the last bound of the buckets.

    counts   by bucket of `WAIT_BUCKETS_S`, at least one above zero.

    Waits are taken to lie evenly within their bucket, as Prometheus' histogram_quantile takes them.
    """
    rank = sum(counts) * percent / 100.0
    for (low_s, high_s), (before, upto) in zip(
        pairwise(_EDGES_S), pairwise(accumulate(counts, initial=0)), strict=False
    ):
        if upto >= rank and upto > before:
            # Rounding must not lead beyond the bucket.
            return min(high_s, low_s + (high_s - low_s) * ((rank - before) / (upto - before)))
    raise ValueError(f"no waits among {counts!r}")
