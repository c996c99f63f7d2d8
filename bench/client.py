"""The client side of a measurement, run by either library's Python: prints one JSON line.

fill N      publish N messages as fast as the library can; nothing is timed.
enqueue N   `delay()` N times, one by one: seconds and CPU seconds; the first call, which connects, is not timed.
pace N      N messages at 50 a second, each with its time of sending.
"""

import json
import sys
import time

import tasks


def fill(count: int) -> dict[str, float]:
    for number in range(count):
        tasks.noop.delay(number)
    return {}


def enqueue(count: int) -> dict[str, float]:
    tasks.noop.delay(-1)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        tasks.noop.delay(number)
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def pace(count: int) -> dict[str, float]:
    tasks.stamp.delay(time.time())
    start = time.monotonic()
    for number in range(1, count):
        time.sleep(max(0.0, start + number / 50 - time.monotonic()))
        tasks.stamp.delay(time.time())
    return {}


if __name__ == "__main__":
    print(json.dumps({"fill": fill, "enqueue": enqueue, "pace": pace}[sys.argv[1]](int(sys.argv[2]))))
