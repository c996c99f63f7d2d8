"""Which child process gets the next job, how far ahead, and how long its results may wait. Pure."""

from collections.abc import Iterable

#: A job is sent behind others only when it will start within this.
AHEAD_S = 0.02
#: Behind a body that runs longer than this, nothing waits.
LONG_S = 0.05
#: Jobs that one child may have at once; about what fits into its socket.
MOST_AT_ONCE = 90
#: What a job costs a child beside its body.
OVERHEAD_S = 50e-6
#: Outcomes wait at most this long while bodies run.
MOST_REST_S = 0.005
#: A shorter rest is none: the loop's clock ticks in milliseconds.
LEAST_REST_S = 0.001
UNKNOWN = float("inf")


def learned(known_s: float, ran_s: float) -> float:
    """What a type's next run will take: quick to rise, slow to fall. known_s: UNKNOWN before its first run."""
    if known_s == UNKNOWN:
        return ran_s
    return known_s + (ran_s - known_s) * (0.5 if ran_s > known_s else 0.1)


def may_follow(load_s: float, count: int) -> bool:
    """Whether one more job may be sent to a child that has `count` jobs, `load_s` seconds of work by what is known of them."""
    return count == 0 or (load_s <= AHEAD_S and count < MOST_AT_ONCE)


def rest_s(children: Iterable[tuple[float, int]]) -> float:
    """How long the parent may leave results lying. children: (load_s, count) of each.

    While all of them have work to go on with, half of the shortest of it, at most MOST_REST_S: larger batches, and nobody runs dry.
    """
    shortest = MOST_REST_S * 2
    for load_s, count in children:
        if count < 2:
            return 0.0
        shortest = min(shortest, load_s)
    rest = shortest / 2
    return rest if rest >= LEAST_REST_S else 0.0


__all__ = ["AHEAD_S", "LONG_S", "MOST_AT_ONCE", "OVERHEAD_S", "UNKNOWN", "learned", "may_follow", "rest_s"]
