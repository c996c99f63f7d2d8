"""The operator's clock: seconds since the epoch that never go back, whatever is done to the machine's clock.

Learning, scale-in and ages compare one tick's time with the next one's. A wall clock that is set back by an hour would
stop them all for an hour, so they are told by how much time has passed since this process started.
"""

import time

# On Linux the clock that goes on while a machine sleeps; elsewhere the next best.
_PASSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_EPOCH_AT_ZERO = time.time() - time.clock_gettime(_PASSED)


def now() -> float:
    """Seconds since the epoch, by the machine's clock as it was when this process started."""
    return _EPOCH_AT_ZERO + time.clock_gettime(_PASSED)
