"""Which signals are missing: what makes a decision coarser than it could be, in words. Pure."""

from collections.abc import Sequence

from celeriac_operator.scaling.signals import PodSample

#: Seconds that a pod which has just become ready, and an operator which has just started, are given.
HEARD_AFTER_S = 15.0


def gaps(
    pods: Sequence[PodSample],
    *,
    queues: int,
    stock: Sequence[str],
    hearing: bool,
    listened_s: float,
    unmanaged: str,
    now: float,
) -> tuple[tuple[str, str], ...]:
    """(reason, sentence) of each missing signal, the gravest first.

    queues      how many the pool consumes.
    stock       node names of its stock Celery workers.
    hearing     whether the broker's events are heard at all; listened_s: for how long without a break.
    unmanaged   why the management API did not tell, "" when it did or was not asked.
    """
    found: list[tuple[str, str]] = []
    mute = sorted(
        pod.name
        for pod in pods
        if pod.ready
        and not pod.deleting
        and pod.heartbeat_age_s is None
        and min(now - (pod.ready_at or now), listened_s) > HEARD_AFTER_S
    )
    if not hearing:
        sentence = "no events are heard from the broker: what runs is known from leases alone, and nobody is drained"
        found.append(("HeartbeatsUnheard", sentence))
    elif mute:
        sentence = f"{len(mute)} ready pods have not been heard ({_listed(mute)}): their slots are guessed, they are not drained"
        found.append(("NoHeartbeat", sentence))
    if stock:
        split = ", those of several queues cannot be told apart" if queues > 1 else ""
        sentence = (
            f"{len(stock)} workers are stock Celery ({_listed(stock)}): run times are estimated, failures known with -E alone{split};"
            " they know no drain"
        )
        found.append(("StockWorkers", sentence))
    if unmanaged:
        found.append(("ManagementUnavailable", f"{unmanaged}: messages in flight are known from heartbeats alone"))
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
