"""From a real worker's bodies to what the operator's decision reads: how long messages waited, over a real broker."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from celeriac import Celeriac
from celeriac.broker.depth import QueueDepth
from celeriac.broker.eventbus import EventReceiver
from celeriac.contrib.testing.worker import start_worker
from celeriac_operator.fleet.heartbeats import Fleet
from celeriac_operator.fleet.probes import queue_samples
from celeriac_operator.scaling.waits import percentile_s


def test_the_waits_of_real_tasks_reach_the_queues_sample(redis_server: Any, eventually: Callable[..., Any]) -> None:
    app = Celeriac("shop", broker=redis_server.url, backend=redis_server.url, set_as_current=False)
    work = app.task(time.sleep, name="work")
    fleet = Fleet(started_at=time.time())

    def heard() -> tuple[int, ...]:
        for event in receiver.drain(0.1):
            fleet.hear(event, time.time())
        counts = queue_samples({"q": QueueDepth()}, {}, fleet.totals(), time.time())["q"].wait_counts
        return counts if sum(counts) == 9 else ()

    with contextlib.closing(EventReceiver(redis_server.url)) as receiver:
        receiver.drain(0.01)
        with (
            app,
            start_worker(app, concurrency=1, pool="threads", loglevel="error", queues=("q",), perform_ping_check=False),
        ):
            results = [work.apply_async((0.6,), queue="q") for _ in range(3)]
            for result in results:
                result.get(timeout=20)
            for _ in range(6):
                work.apply_async((0,), queue="q").get(timeout=20)
            counts = eventually(heard, within_s=15)

    # Three come at once to one slot, so that two wait for others: 0.6 s, and 1.2 s. The rest start as they come.
    assert len(counts) == 16
    assert sum(counts[4:]) >= 2
    assert counts[0] >= 1
    assert percentile_s(counts, 95) > 0.5
    assert fleet.totals().by_queue["q"].waits == 9
