"""The app of the cluster tests: its module is mounted into the workers and into the pod that submits.

Every task writes its start and its end into a ledger in Redis: the test reads there how often each one ran, and where.
"""

import os
import random
import sys
import time

import redis

from celeriac import Celeriac

LEDGER = redis.Redis.from_url(os.environ["CELERIAC_BROKER_URL"], decode_responses=True)
POD = os.environ.get("CELERIAC_POD_NAME", "")

app = Celeriac("shop", broker=os.environ["CELERIAC_BROKER_URL"])
app.conf.task_default_queue = "shop"


@app.task
def sell(number: int, seconds: float) -> None:
    LEDGER.hincrby("ledger:started", str(number), 1)
    LEDGER.hset("ledger:pod", str(number), POD)
    LEDGER.hset("ledger:running", str(number), POD)
    time.sleep(seconds)
    LEDGER.hdel("ledger:running", str(number))
    LEDGER.hincrby("ledger:done", str(number), 1)


def now() -> float:
    """Seconds since the epoch by the broker's clock, which the test reads too."""
    seconds, micros = LEDGER.time()
    return float(seconds + micros / 1e6)


def submit(count: int, seconds: float, long: int, long_seconds: float) -> None:
    """`long` tasks that take their time, then `count` quick ones."""
    LEDGER.set("ledger:first_at", now())
    for number in range(long):
        sell.delay(count + number, long_seconds)
    for number in range(count):
        sell.delay(number, seconds)
    LEDGER.set("ledger:last_at", now())


def submit_in_waves(count: int, waves: int, pause_s: float) -> None:
    """`count` tasks of 1 to 20 s, in so many bursts with a pause between them."""
    LEDGER.set("ledger:first_at", now())
    for number in range(count):
        if number and number * waves // count != (number - 1) * waves // count:
            time.sleep(pause_s)
        sell.delay(number, random.uniform(1.0, 20.0))
    LEDGER.set("ledger:last_at", now())


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "waves":
        submit_in_waves(int(arguments[0]), int(arguments[1]), float(arguments[2]))
    else:
        submit(int(arguments[0]), float(arguments[1]), int(arguments[2]), float(arguments[3]))
