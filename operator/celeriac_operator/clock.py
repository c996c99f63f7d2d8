"""The operator's two clocks: `now` for what is compared with the last tick, and the machine's for what is compared with others.

Learning, scale-in and ages of heartbeats compare one tick's time with the next one's. A wall clock that is set back by an
hour would stop them all for an hour, so `now` tells how much time has passed since this process started, and never goes back.

Schedules, the times in a status, and the times that others wrote (a pod's creation, a message's) go by the machine's clock as it
is at the moment: a node that boots with a wrong clock is put right soon after. `skew_s`, read once a tick, lies between the two.
"""

import time

# On Linux the clock that goes on while a machine sleeps; elsewhere the next best.
_PASSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def passed_s() -> float:
    """Seconds since some moment in the past. For durations."""
    return time.clock_gettime(_PASSED)


_EPOCH_AT_ZERO = time.time() - passed_s()


def now() -> float:
    """Seconds since the epoch, by the machine's clock as it was when this process started."""
    return _EPOCH_AT_ZERO + passed_s()


def skew_s() -> float:
    """Seconds by which the machine's clock is ahead of `now`: 0, until somebody sets it."""
    return time.time() - now()
