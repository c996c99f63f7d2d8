"""/metrics as Prometheus reads it: every name, every label, zero from the start."""

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scraped import page_of

from celeriac.telemetry.metrics import NAMES, STATES, WorkerState, families
from celeriac.telemetry.totals import RUN_BUCKETS_S, Observation, Totals
from celeriac.wire.event import WAIT_BUCKETS_S

GAUGES = {
    "celeriac_worker_slots": 8.0, "celeriac_worker_slots_busy": 2.0, "celeriac_worker_reserved": 1.0, "celeriac_worker_draining": 0.0,
    "celeriac_worker_broker_up": 1.0,
}  # fmt: skip

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(totals: Totals, running: list[tuple[str, float]] | None = None) -> Samples:
    state = WorkerState(running=lambda: running or [], gauges=lambda: GAUGES, limits=lambda: {"t": 2.5})
    text = page_of(families(totals, state, "1.2.3"))
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def totals() -> Totals:
    totals = Totals()
    totals.known(["q", "r"], ["t"])
    return totals


def test_every_name_of_the_table_is_served_and_no_other(totals: Totals) -> None:
    totals.throttled("q", "t")
    totals.settled([Observation("q", "t", "retried", 0.1, reason="OSError")])

    names = {name for name, _ in scraped(totals)}

    stems = {
        name.removesuffix("_total")
        .removesuffix("_bucket")
        .removesuffix("_sum")
        .removesuffix("_count")
        .removesuffix("_info")
        for name in names
    }
    assert stems == set(NAMES)


def test_what_is_known_is_zero_from_the_start_in_every_state(totals: Totals) -> None:
    samples = scraped(totals)

    for queue in ("q", "r"):
        for state in STATES:
            assert of(samples, "celeriac_tasks_total", queue=queue, task="t", state=state) == 0
        assert of(samples, "celeriac_tasks_redelivered_total", queue=queue) == 0
        assert of(samples, "celeriac_task_wait_seconds_bucket", queue=queue, le="+Inf") == 0
        assert of(samples, "celeriac_tasks_in_flight", queue=queue) == 0
        assert of(samples, "celeriac_task_longest_running_seconds", queue=queue) == 0


def test_counters_count(totals: Totals) -> None:
    totals.throttled("q", "t", 3)
    totals.settled([Observation("q", "t", "succeeded", 0.1)] * 4)
    totals.settled(
        [
            Observation("q", "t", "retried", 0.1, reason="OSError", redelivered=True),
            Observation("r", "t", "failed", 0.1),
        ]
    )

    samples = scraped(totals)

    assert of(samples, "celeriac_tasks_total", queue="q", task="t", state="succeeded") == 4
    assert of(samples, "celeriac_tasks_total", queue="r", task="t", state="failed") == 1
    assert of(samples, "celeriac_task_retries_total", queue="q", task="t", reason="OSError") == 1
    assert of(samples, "celeriac_tasks_redelivered_total", queue="q") == 1
    assert of(samples, "celeriac_ratelimit_throttled_total", limit="t") == 3


@pytest.mark.parametrize(
    ("name", "bounds"), [("celeriac_task_run_seconds", RUN_BUCKETS_S), ("celeriac_task_wait_seconds", WAIT_BUCKETS_S)]
)
def test_a_histogram_is_cumulative_and_ends_with_infinity(totals: Totals, name: str, bounds: tuple[float, ...]) -> None:
    values = [0.005, 0.3, 99_999.0]
    totals.settled([Observation("q", "t", "succeeded", value, value) for value in values])

    samples = scraped(totals)

    buckets = [of(samples, f"{name}_bucket", queue="q", le=str(bound)) for bound in bounds]
    assert buckets == sorted(buckets)
    assert buckets == [sum(value <= bound for value in values) for bound in bounds]
    assert of(samples, f"{name}_bucket", queue="q", le="+Inf") == of(samples, f"{name}_count", queue="q") == 3
    assert of(samples, f"{name}_sum", queue="q") == pytest.approx(sum(values))


def test_gauges_tell_the_present(totals: Totals) -> None:
    samples = scraped(totals, [("q", 3.0), ("q", 9.5), ("new", 1.0)])

    assert of(samples, "celeriac_tasks_in_flight", queue="q") == 2
    assert of(samples, "celeriac_tasks_in_flight", queue="new") == 1
    assert of(samples, "celeriac_task_longest_running_seconds", queue="q") == 9.5
    assert of(samples, "celeriac_ratelimit_limit_per_second", limit="t") == 2.5
    assert of(samples, "celeriac_build_info", version="1.2.3") == 1
    for name, value in GAUGES.items():
        assert of(samples, name) == value


def test_a_name_with_quotes_and_newlines_is_still_one_label(totals: Totals) -> None:
    totals.settled([Observation("q", 'evil"\n\\{task}', "succeeded", 0.1)])

    assert of(scraped(totals), "celeriac_tasks_total", queue="q", task='evil"\n\\{task}', state="succeeded") == 1


def test_totals_never_decrease_between_two_scrapes(totals: Totals) -> None:
    totals.settled([Observation("q", "t", "succeeded", 0.1)])
    before = scraped(totals)
    totals.settled([Observation("q", "t", "failed", 0.2), Observation("new", "u", "succeeded", 0.2)])
    after = scraped(totals)

    counters = {key for key in before if key[0].endswith(("_total", "_count", "_bucket", "_sum"))}
    assert counters <= set(after)
    assert all(after[key] >= before[key] for key in counters)


def test_what_ends_during_a_scrape_does_not_wait_for_its_end(totals: Totals) -> None:
    scrape = families(totals, WorkerState(running=list, gauges=dict, limits=dict), "1.2.3")
    next(scrape)

    loop = threading.Thread(target=totals.settled, args=([Observation("q", "t", "succeeded", 0.1)],), daemon=True)
    loop.start()
    loop.join(30.0)

    assert not loop.is_alive()
    assert of(scraped(totals), "celeriac_tasks_total", queue="q", task="t", state="succeeded") == 1
