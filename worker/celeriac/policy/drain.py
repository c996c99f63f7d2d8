"""The drain mark: which one a worker heeds, and when it expires."""

from typing import NamedTuple


class Mark(NamedTuple):
    """A wish of the operator that this worker ends its work. expires_at: monotonic seconds of this worker."""

    id: str
    epoch: int
    expires_at: float


#: Seconds after which a leader of whom nothing more is heard binds nobody: several times what a mark holds.
FORGOTTEN_S = 300.0


class Epoch(int):
    """The highest epoch heeded, a plain number to everybody else, with the time it was last heard of.

    heard_at   monotonic seconds; None: not known yet, and counted from the next command on.

    Leaders number themselves by their clocks. One that is elected after its clock was set back has a lower number than
    its predecessor, and must be heard nevertheless, once the predecessor has been silent for long.
    """

    heard_at: float | None

    def __new__(cls, epoch: int, heard_at: float | None = None) -> "Epoch":
        made = super().__new__(cls, epoch)
        made.heard_at = heard_at
        return made


def heard(
    mark: Mark | None, highest_epoch: int, *, id: str, epoch: int, ttl_s: float, now: float
) -> tuple[Mark | None, Epoch]:
    """(the mark to heed, the highest epoch seen) after a drain command. A lower epoch is an old leader's: ignored.

    now: monotonic seconds.
    """
    if epoch < highest_epoch:
        heard_at = getattr(highest_epoch, "heard_at", None)
        if heard_at is None:
            return mark, Epoch(highest_epoch, now)
        if now - heard_at < FORGOTTEN_S:
            return mark, Epoch(highest_epoch, heard_at)
    return Mark(id, epoch, now + ttl_s), Epoch(epoch, now)


def lifted(mark: Mark | None, highest_epoch: int, *, epoch: int) -> tuple[Mark | None, Epoch]:
    """(the mark to heed, the highest epoch seen) after an undrain command."""
    if epoch < highest_epoch:
        return mark, Epoch(highest_epoch, getattr(highest_epoch, "heard_at", None))
    return None, Epoch(epoch)


def still(mark: Mark | None, now: float) -> Mark | None:
    """The mark, unless it has expired: an operator that vanished drains nobody for ever."""
    return mark if mark is not None and now < mark.expires_at else None
