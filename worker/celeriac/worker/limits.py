"""Bounds in force on this worker: which calls may start now, and when to look again. A bounded call holds no slot and delays no other type.

Where the broker keeps throttled messages (Redis), they wait there, in a line for each key; elsewhere the worker holds them in such lines,
and takes tokens and places from the coordination store, or from itself when there is none.
"""

import heapq
import itertools
import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from celeriac.broker.consumer import GOES, GONE, Ask, Delivery, Throttled
from celeriac.broker.coordination import Granted, Place, TokenAsk
from celeriac.exceptions import BackendUnavailable
from celeriac.policy.ratelimit import SLACK_S, TokenBucket
from celeriac.policy.throttle import SEP, Throttle

log = logging.getLogger(__name__)

#: Seconds between two looks for messages that other workers have throttled; one look for all types and queues.
LOOK_S = 1.0
#: The same while no type is bounded here: others' leftovers.
STRAYS_S = 10.0
#: Between two looks for a place that a call on another worker holds, where the broker cannot tell.
BLOCKED_S = 0.25
#: Keys whose rates are remembered here before those that nothing asks for are dropped.
MOST_KEYS = 10_000

#: A claimed message whose type is bounded.
Bounded = tuple[Delivery, Throttle]


class Store(Protocol):
    """Where tokens and places are counted: the coordination store, or this process."""

    def take(self, asks: Sequence[TokenAsk], now: float) -> list[Granted]:
        """For each, how many may start. now: monotonic seconds."""

    def renew(self, places: Sequence[Place]) -> None:
        """Hold these on."""

    def release(self, places: Sequence[Place]) -> bool:
        """Let go of these; whether messages in the broker's lines may start for it."""


class Limits(Protocol):
    """What intake needs of either kind. Called by the loop's thread, but for `change` and `held`."""

    def admit(self, bounded: Sequence[Bounded], now: float) -> tuple[list[Delivery], list[Bounded]]:
        """(those that may start, those that wait from now on); what is in neither is no longer ours."""

    def release(self, room: int, now: float, queues: Sequence[str]) -> list[Delivery]:
        """Up to `room` of those that waited, on these queues, and may start."""

    def look_at(self) -> float:
        """When `release` may have something, in monotonic seconds."""

    def change(self, throttles: Mapping[str, Throttle], changed: str) -> None:
        """The bounds of that type are others now; called from any thread."""

    def held(self) -> int:
        """Messages that this worker itself keeps."""

    def let_go(self) -> list[Delivery]:
        """All of these, kept no more."""


class Places:
    """The places that running calls of this worker hold, by delivery. Any thread."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self.store = store
        self._renew_s = lease_s / 3
        self._renewed_at = float("-inf")
        self._lock = threading.Lock()
        self._held: dict[Any, Place] = {}
        #: To be released, and the store was away.
        self._leaving: list[Place] = []
        #: Whether a place was ever held: before that nobody needs to ask.
        self.used = False
        #: Whether places have become free since this was last looked at; and whether a message in the broker's lines may go on for it.
        self.freed = self.woken = False

    def hold(self, delivery: Delivery, place: Place) -> None:
        """This delivery runs, or is about to."""
        self._held[delivery.claim] = place
        self.used = True

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """These are over. Never raises: what the store did not hear now, it hears with the next renewal, or its lease ends."""
        with self._lock:
            for delivery in deliveries:
                place = self._held.pop(delivery.claim, None)
                if place is not None:
                    self._leaving.append(place)
            self._send()

    def renew(self, now: float) -> None:
        """Hold all of them on, three times a lease. now: monotonic seconds. Raises BackendUnavailable."""
        if not (self._held or self._leaving) or now - self._renewed_at < self._renew_s:
            return
        with self._lock:
            self._send()
            if self._held:
                self.store.renew(list(self._held.values()))
            self._renewed_at = now

    def _send(self) -> None:
        if not self._leaving:
            return
        try:
            self.woken = self.store.release(self._leaving) or self.woken
        except BackendUnavailable as error:
            log.warning("%s; places of calls that have ended become free later", error)
            return
        self._leaving = []
        self.freed = True


class LocalStore:
    """Tokens and places of this process alone: rates that are not shared, and everything where there is no coordination store."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, TokenBucket]] = {}
        self._holders: dict[str, set[str]] = {}

    def take(self, asks: Sequence[TokenAsk], now: float) -> list[Granted]:
        if len(self._buckets) > MOST_KEYS:  # one that is full is as good as new
            full = [
                key
                for key, (_, bucket) in self._buckets.items()
                if bucket.there(now) and bucket.tokens >= bucket.capacity
            ]
            for key in full:
                del self._buckets[key]
        return [self._grant(ask, now) for ask in asks]

    def _grant(self, ask: TokenAsk, now: float) -> Granted:
        count = ask.calls
        wait_s: float | None = 0.0
        bucket = self._bucket(ask) if ask.per_s else None
        if bucket is not None:
            count = min(count, bucket.there(now))
        if ask.most:
            holders = self._holders.setdefault(ask.place, set())
            free = ask.most - len(holders)
            if free < max(1, count):
                count, wait_s = min(count, free), None
            holders.update(f"{ask.holders}{number}" for number in range(1, count + 1))
        if bucket is not None:
            bucket.tokens -= count
            wait_s = bucket.wait_s() if wait_s is not None else None
        return Granted(count, wait_s)

    def _bucket(self, ask: TokenAsk) -> TokenBucket:
        per_s, bucket = self._buckets.get(ask.rate, (0.0, None))
        if bucket is None or per_s != ask.per_s:
            bucket = _bucket(ask.per_s)
            self._buckets[ask.rate] = (ask.per_s, bucket)
        return bucket

    def renew(self, places: Sequence[Place]) -> None:
        """They end with this process."""

    def release(self, places: Sequence[Place]) -> bool:
        for place, holder in places:
            holders = self._holders.get(place, set())
            holders.discard(holder)
            if not holders:
                self._holders.pop(place, None)
        return False


class BrokerLimits:
    """Throttled messages wait in the broker. Shared rates and places are counted there too, in the step that lets a message through."""

    def __init__(self, throttles: Mapping[str, Throttle], throttled: Throttled, places: Places) -> None:
        self._throttles = throttles
        self._throttled = throttled
        self._places = places
        self._turn = 0
        self._changed: list[str] = []
        self._buckets: dict[str, TokenBucket] = {}
        self._look_at = self._strays_at = 0.0

    def admit(self, bounded: Sequence[Bounded], now: float) -> tuple[list[Delivery], list[Bounded]]:
        tokens: dict[str, int] = {}
        asks = []
        for delivery, throttle in bounded:
            own = None
            if _own(throttle):
                there = tokens.get(throttle.task)
                there = self._bucket(throttle).there(now) if there is None else there
                own = there > 0
                tokens[throttle.task] = there - own
            asks.append(Ask(delivery, throttle, own))
        outcomes, next_s = self._throttled.limit(asks)
        self._look_again(next_s, now)
        starting, waiting = [], []
        for ask, outcome in zip(asks, outcomes, strict=True):
            if outcome == GOES:
                starting.append(ask.delivery)
                self._started(ask.delivery, ask.throttle)
            elif outcome != GONE:
                waiting.append((ask.delivery, ask.throttle))
                if ask.own is not None:
                    self._look_again(self._bucket(ask.throttle).wait_s(), now)
        return starting, waiting

    def _bucket(self, throttle: Throttle) -> TokenBucket:
        """Of a rate of this worker's own, as it is now."""
        bucket = self._buckets.get(throttle.task)
        if bucket is None or bucket.per_s != throttle.per_s:
            bucket = self._buckets[throttle.task] = _bucket(throttle.per_s)
        return bucket

    def _started(self, delivery: Delivery, throttle: Throttle) -> None:
        if _own(throttle):
            self._bucket(throttle).tokens -= 1
        if throttle.most:
            self._places.hold(
                delivery, Place(_id(throttle.task, throttle.concurrency_key(delivery.headers)), delivery.claim)
            )

    def release(self, room: int, now: float, queues: Sequence[str]) -> list[Delivery]:
        if self._changed:
            self._apply_changes(queues)
        if self._places.woken:
            self._places.freed = self._places.woken = False
            self._look_at = now
        if room <= 0 or now < self._look_at:
            return []
        self._look_at = now + (LOOK_S if self._throttles else STRAYS_S)  # not again at once if this fails
        if now >= self._strays_at:
            self._strays_at = now + STRAYS_S
            if (
                not self._throttled.strays(
                    [task for task, throttle in self._throttles.items() if _own(throttle)], queues
                )
                and not self._throttles
            ):
                return []
        types = [
            (throttle, min(room, self._bucket(throttle).there(now)) if _own(throttle) else None)
            for throttle in self._throttles.values()
        ]
        self._turn = (self._turn + 1) % max(1, len(queues))
        found, next_s = self._throttled.claim(room, types, [*queues[self._turn :], *queues[: self._turn]])
        for delivery in found:
            throttle = self._throttles.get(str(delivery.headers.get("task")))
            if throttle is not None:
                self._started(delivery, throttle)
                if _own(throttle):  # more of them may wait
                    self._look_again(self._bucket(throttle).wait_s(), now)
        self._look_again(next_s, now)
        return found

    def _apply_changes(self, queues: Sequence[str]) -> None:
        for task in list(self._changed):
            throttle = self._throttles.get(task)
            if throttle is None or not _own(throttle):
                self._buckets.pop(task, None)
            self._throttled.reconsider(task, queues)
            self._changed.remove(task)
        self._look_at = self._strays_at = 0.0

    def _look_again(self, after_s: float | None, now: float) -> None:
        if after_s is not None:
            self._look_at = min(self._look_at, now + max(0.001, after_s))

    def look_at(self) -> float:
        return 0.0 if self._places.woken or self._changed else self._look_at

    def change(self, throttles: Mapping[str, Throttle], changed: str) -> None:
        self._throttles = throttles
        self._changed.append(changed)

    def held(self) -> int:
        return 0

    def let_go(self) -> list[Delivery]:
        return []


class HeldLimits:
    """Throttled messages wait in this worker, a line for each key. Shared rates and places come from the places' store, the others from here."""

    def __init__(self, throttles: Mapping[str, Throttle], places: Places) -> None:
        self._throttles = throttles
        self._places = places
        self._store = places.store
        self._own = places.store if isinstance(places.store, LocalStore) else LocalStore()
        self._changed: list[str] = []
        self._names = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._lines: dict[str, deque[Delivery]] = {}
        #: When to look at each line (monotonic), with a number that keeps those of one time in order. Each line stands here once.
        self._looks: list[tuple[float, int, str]] = []

    def admit(self, bounded: Sequence[Bounded], now: float) -> tuple[list[Delivery], list[Bounded]]:
        fresh: dict[str, list[Delivery]] = {}
        waiting: list[Bounded] = []
        for delivery, throttle in bounded:
            line = throttle.fifo(delivery.headers)
            if line in self._lines:
                self._lines[line].append(delivery)
                waiting.append((delivery, throttle))
            else:
                fresh.setdefault(line, []).append(delivery)
        starting: list[Delivery] = []
        for line, (count, look_at) in self._grants(fresh, now).items():
            deliveries = fresh[line]
            starting += deliveries[:count]
            if deliveries[count:]:
                self._lines[line] = deque(deliveries[count:])
                self._look(line, look_at)
                waiting += [(delivery, self._of(line)) for delivery in deliveries[count:]]
        return starting, waiting

    def release(self, room: int, now: float, queues: Sequence[str]) -> list[Delivery]:
        if self._changed:
            changed, self._changed = self._changed, []
            self._look_now(lambda throttle: throttle.task in changed, now)
        if self._places.freed:
            self._places.freed = self._places.woken = False
            self._look_now(lambda throttle: throttle.most > 0, now)
        due: dict[str, list[Delivery]] = {}
        wanted = 0
        while self._looks and self._looks[0][0] <= now and wanted < room:
            line = heapq.heappop(self._looks)[2]
            due[line] = list(itertools.islice(self._lines[line], room - wanted))
            wanted += len(due[line])
        found: list[Delivery] = []
        for line, (count, look_at) in self._grants(due, now).items():
            held = self._lines[line]
            found += [held.popleft() for _ in range(count)]
            if held:
                self._look(line, look_at)
            else:
                del self._lines[line]
        return found

    def _grants(self, wanted: Mapping[str, Sequence[Delivery]], now: float) -> dict[str, tuple[int, float]]:
        """For each line, how many may start now, and when to look again. A store that is away grants nothing: what it bounds waits for it."""
        granted: dict[str, tuple[int, float]] = {}
        for store in (self._own, self._store):
            asks = {
                line: self._ask(line, deliveries)
                for line, deliveries in wanted.items()
                if line not in granted and store is (self._store if self._of(line).shared else self._own)
            }
            if not asks:
                continue
            try:
                answers = store.take(list(asks.values()), now)
            except BackendUnavailable as error:
                log.warning("%s; until then nothing that it bounds starts here", error)
                answers = [Granted(0, LOOK_S)] * len(asks)
            for (line, ask), (count, wait_s) in zip(asks.items(), answers, strict=True):
                pause_s = BLOCKED_S if wait_s is None else max(0.001, wait_s)
                # All that were asked for: only room was short.
                granted[line] = (count, now if count == ask.calls else now + pause_s)
                if ask.most:
                    for number, delivery in enumerate(wanted[line][:count], 1):
                        self._places.hold(delivery, Place(ask.place, f"{ask.holders}{number}"))
        return granted

    def _ask(self, line: str, deliveries: Sequence[Delivery]) -> TokenAsk:
        throttle, headers = self._of(line), deliveries[0].headers
        return TokenAsk(
            _id(throttle.task, throttle.rate_key(headers)), throttle.per_s,
            _id(throttle.task, throttle.concurrency_key(headers)), throttle.most,
            len(deliveries), f"{self._names}.{next(self._numbers)}.",
        )  # fmt: skip

    def _of(self, line: str) -> Throttle:
        """The bounds of a line now; none when they were lifted."""
        task = line.partition(SEP)[0]
        return self._throttles.get(task) or Throttle(task)

    def _look(self, line: str, at: float) -> None:
        heapq.heappush(self._looks, (at, next(self._numbers), line))

    def _look_now(self, which: Callable[[Throttle], bool], now: float) -> None:
        self._looks = [(now if which(self._of(line)) else at, number, line) for at, number, line in self._looks]
        heapq.heapify(self._looks)

    def look_at(self) -> float:
        if not self._looks:
            return float("inf")
        return 0.0 if self._changed or self._places.freed else self._looks[0][0]

    def change(self, throttles: Mapping[str, Throttle], changed: str) -> None:
        self._throttles = throttles
        self._changed.append(changed)

    def held(self) -> int:
        return sum(map(len, list(self._lines.values())))

    def let_go(self) -> list[Delivery]:
        held = [delivery for line in self._lines.values() for delivery in line]
        self._lines.clear()
        self._looks.clear()
        return held


def _own(throttle: Throttle) -> bool:
    """Whether its rate is this worker's own."""
    return throttle.per_s > 0 and not throttle.shared


def _bucket(per_s: float) -> TokenBucket:
    capacity = 1.0 + per_s * SLACK_S
    return TokenBucket(per_s, capacity=capacity, tokens=capacity)


def _id(task: str, key: str) -> str:
    return f"{task}{SEP}{key}" if key else task
