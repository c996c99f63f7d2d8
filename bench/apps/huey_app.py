"""The tasks as huey's, on Redis; results are kept when BENCH_BACKEND is set."""

import os

import tally
from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_BROKER"], results=bool(os.environ.get("BENCH_BACKEND")))


@huey.task()
def noop(number):
    tally.tick()
    return {"number": number}


@huey.task()
def stamp(since):
    tally.stamp(since)


def send(number):
    noop(number)


def send_stamp(since):
    stamp(since)
