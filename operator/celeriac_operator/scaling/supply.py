"""supply(signals, ...): the slots that are there or ordered, and what they will have done before a new one could start.

A pod ordered now claims its first task a cold start from now. What waits now is no reason for it as far as the pods
that are there, and those that are on their way, will have done it by then; what comes in meanwhile is.
"""

import math
from dataclasses import dataclass

from celeriac_operator.scaling.signals import PodSample, Signals

#: A pod that has not been heard for so many cold starts is not on its way any more.
_OVERDUE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Slots by when they claim next.

    busy       slots that run a task now.
    free_in_s  (slots, seconds until they claim): 0 for idle ones, up to a cold start for those of starting pods.
    slots      all of them, and those of replicas that do not exist yet.
    """

    slots: float = 0.0
    busy: float = 0.0
    free_in_s: tuple[tuple[float, float], ...] = ()

    def done_s(self, within_s: float, *, service_s: float) -> float:
        """Slot-seconds of what waits now that these slots get done within so many seconds, tasks being service_s long.

        A busy slot first ends its task: when run times are exponential, that leaves it within - S (1 - e^(-within/S)).
        """
        after_own_s = within_s - service_s * -math.expm1(-within_s / service_s)
        return self.busy * after_own_s + sum(slots * max(0.0, within_s - left_s) for slots, left_s in self.free_in_s)


def supply(signals: Signals, *, slots_per_pod: float, cold_start_s: float, now: float) -> Supply:
    alive = [
        pod
        for pod in signals.pods
        if not pod.deleting and not pod.stopping and pod.phase not in ("Succeeded", "Failed")
    ]
    starting = [pod for pod in alive if not _serves(pod)]
    coming = [left_s for left_s in (_left_s(pod, cold_start_s, now) for pod in starting) if left_s is not None]
    serving = [pod for pod in alive if _serves(pod)]
    busy = float(sum(min(pod.busy, pod.slots) for pod in serving))
    idle = sum(pod.slots for pod in serving) - busy
    absent = max(0, signals.target.replicas - len(alive))
    return Supply(
        slots=busy + idle + (len(coming) + absent) * slots_per_pod,
        busy=busy,
        free_in_s=((idle, 0.0), *((slots_per_pod, left_s) for left_s in coming)),
    )


def _serves(pod: PodSample) -> bool:
    return pod.ready or pod.heartbeat_age_s is not None


def _left_s(pod: PodSample, cold_start_s: float, now: float) -> float | None:
    """Seconds until a starting pod should be heard; None when it ought to have been long ago."""
    age_s = 0.0 if pod.created_at is None else max(0.0, now - pod.created_at)
    return None if age_s > _OVERDUE * cold_start_s else max(0.0, cold_start_s - age_s)
