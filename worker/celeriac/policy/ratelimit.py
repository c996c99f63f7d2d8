"""Rate limits: Celery's grammar, and a token bucket that takes the time as a parameter."""

from dataclasses import dataclass

#: What a limit lost within this many seconds, since a look came late, may be made up for: no start is lost, and no burst is seen.
SLACK_S = 0.1

_PERIODS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(rate: object) -> float | None:
    """Starts a second: 10, 0.5, "10", "10/s", "100/m", "7/h". None, 0 and "0": no limit.

    Raises ValueError for anything else; negative, infinite and NaN rates included.
    """
    if rate is None or rate == "":
        return None
    try:
        if isinstance(rate, bool):
            raise ValueError  # noqa: TRY004 - turned into one message below
        if isinstance(rate, int | float):
            per_s = float(rate)
        else:
            count, slash, period = str(rate).partition("/")
            if slash and period not in _PERIODS_S:
                raise ValueError
            per_s = float(count) / _PERIODS_S[period or "s"]
        if not 0.0 <= per_s < float("inf"):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"rate limit {rate!r} is not a number or '<number>/s', '/m' or '/h' (for example 10, '10/s', '100/m')"
        ) from None
    return per_s or None


@dataclass(slots=True)
class TokenBucket:
    """A limit of `per_s` starts a second with room for `capacity` at once (Celery: 1, no burst).

    Starts full. The caller brings the time; a clock that runs backwards gives no tokens.
    """

    per_s: float
    capacity: float = 1.0
    tokens: float = 1.0
    at_s: float | None = None

    def there(self, now_s: float) -> int:
        """Tokens that may be taken now."""
        if self.at_s is None:
            self.tokens = self.capacity
        else:
            self.tokens = min(self.capacity, self.tokens + max(0.0, now_s - self.at_s) * self.per_s)
        self.at_s = now_s if self.at_s is None else max(now_s, self.at_s)
        return int(self.tokens + 1e-9)

    def take(self, wanted: int, now_s: float) -> tuple[int, float]:
        """(granted, seconds until the next token); granted is at most `wanted`."""
        granted = min(wanted, self.there(now_s))
        self.tokens -= granted
        return granted, self.wait_s()

    def wait_s(self) -> float:
        """Seconds from the last look until the next token."""
        return max(0.0, (1.0 - self.tokens) / self.per_s)
