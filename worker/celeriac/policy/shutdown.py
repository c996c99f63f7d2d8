"""How a worker ends: a bounded walk from running to stopped."""

from typing import NamedTuple

RUNNING, DRAINING, STOPPED = "running", "draining", "stopped"


class Step(NamedTuple):
    """What to do now. requeue: give the messages of what still runs back before stopping."""

    phase: str
    requeue: bool = False


def next_step(phase: str, *, asked_at: float | None, cold: bool, busy: int, grace_s: float, now: float) -> Step:
    """The next phase of a shutdown.

    asked_at  monotonic seconds of the first SIGTERM, None while nobody asked. cold: a second signal, do not wait.
    busy      bodies still running. grace_s: seconds they may take.

    running --asked--> draining --idle--> stopped; --grace over or cold--> stopped with requeue.
    """
    if asked_at is None:
        return Step(phase)
    if busy == 0:
        return Step(STOPPED)
    if cold or now - asked_at >= grace_s:
        return Step(STOPPED, requeue=True)
    return Step(DRAINING)
