"""Rate limits in force on this worker: who may start now, and when to look again. A limited task holds no slot and blocks no other type."""

from collections import deque
from collections.abc import Callable

from celeriac.broker.consumer import Delivery
from celeriac.policy.ratelimit import TokenBucket

#: Seconds of a limit's rate that may start at once: finer than this the loop does not look.
BURST_S = 0.1
#: Starts a second from which a look that is some milliseconds late matters.
LATE_LOOKS_COUNT_FROM = 2.0
#: Seconds between two looks for messages that other workers have throttled.
LOOK_S = 1.0

Take = Callable[[str, float, int, int], tuple[int, float]]


class Limit:
    """One task type's limit. Tokens come from a local bucket (scope worker) or from the broker (scope cluster)."""

    __slots__ = ("_bucket", "burst", "granted", "held", "look_at", "per_s", "scope", "task", "waiting")

    def __init__(self, task: str, per_s: float, scope: str) -> None:
        self.task = task
        self.per_s = per_s
        self.scope = scope
        # One more than a strict limit has: a look that comes late must not cost a start, or the rate would be missed.
        self.burst = max(2, int(per_s * BURST_S)) if per_s >= LATE_LOOKS_COUNT_FROM else 1
        self._bucket = TokenBucket(per_s, capacity=self.burst, tokens=self.burst)
        #: Tokens taken and not used yet.
        self.granted = 0
        #: Whether messages of this type may be waiting in front of a new one.
        self.waiting = False
        self.look_at = 0.0
        #: What this worker itself keeps, on brokers that keep nothing back.
        self.held: deque[Delivery] = deque()

    def take(self, wanted: int, now: float, shared: Take | None) -> int:
        """Tokens to use now, at most `wanted`; sets when to ask again. now: monotonic seconds."""
        if self.granted == 0:
            if shared is not None and self.scope == "cluster":
                self.granted, wait_s = shared(self.task, self.per_s, self.burst, min(wanted, self.burst))
            else:
                self.granted, wait_s = self._bucket.take(min(wanted, self.burst), now)
            if self.granted == 0:
                self.look_at = now + max(0.001, wait_s)
        used = min(self.granted, wanted)
        self.granted -= used
        return used

    def give(self, tokens: int) -> None:
        """Return tokens that found no message."""
        if self.scope == "cluster":
            self.granted += tokens
        else:
            self._bucket.tokens += tokens
