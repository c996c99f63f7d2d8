"""The client side of a measurement, run by the contender's own Python: prints one JSON line with seconds and CPU seconds.

fill N      N calls of the no-op task, as fast as the library goes.
enqueue N   the same, one by one, after a first call that connects.
bulk N      one call for N messages, or whatever the library has for it, after a first message that connects.
pace N      N calls of `stamp` at 50 a second, each with its time of sending.
naps N      N tasks that sleep for a second.
limited N   N calls of the type that is limited to 6 a minute.
eta N       N calls that are due in an hour.
due N       N calls of `stamp` that are due in two seconds, at 10 a second.

BENCH_APP names the module of the contender: send(number), send_stamp(since), send_nap(), send_bulk(count) and so on, plain
functions or coroutine functions. One that lacks a function cannot be measured there.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

RATE_PER_S = 50.0
SOON_S = 2.0

app = importlib.import_module(os.environ["BENCH_APP"])
_loop = asyncio.new_event_loop()


def each(send: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call `send` with each of the arguments, one after the other."""
    if not inspect.iscoroutinefunction(send):
        for these in arguments:
            send(*these)
        return

    async def all_of_them() -> None:
        for these in arguments:
            await send(*these)

    _loop.run_until_complete(all_of_them())


def timed(send: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    each(send, arguments)
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def paced(count: int, per_s: float, ahead_s: float) -> Iterator[tuple[float]]:
    """The present time plus `ahead_s`, `count` times, evenly spaced."""
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + number / per_s - time.monotonic()))
        yield (time.time() + ahead_s,)


def main(what: str, count: int) -> dict[str, float]:
    if hasattr(app, "connect"):
        each(app.connect, [()])
    match what:
        case "fill":
            return timed(app.send, ((number,) for number in range(count)))
        case "enqueue":
            each(app.send, [(-1,)])
            return timed(app.send, ((number,) for number in range(count)))
        case "bulk":
            each(app.send, [(-1,)])
            return timed(app.send_bulk, [(count,)])
        case "pace":
            each(app.send_stamp, [(time.time(),)])
            return timed(app.send_stamp, paced(count - 1, RATE_PER_S, 0.0))
        case "naps":
            return timed(app.send_nap, (() for _ in range(count)))
        case "limited":
            return timed(app.send_limited, ((number,) for number in range(count)))
        case "eta":
            return timed(app.send_later, ((3600.0,) for _ in range(count)))
        case "due":
            return timed(app.send_due, ((at, SOON_S) for (at,) in paced(count, 10.0, SOON_S)))
    raise SystemExit(f"no such measurement: {what}")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))), flush=True)
    if hasattr(app, "disconnect"):
        each(app.disconnect, [()])
