"""Which commands a worker heeds whose messages are signed: who may give them, and how old they may be."""

from collections.abc import Collection
from typing import NamedTuple

from celeriac.wire.control import CHANGING, EITHER, OPERATORS, Sent

#: Seconds by which a command's time of sending may differ from this worker's clock, either way.
AGE_S = 60.0
#: Seconds before its own start from which a worker takes commands: clocks that are in step differ by less.
BEFORE_START_S = 1.0


#: Why commands are refused, as metrics count it: the first and the last here, the others because they cannot be read.
REASONS = ("unsigned", "untrusted", "undecodable", "outdated")


class Refusal(NamedTuple):
    """Why a command is passed over. reason: unsigned or outdated, as metrics count it. says: the rest of a sentence, and what to do."""

    reason: str
    says: str


def unsigned(method: str, *, heeds: str) -> Refusal | None:
    """Whether a command without a signature is refused, by a worker that heeds such (`celeriac.wire.control.SIGNED` or EITHER)."""
    if method not in OPERATORS:
        return Refusal("unsigned", "is not signed: send it from an app that has called setup_security()")
    if heeds == EITHER:
        return None
    return Refusal(
        "unsigned",
        "is not signed: give the operator a key (signing.secretName in its chart) whose certificate is in security_cert_store; while you"
        " migrate, security_accept_unsigned_operator lets it in",
    )


def outdated(method: str, sent: Sent | None, *, began_at: float, seen: Collection[str], now: float) -> Refusal | None:
    """Whether a signed command is one that somebody recorded and sends again; questions may be asked twice.

    sent   None: it does not say when, as Celery's clients do not; it is heeded.
    seen   ids of commands that were heeded: those of the last AGE_S, at the least.

    began_at (this worker's start) and now are epoch seconds.
    """
    if sent is None or method not in CHANGING:
        return None
    if sent.id in seen:
        return Refusal("outdated", "came a second time: it was sent twice, or recorded")
    away_s = now - sent.at
    if abs(away_s) > AGE_S:
        when = f"{away_s:.0f} s ago" if away_s > 0 else f"{-away_s:.0f} s from now"
        return Refusal(
            "outdated",
            f"was sent {when} by its sender's clock, and {AGE_S:.0f} s are allowed: it was recorded, or the clocks are not in step",
        )
    if sent.at < began_at - BEFORE_START_S:
        return Refusal("outdated", "was sent before this worker began: it was recorded, or the clocks are not in step")
    return None
