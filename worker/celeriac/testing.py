"""Tests like production, without servers: the app's own tasks, a broker and a result store in this process, and a real worker.

def test_an_order_is_charged():
    with in_process(shop.app) as worker:
        shop.charge.delay(42)
        worker.wait_until_idle()
    assert …
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celeriac.app.base import Celeriac
from celeriac.broker.purge import purge
from celeriac.contrib.testing.worker import TestWorker, start_worker

BROKER, BACKEND = "memory://", "cache+memory://"


@contextmanager
def in_process(app: Celeriac, concurrency: int = 4, pool: str = "threads", **options: Any) -> Iterator[TestWorker]:
    """Within it, broker and results are in this process, and a worker runs; then the app is as it was. options: as start_worker's.

    What is left in the worker's queues at the end is thrown away.
    """
    app.close()  # what is open leads to the servers of the settings
    with app.conf.pinned({"broker_url": BROKER, "result_backend": BACKEND, "task_always_eager": False}):
        try:
            with start_worker(app, concurrency, pool, **options) as worker:
                yield worker
            purge(app.broker_address(), worker.loop.queues)
        finally:
            app.close()


__all__ = ["TestWorker", "in_process"]
