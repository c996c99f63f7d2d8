"""Who takes which part of the demand of a queue that several pools consume. Pure."""

from collections.abc import Sequence

from celeriac_operator.loop.members import Key, Sight
from celeriac_operator.scaling.guards import QUIET


def split_shared(sights: Sequence[Sight]) -> dict[Key, dict[str, float]]:
    """Pool -> queue -> its part of the demand, in (0, 1]; a queue of which it is to serve all is left out.

    Targets share, not pools: by the slots of their ready pods. A target that a pool scales and that has none counts as one
    slot, for it will have some. One that nobody of ours scales (DryRun, Paused, another autoscaler's) counts by what it has, and
    one that does not exist not at all. Several pools of one target see the part of that target: a dry run sees what it would
    have in place of the pool that acts.
    """
    weights: dict[str, dict[tuple[str, str, str], float]] = {}
    for sight in sights:
        if sight.target.error:
            continue
        slots = float(sum(pod.slots for pod in sight.pods if pod.ready and not pod.deleting))
        acts = sight.member.spec.mode not in QUIET and not sight.target.foreign_manager
        weight = max(1.0, slots) if acts else slots
        for queue in sight.member.spec.queues:
            taken = weights.setdefault(queue.name, {})
            taken[_target(sight)] = max(weight, taken.get(_target(sight), 0.0))
    shares: dict[Key, dict[str, float]] = {}
    for sight in sights:
        for queue in sight.member.spec.queues:
            taken = weights.get(queue.name, {})
            own, whole = taken.get(_target(sight), 0.0), sum(taken.values())
            if 0.0 < own < whole:
                shares.setdefault(sight.member.record.key, {})[queue.name] = own / whole
    return shares


def _target(sight: Sight) -> tuple[str, str, str]:
    target = sight.member.spec.target_ref
    return (sight.member.record.namespace, target.kind, target.name)
