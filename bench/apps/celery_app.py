"""The tasks in Celery's words, for the real Celery and for us: BENCH_LIBRARY says whose app it is."""

import asyncio
import os
import time

import tally

LIBRARY = os.environ["BENCH_LIBRARY"]
if LIBRARY == "celery":
    from celery import Celery
else:
    from celeriac import Celery

_backend = os.environ.get("BENCH_BACKEND") or None
app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=_backend)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=_backend is None,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
if "BENCH_PREFETCH" in os.environ:
    app.conf.worker_prefetch_multiplier = int(os.environ["BENCH_PREFETCH"])


@app.task(name="bench.noop")
def noop(number):
    tally.tick()
    return {"number": number}


@app.task(name="bench.stamp")
def stamp(since):
    tally.stamp(since)


@app.task(name="bench.limited", rate_limit="6/m")
def limited(number):
    """Not counted: what is measured is the tasks beside it."""


if os.environ.get("BENCH_ASYNC") == "1":

    @app.task(name="bench.nap")
    async def nap():
        tally.began()
        await asyncio.sleep(1)
        tally.tick()

else:

    @app.task(name="bench.nap")
    def nap():
        tally.began()
        time.sleep(1)
        tally.tick()


def send(number):
    noop.delay(number)


def send_stamp(since):
    stamp.delay(since)


def send_nap():
    nap.delay()


def send_limited(number):
    limited.delay(number)


def send_later(seconds):
    noop.apply_async((0,), countdown=seconds)


def send_due(at, seconds):
    stamp.apply_async((at,), countdown=seconds)


if hasattr(noop, "send_many"):

    def send_bulk(count):
        noop.send_many([(number,) for number in range(count)])

elif LIBRARY == "celery":

    def send_bulk(count):
        """kombu collects the messages of a batch and sends them together, on Redis."""
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for number in range(count):
                noop.apply_async((number,), producer=producer)
