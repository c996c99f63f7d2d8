"""The time, as the parts that act may read it. Decisions get it as a parameter."""

import time
from datetime import UTC, datetime

#: Seconds since the epoch; may jump when the system's clock is set.
wall_s = time.time
#: Seconds from an arbitrary start; never jumps.
monotonic_s = time.monotonic


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)
