"""--autoscale: when the pool grows and when it shrinks, as a walk through time; and with real children."""

import time

import pytest
from deliveries import delivery
from processes import wait_until

from celeriac import Celeriac
from celeriac.broker.codec import content_types
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy.autoscale import Seen, slots_wanted
from celeriac.policy.settlement import Rules
from celeriac.policy.timelimit import Limits
from celeriac.worker.autoscale import Autoscaler
from celeriac.worker.executor import Executor, Job
from celeriac.worker.pool import ThreadPool


def walk(steps: list[tuple[float, int]], *, slots: int, least: int = 2, most: int = 10) -> list[int]:
    """The pool's size after each (time, busy); busy is cut to the slots that there are."""
    seen, sizes = Seen(), []
    for now, busy in steps:
        slots, seen = slots_wanted(seen, slots=slots, busy=min(busy, slots), least=least, most=most, now=now)
        sizes.append(slots)
    return sizes


@pytest.mark.parametrize(
    ("slots", "steps", "sizes"),
    [
        pytest.param(2, [(0, 9), (0.4, 9)], [2, 2], id="not at once"),
        pytest.param(2, [(0, 9), (0.5, 9), (1.0, 9), (1.5, 9), (2.0, 9), (2.5, 9)], [2, 3, 4, 6, 9, 10], id="by half at each step, up to the bound"),
        pytest.param(2, [(0, 9), (0.3, 1), (0.6, 9)], [2, 2, 2], id="busy without a break"),
        pytest.param(8, [(0, 3), (29, 3), (30, 3)], [8, 8, 3], id="down to what was needed, after 30 s"),
        pytest.param(8, [(0, 0), (31, 0)], [8, 2], id="never below the bound"),
        pytest.param(8, [(0, 1), (20, 6), (31, 0), (62, 0)], [8, 8, 6, 2], id="a peak within that time counts"),
        pytest.param(20, [(0, 20)], [10], id="bounds that were changed hold at once"),
        pytest.param(1, [(0, 0)], [2], id="and from below"),
    ],
)  # fmt: skip
def test_the_pool_follows_what_runs(slots: int, steps: list[tuple[float, int]], sizes: list[int]) -> None:
    assert walk(steps, slots=slots) == sizes


def test_a_worker_grows_under_load_and_says_its_bounds(site) -> None:
    worker = site.worker("-P", "prefork", "--autoscale", "4,1", "-l", "info")
    client = site.client()
    for number in range(30):
        client.send_task("jobs.work", [number, 0.7])

    wait_until(lambda: len(site.ledger.starts() - site.ledger.ends()) >= 3, timeout_s=15, what="three at once")

    assert "between 1 and 4" in worker.text()


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="MAX,MIN"):
        Autoscaler.bound(Autoscaler.__new__(Autoscaler), most=1, least=2)


def test_a_pool_with_lost_slots_grows_from_its_size_and_not_from_what_is_left_of_it() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    executor = Executor(app, hostname="w", accept=content_types(["json"]), encode=None)
    pool = ThreadPool(executor, 4, lambda: None)
    task = app.task(lambda: time.sleep(1.5), name="stays")
    pool.submit([Job(task, delivery("stays"), Rules(), limits=Limits(hard=0.05)) for _ in range(2)])
    wait_until(lambda: pool.tend(time.monotonic()) and pool.lost == 2, timeout_s=5, every_s=0.005)

    scaler = Autoscaler(pool, most=8, least=1)
    at_first = (pool.size, pool.slots)
    pool.submit([Job(task, delivery("stays"), Rules(ignore_result=True)) for _ in range(2)])
    wait_until(lambda: len(pool.running()) == 2, timeout_s=5, every_s=0.005)
    for now in (0.0, 1.0):
        scaler.look(now)
    pool.stop()

    assert at_first == (4, 2)
    assert (pool.size, pool.slots) == (6, 4)
