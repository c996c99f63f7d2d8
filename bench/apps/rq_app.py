"""The tasks as RQ's jobs, on Redis; a job is deleted as soon as it is done unless BENCH_BACKEND asks for results."""

import os

import tally
from redis import Redis
from rq import Queue

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_BROKER"]))
_KEEP_S = 500 if os.environ.get("BENCH_BACKEND") else 0


def noop(number):
    tally.tick()
    return {"number": number}


def stamp(since):
    tally.stamp(since)


def send(number):
    queue.enqueue("rq_app.noop", number, result_ttl=_KEEP_S)


def send_stamp(since):
    queue.enqueue("rq_app.stamp", since, result_ttl=_KEEP_S)


def send_bulk(count):
    queue.enqueue_many(
        [Queue.prepare_data("rq_app.noop", args=(number,), result_ttl=_KEEP_S) for number in range(count)]
    )
