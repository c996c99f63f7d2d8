"""Who is told which rate: a limit of the cluster, kept by the broker for all or divided among live workers.

A worker that cannot share a count keeps its part alone. Parts add up to the limit at every moment: first those that must do less
are told, and when their heartbeats show it, those that may do more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: How far a worker's rate may be from its part before it is told again: shares of the limit.
NEAR = 0.005


class Kept(NamedTuple):
    """A rate as a worker tells it in its heartbeat. scope: worker or cluster; by: who set it."""

    per_s: float
    scope: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A live worker of the pool. node: the address of commands. starts: whether it claims, or is drained and will start nothing."""

    node: str
    slots: int
    starts: bool = True
    rates: Mapping[str, Kept] = field(default_factory=dict)


class Order(NamedTuple):
    """Tell these workers to keep this rate; None: what their code declares."""

    nodes: tuple[str, ...]
    task: str
    per_s: float | None


def divided(
    wanted: Mapping[str, float], keepers: Sequence[Keeper], *, by: str, expected_slots: float
) -> tuple[Order, ...]:
    """What to tell workers that share no count, so that together they keep `wanted` (task -> starts a second).

    by              the pool's name, by which rates it has set before are known.
    expected_slots  of the pods that are ordered: those that start take over another's part until they are told their own.
    """
    orders: list[Order] = []
    for task, per_s in sorted(wanted.items()):
        orders += _divided(task, per_s, keepers, by, expected_slots)
    return (*orders, *lifted(wanted, keepers, by=by))


def lifted(wanted: Iterable[str], keepers: Sequence[Keeper], *, by: str) -> tuple[Order, ...]:
    """Lift what this pool has set and wants no more."""
    left: dict[str, list[str]] = {}
    for keeper in keepers:
        for task, kept in keeper.rates.items():
            if kept.by == by and task not in wanted:
                left.setdefault(task, []).append(keeper.node)
    return tuple(Order(tuple(sorted(nodes)), task, None) for task, nodes in sorted(left.items()))


def _divided(task: str, per_s: float, keepers: Sequence[Keeper], by: str, expected_slots: float) -> list[Order]:
    starting = [keeper for keeper in keepers if keeper.starts]
    slots = max(expected_slots, sum(keeper.slots for keeper in starting))
    if not starting or slots <= 0:
        return []
    part = {keeper.node: per_s * keeper.slots / slots for keeper in starting}
    now = {keeper.node: _told(keeper, task, by) for keeper in starting}
    lower = [node for node in part if now[node] > part[node] + NEAR * per_s]
    if lower:
        return _orders(task, {node: part[node] for node in lower})
    room = per_s - sum(now.values())
    more: dict[str, float] = {}
    for node in sorted(part):
        step = min(part[node] - now[node], room)
        if step > NEAR * per_s:
            more[node] = now[node] + step
            room -= step
    return _orders(task, more)


def _told(keeper: Keeper, task: str, by: str) -> float:
    """The rate that a worker keeps for this pool; without one it may start any number."""
    kept = keeper.rates.get(task)
    return kept.per_s if kept is not None and kept.by == by and kept.scope == "worker" else float("inf")


def _orders(task: str, rates: Mapping[str, float]) -> list[Order]:
    by_rate: dict[float, list[str]] = {}
    for node, per_s in rates.items():
        by_rate.setdefault(float(f"{per_s:.6g}"), []).append(node)
    return [Order(tuple(sorted(nodes)), task, per_s) for per_s, nodes in sorted(by_rate.items())]
