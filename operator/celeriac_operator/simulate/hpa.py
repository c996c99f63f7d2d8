"""sync(settings, memory, ...): one round of the HorizontalPodAutoscaler, v2, for one external metric of type AverageValue.

As kube-controller-manager computes it (pkg/controller/podautoscaler), every 15 s: the ratio with its tolerance, the
stabilization window, the policies. With `behavior` unset the rules are other ones than with its defaults written out.
"""

import math
from dataclasses import dataclass, replace

SYNC_S = 15.0
_TOLERANCE = 0.1

#: --horizontal-pod-autoscaler-downscale-stabilization
_DOWNSCALE_S = 300.0

#: What an unset `behavior` allows upwards in one sync: the double, or four pods.
_UP_FACTOR, _UP_LEAST = 2, 4

#: The default policies of a `behavior` that is set: 4 pods or 100 % upwards, 100 % downwards, in 15 s.
_POLICY_S, _UP_PODS, _UP_PERCENT, _DOWN_PERCENT = 15.0, 4, 100, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaSettings:
    """target: the metric's average value a pod. down_window_s: of `behavior.scaleDown`; None: no `behavior` at all."""

    minimum: int
    maximum: int
    target: float
    down_window_s: float | None = None


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """(at, replicas) as recommended before stabilization; (at, change) of what was written."""

    recommended: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int], ...] = ()


def sync(
    settings: HpaSettings, memory: HpaMemory, *, usage: float, replicas: int, existing: int, now: float
) -> tuple[HpaMemory, int]:
    """The memory after this round, and the replicas to write.

    usage: the metric, summed over its series. replicas: spec.replicas. existing: status.replicas.
    """
    if replicas == 0 and settings.minimum != 0:
        return memory, 0  # scaling is disabled: whoever wrote 0 must write 1
    if replicas > settings.maximum:
        desired = settings.maximum
    elif replicas < settings.minimum:
        desired = settings.minimum
    else:
        desired = proposal(settings.target, usage=usage, existing=existing)
    if settings.down_window_s is None:
        return _without_behavior(settings, memory, desired, replicas, now)
    return _with_behavior(settings, memory, desired, replicas, now, settings.down_window_s)


def proposal(target: float, *, usage: float, existing: int) -> int:
    """AverageValue: as many pods as there are within the tolerance, else the metric over its target."""
    if existing and 1.0 - _TOLERANCE <= usage / (target * existing) <= 1.0 + _TOLERANCE:
        return existing
    return math.ceil(usage / target)


def _without_behavior(
    settings: HpaSettings, memory: HpaMemory, desired: int, replicas: int, now: float
) -> tuple[HpaMemory, int]:
    recommended = (*((at, n) for at, n in memory.recommended if at > now - _DOWNSCALE_S), (now, desired))
    stabilized = max(n for _, n in recommended)
    most = min(settings.maximum, max(_UP_FACTOR * replicas, _UP_LEAST))
    return replace(memory, recommended=recommended), min(max(stabilized, settings.minimum), most)


def _with_behavior(
    settings: HpaSettings, memory: HpaMemory, desired: int, replicas: int, now: float, window_s: float
) -> tuple[HpaMemory, int]:
    held = max([desired, *(n for at, n in memory.recommended if at > now - window_s)])
    # The window upwards is 0 by default: what is wanted now is reason enough to grow.
    wanted = desired if desired > replicas else min(replicas, held)
    changes = tuple((at, change) for at, change in memory.changes if at > now - _POLICY_S)
    began = replicas - sum(change for _, change in changes)
    if wanted > replicas:
        most = max(began + _UP_PODS, math.ceil(began * (1 + _UP_PERCENT / 100)), replicas)
        wanted = min(wanted, most, settings.maximum)
    elif wanted < replicas:
        least = min(int(began * (1 - _DOWN_PERCENT / 100)), replicas)
        wanted = max(wanted, least, settings.minimum)
    recommended = (*((at, n) for at, n in memory.recommended if at > now - window_s), (now, desired))
    if wanted != replicas:
        changes = (*changes, (now, wanted - replicas))
    return HpaMemory(recommended=recommended, changes=changes), wanted
