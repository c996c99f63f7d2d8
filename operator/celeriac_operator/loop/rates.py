"""The rates that pools ask for in spec.rateLimits, kept on one broker: by the broker for all workers, or by the workers, each its part."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, ImproperlyConfigured
from celeriac.wire import control
from celeriac_operator.errors import CannotSign
from celeriac_operator.fleet.control import Telling
from celeriac_operator.loop.members import Changes, Key, Sight
from celeriac_operator.scaling.rates import Keeper, Order, divided, lifted, unheeded

log = logging.getLogger("celeriac_operator.loop")

#: Seconds after which the store is read again: somebody may have emptied it, or set something.
READ_AGAIN_S = 60.0
#: Seconds between two orders to a worker that does not tell that it has heeded the first.
TELL_AGAIN_S = 15.0
#: Orders after which a worker that heeds none is taken for one that has no such task.
ORDERS = 4
#: Seconds from which a pod that has not been heard does not count as starting any more.
LATE_S = 120.0


class Store(Protocol):
    """Where a broker keeps rates for all workers: `celeriac.broker.coordination.Coordination`."""

    def rates(self) -> Mapping[str, tuple[float, str]]: ...

    def set_rate(self, task: str, per_s: float | None, by: str, *, epoch: int) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one pool asks for: task -> starts a second; its live workers; the slots of its pods that are starting."""

    key: Key
    rates: Mapping[str, float]
    keepers: Sequence[Keeper] = ()
    coming_slots: float = 0.0

    @property
    def by(self) -> str:
        return "/".join(self.key)


class Rates:
    """Keeps them. Used by the broker's tick alone.

    store   None where the broker keeps none. exists: the keys of all pools there are, those included that cannot be served now: what
            they have set stays.
    """

    def __init__(
        self, store: Store | None, post: Telling, *, name: str, changes: Changes, exists: Callable[[], Collection[Key]]
    ) -> None:
        self._store, self._post, self._name, self._changes, self._exists = store, post, name, changes, exists
        self._stored: dict[str, tuple[float, str]] = {}
        self._read_at = float("-inf")
        self._epoch = 0
        #: Pools that this process has seen to ask for rates here.
        self._seen: set[str] = set()
        #: (node, task) -> (when it was told last, how often in vain).
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        #: Why workers could not be told at this tick that they demand a signature for it.
        self._unsigned = ""

    def keep(self, pools: Sequence[Asked], *, epoch: int) -> str:
        """Tell broker and workers what has changed; what went wrong, or "". It is tried again at the next tick."""
        if epoch != self._epoch:  # another replica may have led meanwhile
            self._epoch, self._stored, self._read_at = epoch, {}, float("-inf")
        subject = f"broker {self._name}: rate limits"
        self._unsigned = ""
        try:
            if self._store is not None:
                self._keep_stored(self._store, pools)
            elif pools:
                self._divide(pools)
        except (BackendUnavailable, BrokerUnavailable, ImproperlyConfigured, _Outdated) as error:
            self._changes.failed(subject, str(error))
            return str(error)
        if self._unsigned:
            self._changes.failed(subject, self._unsigned)
        else:
            self._changes.worked(subject)
        return self._unsigned

    def close(self, *, lift: bool) -> None:
        """Disconnect. lift: first lift what pools have set that exist no more."""
        if self._store is None:
            return
        try:
            if lift and self._stored:
                self._lift(self._store, {}, ())
        except (BackendUnavailable, BrokerUnavailable, ImproperlyConfigured, _Outdated) as error:
            log.warning("broker %s: the rate limits of pools that are gone could not be lifted: %s", self._name, error)
        self._store.close()

    # -- kept by the broker

    def _keep_stored(self, store: Store, pools: Sequence[Asked]) -> None:
        now = time.monotonic()
        reads = now - self._read_at >= READ_AGAIN_S
        if reads:
            self._stored = dict(store.rates())
            self._read_at = now
        wanted = _strictest(pools)
        self._seen |= {by for _, by in wanted.values()}
        if self._stored:
            self._lift(store, wanted, pools)
        for task, (per_s, by) in wanted.items():
            if self._stored.get(task) != (per_s, by):
                self._set(store, task, per_s, by)
            else:
                if reads:
                    self._store_rate(store, task, per_s, by)  # so that the store does not forget who leads
                self._remind(task, per_s, by, _keepers(pools, task), now)

    def _lift(self, store: Store, wanted: Mapping[str, object], pools: Sequence[Asked]) -> None:
        """What pools have set that want it no more, or are gone; others' stays."""
        asking = {pool.by for pool in pools}
        strange = [by for task, (_, by) in self._stored.items() if task not in wanted and by not in asking]
        there = {"/".join(key) for key in self._exists()} if strange else set()
        namespaces = {by.partition("/")[0] for by in there}
        for task, (_, by) in list(self._stored.items()):
            gone = by not in there and (by in self._seen or by.partition("/")[0] in namespaces)
            if task not in wanted and (by in asking or (by in strange and gone)):
                self._set(store, task, None, by)

    def _set(self, store: Store, task: str, per_s: float | None, by: str) -> None:
        """In the store, for workers that start later or hear nothing; then by a command, for those that listen."""
        self._store_rate(store, task, per_s, by)
        if per_s is None:
            self._stored.pop(task, None)
        else:
            self._stored[task] = (per_s, by)
        self._mention(self._order(task, per_s, "cluster", by))
        how = "as declared" if per_s is None else f"{per_s:g} times a second"
        log.info("broker %s: %s starts %s", self._name, task, how)

    def _store_rate(self, store: Store, task: str, per_s: float | None, by: str) -> None:
        if not store.set_rate(task, per_s, by, epoch=self._epoch):
            raise _Outdated(f"the rate of {task} was not set: a newer leader than this one speaks for {by}")

    def _remind(self, task: str, per_s: float, by: str, keepers: Sequence[Keeper], now: float) -> None:
        """Tell again those that keep something else: they have not heard, or a person has told them otherwise."""
        nodes = self._due(task, unheeded(task, per_s, keepers, by=by), now)
        if nodes:
            self._mention(self._order(task, per_s, "cluster", by, nodes))

    def _mention(self, order: control.Command) -> None:
        """Tell workers what stands in the store: those that cannot be told look there by themselves."""
        try:
            self._post.send(order)
        except CannotSign as error:
            log.debug("broker %s: %s; the workers read the rate in the store", self._name, error)

    # -- kept by the workers

    def _divide(self, pools: Sequence[Asked]) -> None:
        now, wanted = time.monotonic(), _strictest(pools)
        ours = {pool.by for pool in pools}
        every = _keepers(pools)
        for order in lifted(wanted, every, ours=ours):
            self._tell(order, by=next(iter(sorted(ours))))
        for task, (per_s, by) in wanted.items():
            asking = [pool for pool in pools if task in pool.rates]
            keepers = [keeper for keeper in _keepers(asking) if not self._deaf(keeper, task, ours)]
            coming = sum(pool.coming_slots for pool in asking)
            for order in divided(task, per_s, keepers, ours=ours, coming_slots=coming):
                nodes = self._due(task, order.nodes, now, every_s=0.0)
                self._tell(order._replace(nodes=nodes), by=by)

    def _deaf(self, keeper: Keeper, task: str, ours: Collection[str]) -> bool:
        """Whether it heeds nothing that it is told of this task: it does not know it, so it starts none."""
        kept = keeper.rates.get(task)
        if kept is not None and kept.by in ours:
            self._told.pop((keeper.node, task), None)
            return False
        return self._told.get((keeper.node, task), (0.0, 0))[1] >= ORDERS

    def _tell(self, order: Order, *, by: str) -> None:
        try:
            self._post.send(self._order(order.task, order.per_s, "worker", by, order.nodes))
        except CannotSign as error:
            self._unsigned = str(error)
            for node in error.nodes:
                self._told.pop((node, order.task), None)  # they were not told

    def _order(
        self, task: str, per_s: float | None, scope: str, by: str, nodes: Sequence[str] | None = None
    ) -> control.Command:
        return control.rate_limit(task=task, per_s=per_s, scope=scope, by=by, epoch=self._epoch, destination=nodes)

    def _due(self, task: str, nodes: Iterable[str], now: float, *, every_s: float = TELL_AGAIN_S) -> tuple[str, ...]:
        """Those of the nodes that were not told just now; they count as told."""
        due = []
        for node in nodes:
            at, times = self._told.get((node, task), (float("-inf"), 0))
            if now - at >= every_s:
                self._told[node, task] = (now, times + 1)
                due.append(node)
        if len(self._told) > 10_000:
            self._told.clear()  # only costs an order more
        return tuple(due)


class _Outdated(Exception):
    """This one leads no more; the message says what it could not do."""


def asked(sight: Sight, now: float) -> Asked:
    """What a pool asks for, as it was seen."""
    slots = max((pod.slots for pod in sight.pods), default=1)
    coming = [
        pod
        for pod in sight.pods
        if pod.heartbeat_age_s is None
        and not (pod.deleting or pod.pending_reason)
        and now - (pod.created_at or now) < LATE_S
    ]
    return Asked(
        key=sight.member.record.key,
        rates=rates_of(sight),
        keepers=sight.keepers or (),
        coming_slots=float(slots * len(coming)),
    )


def rates_of(sight: Sight) -> dict[str, float]:
    """Task -> starts a second that the pool's spec asks for."""
    return {limit.task: limit.rate_per_s for limit in sight.member.spec.rate_limits}


def disagreements(asked: Mapping[Key, Mapping[str, float]]) -> dict[Key, str]:
    """Pool -> on which tasks other pools of its broker ask for another rate, in words. asked: pool -> task -> starts a second."""
    by_task: dict[str, dict[Key, float]] = {}
    for key, rates in asked.items():
        for task, per_s in rates.items():
            by_task.setdefault(task, {})[key] = per_s
    said: dict[Key, list[str]] = {}
    for task, rates_of in sorted(by_task.items()):
        if len(set(rates_of.values())) > 1:
            asks = ", ".join(f"{'/'.join(key)} for {per_s:g}/s" for key, per_s in sorted(rates_of.items()))
            for key in rates_of:
                said.setdefault(key, []).append(f"of {task} pools ask for different rates ({asks}): the lowest holds")
    return {key: "; ".join(sentences) for key, sentences in said.items()}


def _strictest(pools: Iterable[Asked]) -> dict[str, tuple[float, str]]:
    """task -> (starts a second, who asks for it): of two pools the one that asks for less."""
    wanted: dict[str, tuple[float, str]] = {}
    for pool in pools:
        for task, per_s in pool.rates.items():
            if task not in wanted or per_s < wanted[task][0]:
                wanted[task] = (per_s, pool.by)
    return wanted


def _keepers(pools: Iterable[Asked], task: str | None = None) -> list[Keeper]:
    """Each worker once, of the pools that ask for this task, or of all."""
    return list(
        {
            keeper.node: keeper for pool in pools if task is None or task in pool.rates for keeper in pool.keepers
        }.values()
    )
