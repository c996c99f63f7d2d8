"""Task states: their names, sets and precedence, as Celery has them (celery/states.py of 5.7)."""

PENDING = "PENDING"  #: waiting, or unknown: nothing is stored under that id
RECEIVED = "RECEIVED"  #: a worker has it (in events only)
STARTED = "STARTED"  #: a worker runs it; stored when track_started is on
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"  #: in events only
RETRY = "RETRY"  #: will run again
IGNORED = "IGNORED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
#: The guide's name.
FAILURE_STATES = PROPAGATE_STATES
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

#: Highest first; a custom state stands where None stands.
PRECEDENCE: tuple[str | None, ...] = (SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING)
#: State -> rank, as Celery calls it.
PRECEDENCE_LOOKUP: dict[str | None, int] = {state: rank for rank, state in enumerate(PRECEDENCE)}
NONE_PRECEDENCE = PRECEDENCE_LOOKUP[None]
_RANK = PRECEDENCE_LOOKUP


def precedence(state: str) -> int:
    """The state's rank: a lower number wins. A custom state ranks after FAILURE."""
    return _RANK.get(state, _RANK[None])


class state(str):  # noqa: N801 - Celery's name
    """A state that compares by precedence: state("SUCCESS") > state("PENDING")."""

    __slots__ = ()

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
