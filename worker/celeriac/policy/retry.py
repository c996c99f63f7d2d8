"""When a task runs again, and when it has run often enough."""

from collections.abc import Callable


def exhausted(retries: int, max_retries: int | None) -> bool:
    """Whether a task that was retried `retries` times may not be retried again. max_retries None: never."""
    return max_retries is not None and retries >= max_retries


def backoff_s(factor_s: float, retries: int, cap_s: float, jitter: Callable[[int], int] | None) -> float:
    """Seconds to wait before the next try: factor x 2^retries, capped, with full jitter when `jitter` is given.

    retries  tries already repeated: 0 after the first failure.
    jitter   rolls an int in [0, n) for n; the caller brings the dice.

    The curve is Celery's (get_exponential_backoff_interval).
    """
    countdown = min(cap_s, factor_s * (2 ** min(retries, 62)))
    if jitter is not None:
        return float(jitter(int(countdown) + 1))
    return max(0.0, float(countdown))
