"""The drain mark: which one a worker heeds, and when it expires."""

from typing import NamedTuple


class Mark(NamedTuple):
    """A wish of the operator that this worker ends its work. expires_at: monotonic seconds of this worker."""

    id: str
    epoch: int
    expires_at: float


def heard(
    mark: Mark | None, highest_epoch: int, *, id: str, epoch: int, ttl_s: float, now: float
) -> tuple[Mark | None, int]:
    """(the mark to heed, the highest epoch seen) after a drain command. A lower epoch is an old leader's: ignored.

    now: monotonic seconds.
    """
    if epoch < highest_epoch:
        return mark, highest_epoch
    return Mark(id, epoch, now + ttl_s), epoch


def lifted(mark: Mark | None, highest_epoch: int, *, epoch: int) -> tuple[Mark | None, int]:
    """(the mark to heed, the highest epoch seen) after an undrain command."""
    return (mark, highest_epoch) if epoch < highest_epoch else (None, epoch)


def still(mark: Mark | None, now: float) -> Mark | None:
    """The mark, unless it has expired: an operator that vanished drains nobody for ever."""
    return mark if mark is not None and now < mark.expires_at else None
