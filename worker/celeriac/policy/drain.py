"""The drain mark: which one a worker heeds, and when it expires."""

from typing import NamedTuple

#: Seconds after which a leader of whom nothing more is heard binds nobody: several times what a mark holds.
FORGOTTEN_S = 300.0


class Mark(NamedTuple):
    """A wish of the operator that this worker ends its work. expires_at: monotonic seconds of this worker."""

    id: str
    epoch: int
    expires_at: float


class Heeded(NamedTuple):
    """What a worker remembers of the operator: its mark, the number of the leader it heeds, and when that one last spoke (monotonic).

    Leaders number themselves by their clocks. One that is elected after its clock was set back has a lower number than its
    predecessor, and must be heard nevertheless, once the predecessor has been silent for long.
    """

    mark: Mark | None = None
    epoch: int = 0
    heard_at: float = float("-inf")


def heard(heeded: Heeded, *, id: str, epoch: int, ttl_s: float, now: float) -> Heeded:
    """After a drain command. An old leader's is ignored. now: monotonic seconds."""
    return Heeded(Mark(id, epoch, now + ttl_s), epoch, now) if _counts(heeded, epoch, now) else heeded


def lifted(heeded: Heeded, *, epoch: int, now: float) -> Heeded:
    """After an undrain command. An old leader's is ignored."""
    return Heeded(None, epoch, now) if _counts(heeded, epoch, now) else heeded


def followed(heeded: Heeded, *, epoch: int, now: float) -> Heeded | None:
    """After any other command of a leader. None: an old leader's, to be ignored."""
    return heeded._replace(epoch=epoch, heard_at=now) if _counts(heeded, epoch, now) else None


def still(mark: Mark | None, now: float) -> Mark | None:
    """The mark, unless it has expired: an operator that vanished drains nobody for ever."""
    return mark if mark is not None and now < mark.expires_at else None


def _counts(heeded: Heeded, epoch: int, now: float) -> bool:
    return epoch >= heeded.epoch or now - heeded.heard_at >= FORGOTTEN_S
