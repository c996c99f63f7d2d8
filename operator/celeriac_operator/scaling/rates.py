"""Who is told which rate: a limit of the cluster, kept by the broker for all or divided among live workers.

A worker that cannot share a count keeps its part alone. Parts add up to the limit at every moment: first those that must do less
are told, and when their heartbeats show it, those that may do more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: How far a worker's rate may be from its part before it is told again, as a share of that part.
NEAR = 0.02


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
    task: str, per_s: float, keepers: Sequence[Keeper], *, ours: Collection[str], coming_slots: float
) -> tuple[Order, ...]:
    """What to tell workers that share no count, so that together they start `task` per_s times a second.

    ours          the pools that want this limit, by which rates that they have set before are known.
    coming_slots  of pods that are starting: such a worker takes over another's part until it is told its own.
    """
    starting = [keeper for keeper in keepers if keeper.starts]
    slots = coming_slots + sum(keeper.slots for keeper in starting)
    if not starting or slots <= 0:
        return ()
    part = {keeper.node: per_s * keeper.slots / slots for keeper in starting}
    now = {keeper.node: _told(keeper, task, ours) for keeper in starting}
    lower = {node: share for node, share in part.items() if now[node] > share * (1 + NEAR)}
    if lower:
        return _orders(task, lower)
    room = per_s - sum(now.values())
    more: dict[str, float] = {}
    for node in sorted(part):
        step = min(part[node] - now[node], room)
        if step > NEAR * part[node]:
            more[node] = now[node] + step
            room -= step
    return _orders(task, more)


def unheeded(task: str, per_s: float, keepers: Sequence[Keeper], *, by: str) -> tuple[str, ...]:
    """Nodes of workers that do not tell that they keep the cluster's rate: they have not heard of it, or were told otherwise."""
    wanted = Kept(per_s, "cluster", by)
    return tuple(sorted(keeper.node for keeper in keepers if keeper.starts and keeper.rates.get(task) != wanted))


def lifted(wanted: Collection[str], keepers: Sequence[Keeper], *, ours: Collection[str]) -> tuple[Order, ...]:
    """Lift what these pools have set, and nobody wants any more."""
    left: dict[str, list[str]] = {}
    for keeper in keepers:
        for task, kept in keeper.rates.items():
            if kept.by in ours and task not in wanted:
                left.setdefault(task, []).append(keeper.node)
    return tuple(Order(tuple(sorted(nodes)), task, None) for task, nodes in sorted(left.items()))


def _told(keeper: Keeper, task: str, ours: Collection[str]) -> float:
    """The rate that a worker keeps for these pools; without one it may start any number."""
    kept = keeper.rates.get(task)
    return kept.per_s if kept is not None and kept.by in ours and kept.scope == "worker" else float("inf")


def _orders(task: str, rates: Mapping[str, float]) -> tuple[Order, ...]:
    by_rate: dict[float, list[str]] = {}
    for node, per_s in rates.items():
        by_rate.setdefault(float(f"{per_s:.6g}"), []).append(node)
    return tuple(Order(tuple(sorted(nodes)), task, per_s) for per_s, nodes in sorted(by_rate.items()))
