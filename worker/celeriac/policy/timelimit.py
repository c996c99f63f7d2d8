"""Time limits: which hold for a call, and what is to be done about a body that runs now. Pure; seconds come in as parameters."""

import math
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """Seconds a body may run; None: as long as it likes. At `soft` it is told, by an exception; at `hard` it has failed."""

    hard: float | None = None
    soft: float | None = None


UNLIMITED = Limits()
#: `timelimit` headers of calls that ask for nothing, as they come: most of them.
UNASKED = (None, [None, None], (None, None))


class Step(NamedTuple):
    """What is to be done now (one of NOTHING, SOFT, HARD), and after how many seconds to look again; inf: no need."""

    do: str
    wait_s: float


NOTHING = "nothing"
SOFT = "soft"
HARD = "hard"


def limits_of(asked: Any, otherwise: Limits) -> Limits:
    """The limits of a call: each as its `timelimit` header says, [hard, soft], else `otherwise`.

    What is no positive number counts as not asked for: a header is no reason to lose a message.
    """
    if not isinstance(asked, list | tuple) or len(asked) != 2:
        return otherwise
    hard, soft = _seconds(asked[0]), _seconds(asked[1])
    if hard is None and soft is None:
        return otherwise
    return Limits(otherwise.hard if hard is None else hard, otherwise.soft if soft is None else soft)


def next_step(limits: Limits, *, ran_s: float, told: bool) -> Step:
    """What a body that has run for `ran_s` is due. told: its soft limit was raised already, which happens once."""
    hard = math.inf if limits.hard is None else limits.hard
    soft = math.inf if limits.soft is None or told else limits.soft
    if ran_s >= hard:
        return Step(HARD, math.inf)
    if ran_s >= soft:
        return Step(SOFT, hard - ran_s)
    return Step(NOTHING, min(hard, soft) - ran_s)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:  # nan is not, either
        return None
    return value


__all__ = ["HARD", "NOTHING", "SOFT", "UNASKED", "UNLIMITED", "Limits", "Step", "limits_of", "next_step"]
