"""Schedules: when a periodic task runs. `schedule` (every so often), `crontab` (by the clock on the wall), `solar` (by the sun).

All rests on one pure question, `next_after(moment, zone)`: the first time after a moment, in UTC. Celery's `is_due` and
`remaining_estimate` ask it with the clock of today. Bad fields raise where the schedule is written, never in beat.

Daylight saving. A crontab that names hours runs once at each wall time it names: at the jump if the clock leaps over that time, at the
first of the two if it comes twice. With hour='*' the clock is read minute by minute, so that `*/5` has neither a pause nor a burst.
Intervals count real seconds and know no daylight saving.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured

#: What a field of a crontab may be.
Cronspec = int | str | Iterable[int]

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
#: February 29th on one day of the week comes every 28 years, and over 2100 every 40.
_SEARCH_DAYS = 41 * 366

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december")  # fmt: skip
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_LONGEST = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class ParseException(ValueError):
    """A field of a crontab that is not of its grammar."""


class schedstate(NamedTuple):  # noqa: N801 - Celery's name
    """Whether a run is due now, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """What a schedule of your own derives from; it has to say `next_after`.

    nowfun   gives the present moment instead of the clock. app: whose `timezone` holds; without one it is UTC.
    """

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self.app = app

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
        """The first run after `moment` (aware), in UTC."""
        raise NotImplementedError(
            f"{type(self).__name__} must say next_after(moment, zone): the first run after a moment"
        )

    def latest(self, last: datetime, now: datetime, zone: tzinfo) -> datetime | None:
        """The last run after `last` that is due at `now`, None when there is none. After a long pause it looks from the end."""
        first = self.next_after(last, zone)
        if first > now:
            return None
        back = _MINUTE
        while now - back > first:
            found = self.next_after(now - back, zone)
            if found <= now:
                return self._last_from(found, now, zone)
            back *= 2
        return self._last_from(first, now, zone)

    def _last_from(self, found: datetime, now: datetime, zone: tzinfo) -> datetime:
        while (following := self.next_after(found, zone)) <= now:
            found = following
        return found

    # -- as Celery's users ask

    @property
    def tz(self) -> tzinfo:
        """The zone whose clock counts: the app's."""
        zone: tzinfo = self.app.timezone if self.app is not None else UTC
        return zone

    def now(self) -> datetime:
        """The present moment."""
        return aware(self.nowfun()) if self.nowfun is not None else datetime.now(UTC)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the first run after `last_run_at`; below zero when that is over."""
        return self.next_after(aware(last_run_at), self.tz) - self.now()

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether a run is due when the last was then, and in how many seconds to ask again."""
        now = self.now()
        due_at = self.next_after(aware(last_run_at), self.tz)
        if due_at > now:
            return schedstate(False, (due_at - now).total_seconds())
        return schedstate(not self._too_late(due_at, now), (self.next_after(now, self.tz) - now).total_seconds())

    def _too_late(self, due_at: datetime, now: datetime) -> bool:
        return False


class schedule(BaseSchedule):  # noqa: N801 - Celery's name
    """Every so often: seconds or a timedelta, counted in real time from the last run.

    relative   runs are rounded down to the interval's resolution: to the local midnight for days, to the hour for hours, to the minute
               for minutes.
    """

    def __init__(
        self, run_every: float | timedelta | None = None, relative: bool = False, nowfun: Callable[[], datetime] | None = None, app: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(nowfun, app)
        self.run_every = _interval(run_every)
        self.relative = relative

    @property
    def seconds(self) -> float:
        """The interval."""
        return self.run_every.total_seconds()

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
        """See BaseSchedule; `moment` is the last run."""
        try:
            plain = moment.astimezone(UTC) + self.run_every
        except OverflowError:  # such as timedelta.max, for never
            return datetime.max.replace(tzinfo=UTC)
        if not self.relative or self.run_every < _MINUTE:
            return plain
        if self.run_every >= _DAY:
            day = (moment.astimezone(zone).replace(tzinfo=None) + self.run_every).date()
            rounded = instant(datetime.combine(day, time()), zone)
        else:
            past = plain.astimezone(zone)
            minutes = past.minute if self.run_every >= timedelta(hours=1) else 0
            rounded = plain - timedelta(minutes=minutes, seconds=past.second, microseconds=past.microsecond)
        return rounded if rounded > moment else plain

    def latest(self, last: datetime, now: datetime, zone: tzinfo) -> datetime | None:
        """See BaseSchedule; the grid of runs begins at the last one."""
        if self.relative:
            first = self.next_after(last, zone)
            return self._last_from(first, now, zone) if first <= now else None
        passed = (now - last) // self.run_every
        return last.astimezone(UTC) + passed * self.run_every if passed > 0 else None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return (self.run_every, self.relative) == (other.run_every, other.relative)
        return self.run_every == other if isinstance(other, timedelta) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __reduce__(self) -> Any:
        return type(self), (self.run_every, self.relative, self.nowfun)

    def __repr__(self) -> str:
        return f"<freq: {self.seconds:g} s{', relative' if self.relative else ''}>"


class crontab(BaseSchedule):  # noqa: N801 - Celery's name
    """By the clock on the wall, in the app's time zone: a run at each minute whose five fields all match.

    minute 0-59, hour 0-23, day_of_week 0-6 (0 or 'sun' is Sunday), day_of_month 1-31, month_of_year 1-12. Each is a number, a set or list
    of numbers, or a string: `*`, `*/15`, `8-17`, `8-17/2`, `22-3` (over midnight), `mon-fri`, `jan,jul`, several joined by commas.

    Raises ParseException, ValueError or TypeError naming the field, what was given and the range.
    """

    def __init__(
        self, minute: Cronspec | None = "*", hour: Cronspec | None = "*", day_of_week: Cronspec | None = "*", day_of_month: Cronspec | None = "*",
        month_of_year: Cronspec | None = "*", nowfun: Callable[[], datetime] | None = None, app: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(nowfun, app)
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        self._given = tuple(_keep(field) for field in given)
        self.minute = _expanded("minute", self._given[0], 60, 0)
        self.hour = _expanded("hour", self._given[1], 24, 0)
        self.day_of_week = _expanded("day_of_week", self._given[2], 7, 0)
        self.day_of_month = _expanded("day_of_month", self._given[3], 31, 1)
        self.month_of_year = _expanded("month_of_year", self._given[4], 12, 1)
        if not any(day <= _LONGEST[month] for month in self.month_of_year for day in self.day_of_month):
            raise ValueError(
                f"crontab: day_of_month {self._given[3]!r} never comes in month_of_year {self._given[4]!r}"
            )

    @classmethod
    def from_string(cls, crontab: str) -> "crontab":
        """The crontab of `minute hour day_of_month month_of_year day_of_week`, the order of crontab(5)."""
        fields = crontab.split()
        if len(fields) != 5:
            raise ParseException(
                f"crontab {crontab!r} has {len(fields)} fields; it must have five, such as '0 4 * * *'"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
        """See BaseSchedule."""
        if len(self.hour) == 24:
            return self._by_minutes(moment, zone)
        wall = moment.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)
        while True:
            wall = self._wall_after(wall)
            found = instant(wall, zone)
            if found > moment:
                return found

    def _wall_after(self, wall: datetime) -> datetime:
        """The first wall time after `wall` that matches, as if no clock were ever changed."""
        hours, minutes = sorted(self.hour), sorted(self.minute)
        today = wall.date()
        for hour in hours if self._day_matches(today) else ():
            for minute in minutes:
                if (hour, minute) > (wall.hour, wall.minute):
                    return datetime.combine(today, time(hour, minute))
        return datetime.combine(self._day_after(today), time(hours[0], minutes[0]))

    def _by_minutes(self, moment: datetime, zone: tzinfo) -> datetime:
        """Every hour will do: read the clock minute by minute, over days that match."""
        at = moment.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        while True:
            local = at.astimezone(zone)
            if not self._day_matches(local.date()):
                at = max(at + _MINUTE, instant(datetime.combine(self._day_after(local.date()), time()), zone))
            elif local.minute in self.minute:
                return at
            else:
                at += _MINUTE

    def _day_matches(self, day: date) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def _day_after(self, day: date) -> date:
        for _ in range(_SEARCH_DAYS):
            day += _DAY
            if self._day_matches(day):
                return day
        raise ValueError(f"{self!r} never comes after {day - _SEARCH_DAYS * _DAY}")

    def _too_late(self, due_at: datetime, now: datetime) -> bool:
        """Celery's beat_cron_starting_deadline: what was missed longer ago is left out."""
        deadline_s = self.app.conf.beat_cron_starting_deadline if self.app is not None else None
        if deadline_s is None:
            return False
        latest = self.latest(due_at - _MINUTE, now, self.tz)
        return latest is not None and (now - latest).total_seconds() > deadline_s

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[frozenset[int], ...]:
        return (self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year)

    def __reduce__(self) -> Any:
        return type(self), (*self._given, self.nowfun)

    def __repr__(self) -> str:
        minute, hour, day_of_week, day_of_month, month_of_year = self._given
        return f"<crontab: {minute} {hour} {day_of_month} {month_of_year} {day_of_week} (m/h/dM/MY/d)>"


class crontab_parser:  # noqa: N801 - Celery's name
    """Reads one field of a crontab: numbers from `min_`, `max_` of them. Names of days and months are numbers, too.

    digit :: 0..9; number :: digit+ | name; range :: number [- number]; expr :: (* | range) [/ number]; field :: expr [, expr]…
    """

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0, *, names: tuple[str, ...] | None = None) -> None:
        self.max_ = max_
        self.min_ = min_
        self._names = names

    def parse(self, spec: str) -> set[int]:
        """The numbers that match. Raises ParseException."""
        found: set[int] = set()
        for part in spec.split(","):
            found.update(self._part(part.strip()))
        return found

    def _part(self, part: str) -> list[int]:
        match = re.fullmatch(r"(\*|(\w+)(?:-(\w+))?)(?:/(\w*))?", part)
        if match is None:
            raise ParseException(f"{part!r} is none of *, 5, 5-10, */5 or 5-10/5" if part else "there is an empty part")
        whole, first, last, step = match.groups()
        if step is not None and (not step.isdecimal() or int(step) == 0):
            raise ParseException(f"the step of {part!r} must be a number above 0")
        if whole == "*":
            numbers = list(range(self.min_, self._top + 1))
        elif last is None:
            if step is not None:
                raise ParseException(f"{part!r} has a step but no range: did you mean {first}-{self._top}/{step}?")
            numbers = [self._number(first)]
        else:
            low, high = self._number(first), self._number(last)
            over = range(low, self._top + 1) if high < low else ()  # such as 22-3 and fri-mon
            numbers = [*over, *range(self.min_ if high < low else low, high + 1)]
        return numbers[:: int(step)] if step is not None else numbers

    @property
    def _top(self) -> int:
        return self.min_ + self.max_ - 1

    def _number(self, text: str) -> int:
        number = int(text) if text.isdecimal() else self._named(text)
        if not self.min_ <= number <= self._top:
            raise ParseException(f"{text} is outside {self.min_}-{self._top}")
        return number

    def _named(self, text: str) -> int:
        for names in (_MONTHS, _DAYS) if self._names is None else (self._names,):
            for number, name in enumerate(names, 1 if names is _MONTHS else 0):
                if len(text) >= 3 and name.startswith(text.lower()):
                    return number
        known = f", or a name such as {self._names[0][:3]}" if self._names else ""
        raise ParseException(
            f"{text!r} is not a number{known if self._names is not None else ' or the name of a day or month'}"
        )


class solar(BaseSchedule):  # noqa: N801 - Celery's name
    """By the sun: each time `event` happens at a latitude and longitude in degrees (north and east above zero).

    event   dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil, dusk_nautical, dusk_astronomical.

    Where the sun does not rise for months, the next time that it does. Needs the extra `solar`; raises ImproperlyConfigured without it.
    """

    #: event -> the sun's height in degrees and minutes, the question to ephem, whether its centre counts.
    _EVENTS = {
        "dawn_astronomical": ("-18", "next_rising", True),
        "dawn_nautical": ("-12", "next_rising", True),
        "dawn_civil": ("-6", "next_rising", True),
        "sunrise": ("-0:34", "next_rising", False),
        "solar_noon": ("0", "next_transit", False),
        "sunset": ("-0:34", "next_setting", False),
        "dusk_civil": ("-6", "next_setting", True),
        "dusk_nautical": ("-12", "next_setting", True),
        "dusk_astronomical": ("-18", "next_setting", True),
    }

    def __init__(
        self, event: str, lat: float, lon: float, nowfun: Callable[[], datetime] | None = None, app: Any = None
    ) -> None:
        super().__init__(nowfun, app)
        if event not in self._EVENTS:
            raise ValueError(f"solar: event {event!r} does not exist; choose one of {', '.join(sorted(self._EVENTS))}")
        if not -90 <= lat <= 90:
            raise ValueError(f"solar: lat {lat} is outside -90 to 90 degrees")
        if not -180 <= lon <= 180:
            raise ValueError(f"solar: lon {lon} is outside -180 to 180 degrees")
        _ephem()
        self.event = event
        self.lat = lat
        self.lon = lon

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
        """See BaseSchedule; to the second."""
        ephem = _ephem()
        height, question, centre = self._EVENTS[self.event]
        observer, sun = ephem.Observer(), ephem.Sun()
        observer.lat, observer.lon, observer.elev, observer.pressure = str(self.lat), str(self.lon), 0, 0
        observer.horizon = height
        start = ephem.Date(moment.astimezone(UTC).replace(tzinfo=None))
        for _ in range(2 * 366):
            try:
                found = getattr(observer, question)(sun, start=start, **({"use_center": True} if centre else {}))
            except ephem.CircumpolarError:  # not today: look again a day later
                start = observer.next_antitransit(sun, start=start)
                continue
            at: datetime = found.datetime().replace(tzinfo=UTC) + timedelta(milliseconds=500)
            at = at.replace(microsecond=0)
            if at > moment:
                return at
            start = ephem.Date(start + ephem.minute)  # the event that `moment` itself is, a fraction of a second later
        raise ValueError(f"{self!r} does not happen within two years of {moment}")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, solar):
            return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.event, self.lat, self.lon))

    def __reduce__(self) -> Any:
        return type(self), (self.event, self.lat, self.lon, self.nowfun)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"


def maybe_schedule(given: Any, relative: bool = False, app: Any = None) -> BaseSchedule:
    """The schedule that a number of seconds, a timedelta or a schedule means. Raises TypeError or ValueError for anything else."""
    if isinstance(given, int | float | timedelta) and not isinstance(given, bool):
        return schedule(given, relative, app=app)
    if not isinstance(given, BaseSchedule):
        raise TypeError(
            f"{given!r} is no schedule: give seconds, a timedelta, schedule(), crontab() or solar() of celeriac.schedules"
        )
    for kind in type(given).__mro__:
        own = vars(kind)
        if "next_after" in own and kind is not BaseSchedule:
            break
        if kind is BaseSchedule or "is_due" in own or "remaining_estimate" in own:
            raise TypeError(
                f"{type(given).__name__} must say next_after(moment, zone): is_due and remaining_estimate alone cannot name its runs"
            )
    if given.app is None:
        given.app = app
    return given


def instant(wall: datetime, zone: tzinfo) -> datetime:
    """The moment, in UTC, at which a clock in `zone` shows `wall` (naive).

    The first of two when it does so twice; when the clock jumps over it, the jump.
    """
    found = wall.replace(tzinfo=zone).astimezone(UTC)
    if found.astimezone(zone).replace(tzinfo=None) == wall:
        return found
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # read with the clock of after the jump: before it
    offset = before.astimezone(zone).utcoffset()
    while found - before > timedelta(seconds=1):
        middle = (before + (found - before) / 2).replace(microsecond=0)
        if middle <= before:
            break
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            found = middle
    return found


def aware(moment: datetime) -> datetime:
    """The moment with its zone; without one it is taken as UTC."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _interval(given: Any) -> timedelta:
    if isinstance(given, timedelta):
        every = given
    elif isinstance(given, int | float) and not isinstance(given, bool):
        every = timedelta(seconds=given)
    else:
        raise TypeError(f"schedule: run_every is {given!r}; give seconds or a timedelta")
    if every <= timedelta():
        raise ValueError(f"schedule: run_every is {given!r}; it must be above zero")
    return every


def _keep(field: Any) -> Any:
    """What was given for a field, safe from later changes of a list or set."""
    if field is None:
        return "*"
    return field if isinstance(field, int | str) or not isinstance(field, Iterable) else frozenset(field)


def _expanded(name: str, field: Any, count: int, lowest: int) -> frozenset[int]:
    try:
        if isinstance(field, str):
            names = {"day_of_week": _DAYS, "month_of_year": _MONTHS}.get(name, ())
            return frozenset(crontab_parser(count, lowest, names=names).parse(field))
    except ParseException as error:
        raise ParseException(f"crontab: {name}={field!r}: {error} (it takes {lowest}-{lowest + count - 1})") from None
    numbers = frozenset([field] if isinstance(field, int) else field if isinstance(field, frozenset) else ())
    if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise TypeError(
            f"crontab: {name}={field!r} must be a number, a set of numbers, or a string such as '*/5'; numbers are {lowest}-{lowest + count - 1}"
        )
    for number in numbers:
        if not lowest <= number < lowest + count:
            raise ValueError(f"crontab: {name}={field!r}: {number} is outside {lowest}-{lowest + count - 1}")
    return numbers


def _ephem() -> Any:
    try:
        import ephem
    except ImportError as error:
        raise ImproperlyConfigured("solar schedules need the extra `solar`: pip install 'celeriac[solar]'") from error
    return ephem


__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]
