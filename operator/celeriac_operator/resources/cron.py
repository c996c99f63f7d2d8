"""Five-field cron expressions in a time zone: whether one is well formed, and when it last fired.

A field is `*`, a number, a range `a-b`, a list `a,b`, each with an optional step `/n`; months and days of the week may
be written as jan or mon; 0 and 7 are both Sunday. When both the day of the month and the day of the week are given, a
day that matches either one counts (POSIX crontab).
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

#: Days to look back for the last firing: 29 February can be eight years away (1896 to 1904).
_HORIZON_DAYS = 8 * 366


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A parsed expression: the values each field admits. Days of the week count from Sunday = 0."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool  # both day fields are restricted: one that matches is enough

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Raises ValueError with a sentence that names the field at fault."""
        fields = text.split()
        if len(fields) != 5:
            raise ValueError(f"has {len(fields)} fields, needs 5: minute hour day month weekday")
        minute, hour, day, month, weekday = fields
        return cls(
            minutes=tuple(sorted(_MINUTE.values(minute))),
            hours=tuple(sorted(_HOUR.values(hour))),
            days=frozenset(_DAY.values(day)),
            months=frozenset(_MONTH.values(month)),
            weekdays=frozenset(value % 7 for value in _WEEKDAY.values(weekday)),
            either_day=not day.startswith("*") and not weekday.startswith("*"),
        )

    def last_fired_at(self, now: float, timezone: str) -> float | None:
        """Epoch seconds of the last firing at or before `now`, or None when there was none in eight years.

        A wall-clock time that the change to summer time skips fires as much later; one that comes twice fires the
        first time.
        """
        zone = zone_of(timezone)
        today = datetime.fromtimestamp(now, zone).date()
        for back in range(_HORIZON_DAYS):
            day = today - timedelta(days=back)
            if not self._fires_on(day):
                continue
            for hour in reversed(self.hours):
                if _at(day, hour, self.minutes[0], zone) > now:
                    continue
                for minute in reversed(self.minutes):
                    if (fired_at := _at(day, hour, minute, zone)) <= now:
                        return fired_at
        return None

    def _fires_on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_day or by_weekday) if self.either_day else (by_day and by_weekday)


def _at(day: date, hour: int, minute: int, zone: tzinfo) -> float:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).timestamp()


def zone_of(name: str) -> tzinfo:
    """The time zone of that IANA name. UTC needs no data base. Raises ValueError when the name is not known here."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a name such as "Europe" is a directory
        raise ValueError(f"{name!r} is not a time zone known here; write an IANA name such as Europe/Berlin") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """What one of the five fields may hold; names stand for the values from `low` on."""

    what: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def values(self, text: str) -> set[int]:
        values: set[int] = set()
        for part in text.lower().split(","):
            span, slash, step_text = part.partition("/")
            step = self._number(step_text) if slash else 1
            if step == 0:
                raise ValueError(f"{self.what} {part!r} has a step of 0")
            if span == "*":
                first, last = self.low, self.high
            else:
                start, dash, end = span.partition("-")
                first = self._number(start)
                # "5/10" means from 5 to the end in steps of 10, as cron daemons read it.
                last = self._number(end) if dash else (self.high if slash else first)
            if first > last:
                raise ValueError(f"{self.what} {part!r} runs backwards")
            values.update(range(first, last + 1, step))
        return values

    def _number(self, text: str) -> int:
        if text in self.names:
            return self.names.index(text) + self.low
        value = int(text) if text.isdecimal() else -1
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.what} {text!r} is not in {self.low} to {self.high}")
        return value


_MINUTE = _Field(what="minute", low=0, high=59)
_HOUR = _Field(what="hour", low=0, high=23)
_DAY = _Field(what="day", low=1, high=31)
_MONTH = _Field(
    what="month",
    low=1,
    high=12,
    names=("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
)
_WEEKDAY = _Field(what="weekday", low=0, high=7, names=("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
