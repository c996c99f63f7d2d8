"""Which signals are missing: what makes a decision coarser than it could be, and whose commands are not heeded. In words. Pure."""

from collections.abc import Sequence

from celeriac_operator.fleet.signature import Lack
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


def unheeded(
    pods: Sequence[PodSample], *, lack: Lack | None, certificate: str, unanswered: Sequence[str]
) -> tuple[str, str]:
    """(reason, sentence) when workers that demand signed commands do not heed the operator's; ("", "") when all is well.

    lack         why the operator cannot sign, None when it can; certificate: the name of what it signs with.
    unanswered   names of pods that have not echoed a drain mark in time.
    """
    demanding = sorted(pod.name for pod in pods if pod.signed and not pod.deleting)
    if demanding and lack is not None:
        sentence = (
            f"{len(demanding)} pods demand signed commands ({_listed(demanding)}), and the operator {lack.says}. Until then they are neither"
            " drained nor told a rate"
        )
        return (lack.reason, sentence)
    mute = [name for name in demanding if name in set(unanswered)]
    if mute:
        sentence = (
            f"{len(mute)} pods demand signed commands and do not answer ours ({_listed(mute)}): is the certificate {certificate!r} in their"
            " security_cert_store, is their security_digest the operator's, are the clocks in step? Their logs say what they refused"
        )
        return ("CommandsRefused", sentence)
    return ("", "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
