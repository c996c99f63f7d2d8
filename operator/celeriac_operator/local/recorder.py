"""The story of one local run, from the loop's ticks: what every view draws, and what the summary tells at the end."""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celeriac.wire.event import QueueTotals, TaskTotals
from celeriac_operator.local.cluster import Happening, Scaled
from celeriac_operator.local.processes import Exit
from celeriac_operator.loop import Tick

Key = tuple[str, str]

#: Seconds over which rates are shown.
RATE_WINDOW_S = 15.0


@dataclass(slots=True)
class _Pool:
    tick: Tick
    peak: int = 0
    worked: bool = False
    first_work_at: float | None = None
    done: deque[tuple[float, int]] = field(default_factory=deque)
    limited_s: dict[str, float] = field(default_factory=dict)
    busy_at: dict[str, int] = field(default_factory=dict)
    drained: set[str] = field(default_factory=set)
    pods_seen: set[str] = field(default_factory=set)


class Recorder:
    """Keeps what the ticks told. `tick` is called by the loop's threads, the rest by the main thread."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self._lock = threading.Lock()
        self._closed_at: float | None = None
        self._pools: dict[Key, _Pool] = {}

    def tick(self, tick: Tick) -> None:
        with self._lock:
            known = self._pools.get(tick.pool.key)
            if known is None:
                known = self._pools[tick.pool.key] = _Pool(tick=tick)
            passed_s = max(0.0, tick.now - known.tick.now)
            limit = known.tick.decision.limited_by
            known.limited_s[limit] = known.limited_s.get(limit, 0.0) + passed_s
            known.tick = tick
            known.peak = max(known.peak, len([pod for pod in tick.signals.pods if not pod.deleting]))
            waiting = any(queue.ready or queue.leased or queue.throttled for queue in tick.signals.queues)
            done = sum(queue.started + queue.completed for queue in tick.signals.queues)
            if waiting or done:
                known.worked = True
                known.first_work_at = known.first_work_at or tick.now
            known.done.append((tick.now, sum(queue.completed for queue in tick.signals.queues)))
            while known.done and known.done[0][0] < tick.now - RATE_WINDOW_S:
                known.done.popleft()
            for pod in tick.signals.pods:
                known.pods_seen.add(pod.name)
                known.busy_at[pod.name] = pod.busy
                if pod.drain_state == "drained":
                    known.drained.add(pod.name)

    def ticks(self) -> list[Tick]:
        """The last tick of each pool, in order of names."""
        with self._lock:
            return [self._pools[key].tick for key in sorted(self._pools)]

    def rate_per_s(self, key: Key) -> float:
        """Completions a second of late."""
        with self._lock:
            done = self._pools[key].done
            if len(done) < 2 or done[-1][0] <= done[0][0]:
                return 0.0
            return (done[-1][1] - done[0][1]) / (done[-1][0] - done[0][0])

    def worked(self) -> bool:
        """Whether any pool has seen work."""
        with self._lock:
            return any(pool.worked for pool in self._pools.values())

    def idle(self, pools: int) -> bool:
        """Whether every one of that many pools has nothing waiting, running or delayed, and stands at its minimum."""
        with self._lock:
            ticks = [pool.tick for pool in self._pools.values()]
        return len(ticks) == pools and all(map(_idle, ticks))

    def close(self) -> None:
        """From now on the person stops the run: a worker that is told to go while it is busy finishes within its grace."""
        self._closed_at = time.time()

    def killed_while_busy(self, exits: Iterable[Exit]) -> set[str]:
        """Pods that did not live to finish: killed, or taken by a scale-in, with running tasks in their last heartbeat."""
        with self._lock:
            busy = {name for pool in self._pools.values() for name, count in pool.busy_at.items() if count}
            drained = {name for pool in self._pools.values() for name in pool.drained}
        return {
            end.pod
            for end in exits
            if end.grace_exceeded
            or (end.pod in busy and end.signal_sent == signal.SIGKILL)
            or (
                end.pod in busy - drained and end.signal_sent == signal.SIGTERM and (end.code or not self._closing(end))
            )
        }

    def _closing(self, end: Exit) -> bool:
        return self._closed_at is not None and end.at >= self._closed_at

    def summary(
        self, *, outcome: str, scaled: Sequence[Scaled], happenings: Sequence[Happening], exits: Sequence[Exit]
    ) -> dict[str, Any]:
        """Everything as JSON types. Times are seconds since the start."""
        with self._lock:
            pools = {"/".join(key): pool for key, pool in sorted(self._pools.items())}
        killed = self.killed_while_busy(exits)
        return {
            "outcome": outcome,
            "seconds": round(time.time() - self.started_at, 3),
            "peak_replicas": max((pool.peak for pool in pools.values()), default=0),
            "totals": _totals([counts for pool in pools.values() for counts in pool.tick.queues.values()]),
            "pods_killed_while_busy": sorted(killed),
            "pools": {
                name: self._pool_summary(pool, scaled, happenings, exits, killed) for name, pool in pools.items()
            },
        }

    def _pool_summary(
        self,
        pool: _Pool,
        scaled: Sequence[Scaled],
        happenings: Sequence[Happening],
        exits: Sequence[Exit],
        killed: set[str],
    ) -> dict[str, Any]:
        tick, name = pool.tick, pool.tick.pool.name
        ups = [write.at for write in scaled if write.pool == name and write.after > write.before]
        reacted_s = ups[0] - pool.first_work_at if ups and pool.first_work_at is not None else None
        return {
            "peak_replicas": pool.peak,
            "final_replicas": tick.signals.target.replicas,
            "min_replicas": tick.spec.min_replicas,
            "max_replicas": tick.spec.max_replicas,
            "totals": _totals(list(tick.queues.values())),
            "queues": {queue: _totals([counts]) for queue, counts in sorted(tick.queues.items())},
            "tasks": _tasks(tick.tasks),
            "dead": sum(queue.dead for queue in tick.signals.queues),
            "left": {queue.name: _left(queue) for queue in tick.signals.queues},
            "seen_to_scale_seconds": None if reacted_s is None else round(reacted_s, 3),
            "limited_by_seconds": {limit: round(s, 1) for limit, s in sorted(pool.limited_s.items())},
            "scale_events": [
                {"at": round(write.at - self.started_at, 3), "from": write.before, "to": write.after}
                for write in scaled
                if write.pool == name
            ],
            "events": [
                {"at": round(h.at - self.started_at, 3), "type": h.kind, "reason": h.reason, "message": h.message}
                for h in happenings
                if h.pool == name
            ],
            "pods": {
                "seen": len(pool.pods_seen),
                "drained": len(pool.drained),
                "killed_while_busy": len(killed & pool.pods_seen),
                "crashed": sum(1 for end in exits if end.pod in pool.pods_seen and not end.signal_sent),
            },
        }


def _idle(tick: Tick) -> bool:
    queues, target = tick.signals.queues, tick.signals.target
    at_rest = not any(q.ready or q.leased or q.throttled or q.delayed for q in queues)
    least = target.replicas <= tick.spec.min_replicas and len(tick.signals.pods) <= tick.spec.min_replicas
    return tick.signals.broker_ok and bool(queues) and at_rest and least


def _left(queue: Any) -> int:
    return int(queue.ready + queue.leased + queue.throttled + queue.delayed)


def _totals(counts: Sequence[QueueTotals]) -> dict[str, Any]:
    names = (
        "received", "started", "succeeded", "failed", "retried", "rejected", "revoked", "dead_lettered", "redelivered",
    )  # fmt: skip
    totals: dict[str, Any] = {name: sum(getattr(one, name) for one in counts) for name in names}
    waits, wait_s = sum(one.waits for one in counts), sum(one.wait_s for one in counts)
    totals["busy_seconds"] = round(sum(one.busy_s for one in counts), 3)
    totals["wait_mean_seconds"] = round(wait_s / waits, 3) if waits else None
    return totals


def _tasks(tasks: Mapping[tuple[str, str], TaskTotals]) -> dict[str, dict[str, Any]]:
    sums: dict[str, dict[str, Any]] = {}
    for (_, task), counts in sorted(tasks.items()):
        known = sums.setdefault(task, dict.fromkeys(("started", "succeeded", "failed", "retried", "throttled"), 0))
        for name in known:
            known[name] += getattr(counts, name)
    return sums
