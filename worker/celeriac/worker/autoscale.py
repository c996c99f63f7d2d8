"""--autoscale: the pool's size follows what runs, between two bounds."""

import logging

from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy.autoscale import Seen, slots_wanted
from celeriac.worker.pool import Pool

log = logging.getLogger(__name__)

LOOK_S = 0.25


class Autoscaler:
    """Looks at the pool now and then, and resizes it. Called by the loop."""

    def __init__(self, pool: Pool, *, most: int, least: int) -> None:
        self._pool = pool
        self._seen = Seen()
        #: When it wants to be called again, in monotonic seconds.
        self.look_at = 0.0
        self.bound(most=most, least=least)
        pool.resize(pool.size)  # NotSupported at start, not under load

    def bound(self, *, most: int, least: int) -> None:
        """Keep between these from now on. Raises ImproperlyConfigured."""
        if not 1 <= least <= most:
            raise ImproperlyConfigured(f"--autoscale {most},{least}: give MAX,MIN with 1 <= MIN <= MAX")
        self.most, self.least = most, least

    def look(self, now: float) -> None:
        """Resize the pool where it is time to. now: monotonic seconds."""
        if now < self.look_at:
            return
        self.look_at = now + LOOK_S
        slots, pool = self._pool.size, self._pool
        wanted, self._seen = slots_wanted(
            self._seen, slots=slots, busy=len(pool.running()) + pool.lost, least=self.least, most=self.most, now=now
        )
        if wanted != slots:
            log.info("autoscale: %d slots instead of %d (between %d and %d)", wanted, slots, self.least, self.most)
            pool.resize(wanted)
