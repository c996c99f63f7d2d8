"""The rates that pools ask for in spec.rateLimits, kept on one broker: by the broker for all workers, or by the workers, each its part."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, ImproperlyConfigured
from celeriac.wire import control
from celeriac_operator.fleet.control import Post
from celeriac_operator.loop.members import Changes, Key
from celeriac_operator.scaling.rates import Keeper, Order, divided

log = logging.getLogger("celeriac_operator.loop")

#: Seconds after which the store is read again: somebody may have emptied it.
READ_AGAIN_S = 60.0


class Store(Protocol):
    """Where a broker keeps rates for all workers: `celeriac.broker.coordination.Coordination`."""

    def rates(self) -> Mapping[str, tuple[float, str]]: ...

    def set_rate(self, task: str, per_s: float | None, by: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one pool asks for: task -> starts a second; its live workers; the slots of the pods that are ordered."""

    key: Key
    rates: Mapping[str, float]
    keepers: Sequence[Keeper]
    expected_slots: float

    @property
    def by(self) -> str:
        return "/".join(self.key)


class Rates:
    """Keeps them. store: None where the broker cannot. Used by the broker's tick alone."""

    def __init__(self, store: Store | None, post: Post, *, name: str, changes: Changes) -> None:
        self._store, self._post, self._name, self._changes = store, post, name, changes
        self._stored: dict[str, tuple[float, str]] = {}
        self._read_at = float("-inf")

    @property
    def kept_by(self) -> str:
        """Who counts: the broker, or the workers."""
        return "broker" if self._store is not None else "workers"

    def keep(self, pools: Sequence[Asked]) -> None:
        """Tell broker and workers what has changed. What fails is logged once, and tried again at the next tick."""
        subject = f"broker {self._name}: rate limits"
        try:
            if self._store is not None:
                self._keep_stored(self._store, pools)
            else:
                for pool in pools:
                    orders = divided(pool.rates, pool.keepers, by=pool.by, expected_slots=pool.expected_slots)
                    self._tell(orders, scope="worker", by=pool.by)
        except (BackendUnavailable, BrokerUnavailable, ImproperlyConfigured) as error:
            self._read_at = float("-inf")
            self._changes.failed(subject, str(error))
        else:
            self._changes.worked(subject)

    def drop(self, keys: Iterable[Key]) -> None:
        """Lift what these pools asked for: they are gone. (Of divided rates each worker keeps its part until it ends.)"""
        if self._store is None:
            return
        gone = {"/".join(key) for key in keys}
        try:
            for task, (_, by) in list(self._stored.items()):
                if by in gone:
                    self._set(self._store, task, None, by)
        except (BackendUnavailable, BrokerUnavailable, ImproperlyConfigured) as error:
            log.warning("broker %s: the rate limits of a pool that is gone could not be lifted: %s", self._name, error)

    def close(self) -> None:
        """Disconnect."""
        if self._store is not None:
            self._store.close()

    def _keep_stored(self, store: Store, pools: Sequence[Asked]) -> None:
        if not self._stored and not any(pool.rates for pool in pools) and self._read_at > float("-inf"):
            return  # nothing is asked for, and nothing was: the usual case costs nothing
        if time.monotonic() - self._read_at >= READ_AGAIN_S:
            self._stored = dict(store.rates())
            self._read_at = time.monotonic()
        wanted: dict[str, tuple[float, str]] = {}
        for pool in pools:
            for task, per_s in pool.rates.items():
                if task not in wanted or per_s < wanted[task][0]:  # two pools of one task: the stricter one holds
                    wanted[task] = (per_s, pool.by)
        ours = {pool.by for pool in pools}
        for task, (_, by) in list(self._stored.items()):
            if by in ours and task not in wanted:
                self._set(store, task, None, by)
        for task, (per_s, by) in wanted.items():
            if self._stored.get(task) != (per_s, by):
                self._set(store, task, per_s, by)

    def _set(self, store: Store, task: str, per_s: float | None, by: str) -> None:
        """In the store, for workers that start later or hear nothing; then by a command, for those that listen."""
        store.set_rate(task, per_s, by)
        if per_s is None:
            self._stored.pop(task, None)
        else:
            self._stored[task] = (per_s, by)
        self._post.send(control.rate_limit(task=task, per_s=per_s, scope="cluster", by=by))
        log.info(
            "broker %s: %s starts %s", self._name, task, "as declared" if per_s is None else f"{per_s:g} times a second"
        )

    def _tell(self, orders: Iterable[Order], *, scope: str, by: str) -> None:
        for order in orders:
            self._post.send(
                control.rate_limit(task=order.task, per_s=order.per_s, scope=scope, by=by, destination=order.nodes)
            )
