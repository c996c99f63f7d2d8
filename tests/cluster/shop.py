"""The app of the cluster tests: its module is mounted into the workers and into the pod that submits.

Every task writes its start and its end into a ledger in Redis: the test reads there how often each one ran, and where.
"""

import os
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


if __name__ == "__main__":
    submit(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
