"""Lines of throttled messages in this process: what a broker that keeps them does, with tokens that the test hands out."""

from collections import deque
from collections.abc import Callable, Sequence

from celeriac.broker.consumer import GOES, WAITS, Ask, Delivery
from celeriac.policy.throttle import Throttle


class Lines:
    """See Throttled. tokens: left of every shared rate. call: told of each call, may raise."""

    def __init__(self, call: Callable[..., None] = lambda *_: None) -> None:
        self._call = call
        self.tokens = 1_000_000
        self.next_s: float | None = 0.05
        self.waiting: deque[tuple[str, Delivery]] = deque()
        self.claims: list[list[tuple[str, int | None]]] = []
        self.changed: list[str] = []

    def limit(self, asks: Sequence[Ask]) -> tuple[list[int], float | None]:
        self._call("limit", *(ask.delivery.headers["id"] for ask in asks))
        return [self._place(ask) for ask in asks], self.next_s

    def _place(self, ask: Ask) -> int:
        line = ask.throttle.fifo(ask.delivery.headers)
        behind = any(other == line for other, _ in self.waiting)
        if not behind and (ask.own or (ask.own is None and self.tokens > 0)):
            self.tokens -= ask.own is None
            return GOES
        self.waiting.append((line, ask.delivery))
        return WAITS

    def claim(
        self, count: int, types: Sequence[tuple[Throttle, int | None]], queues: Sequence[str]
    ) -> tuple[list[Delivery], float | None]:
        self.claims.append([(throttle.task, tokens) for throttle, tokens in types])
        own = {throttle.task: tokens for throttle, tokens in types if tokens is not None}
        shared = {throttle.task for throttle, tokens in types if tokens is None}
        found, kept = [], []
        for line, delivery in self.waiting:
            task = delivery.headers["task"]
            goes = len(found) < count and (own.get(task, 1) > 0 and (task not in shared or self.tokens > 0))
            if goes:
                found.append(delivery)
                own[task] = own.get(task, 1) - (task in own)
                self.tokens -= task in shared
            else:
                kept.append((line, delivery))
        self.waiting = deque(kept)
        return found, self.next_s if self.waiting else None

    def strays(self, own: Sequence[str], queues: Sequence[str]) -> bool:
        return any(delivery.headers["task"] not in own for _, delivery in self.waiting)

    def reconsider(self, task: str, queues: Sequence[str]) -> None:
        self.changed.append(task)
