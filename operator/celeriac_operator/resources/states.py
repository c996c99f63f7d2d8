"""A pool's state: the word that `kubectl get wp` shows."""

from collections.abc import Mapping
from enum import StrEnum

from celeriac_operator.resources.conditions import Found
from celeriac_operator.resources.spec import Mode, WorkerPoolSpec


class State(StrEnum):
    """Every state there is, beside the modes in which a pool does not act on all it decides, and beside the reason why it is not Ready."""

    STEADY = "Steady"  # it has the replicas that it wants
    ASLEEP = "Asleep"  # the same, and they are none
    SCALING_UP = "ScalingUp"
    DRAINING = "Draining"
    BLOCKED = "Blocked"  # it would not grow if work asked for it: ScaleUpBlocked says why
    OVERRIDE = "Override"  # spec.replicas holds, whatever the work
    SCALE_REFUSED = "ScaleRefused"  # the API server refused the write of the scale


#: Why a pool cannot be served that passes by itself; any other such reason is for a person to end.
PASSING_FAULTS = frozenset({"SecretNotRead"})


def state_of(conditions: Mapping[str, Found], spec: WorkerPoolSpec, *, desired: int, replicas: int) -> str:
    """The state of a pool that is decided on. What a person has to see comes first.

    desired   replicas wanted; replicas: those that the target has.
    """
    ready, scaling = conditions.get("Ready"), conditions.get("ScalingActive")
    if ready is not None and ready[0] is False:
        return ready[1]
    if spec.mode in (Mode.DRY_RUN, Mode.PAUSED):
        return str(spec.mode)
    if scaling is not None and scaling[1] == State.SCALE_REFUSED:
        return State.SCALE_REFUSED.value
    blocked = conditions.get("ScaleUpBlocked")
    if blocked is not None and blocked[0] and desired == replicas:
        return State.BLOCKED.value
    if spec.mode is not Mode.ACTIVE:
        return str(spec.mode)
    if spec.replicas is not None:
        return State.OVERRIDE.value
    if desired == replicas:
        return State.STEADY.value if desired else State.ASLEEP.value
    return State.SCALING_UP.value if desired > replicas else State.DRAINING.value
