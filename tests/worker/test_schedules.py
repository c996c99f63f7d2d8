"""Schedules: Celery's grammar of crontabs, the clock on the wall over changes of daylight saving, the sun, and bad fields."""

import pickle
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    crontab_parser,
    instant,
    maybe_schedule,
    schedule,
    solar,
)

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
APIA = ZoneInfo("Pacific/Apia")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def runs(of: BaseSchedule, start: str, end: str, zone: tzinfo = UTC) -> list[str]:
    """All runs after `start` up to `end`, both UTC, as UTC texts without the year."""
    found, at, last = [], utc(start), utc(end)
    while (at := of.next_after(at, zone)) <= last:
        found.append(at.strftime("%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("spec", "count", "lowest", "numbers"),
    [
        pytest.param("*", 7, 0, {0, 1, 2, 3, 4, 5, 6}, id="star"),
        pytest.param("*/15", 60, 0, {0, 15, 30, 45}, id="step"),
        pytest.param("*/3", 31, 1, {1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31}, id="step from one"),
        pytest.param("2-12/2", 12, 1, {2, 4, 6, 8, 10, 12}, id="range with step"),
        pytest.param("1,13,30-45,50-59/2", 60, 0, {1, 13, *range(30, 46), 50, 52, 54, 56, 58}, id="all joined"),
        pytest.param("22-3", 24, 0, {22, 23, 0, 1, 2, 3}, id="over midnight"),
        pytest.param("22-3/2", 24, 0, {22, 0, 2}, id="over midnight with step"),
        pytest.param("11-2", 12, 1, {11, 12, 1, 2}, id="over new year"),
        pytest.param("mon-fri", 7, 0, {1, 2, 3, 4, 5}, id="days"),
        pytest.param("friday-Monday", 7, 0, {5, 6, 0, 1}, id="days over the week's end"),
        pytest.param("jan,july", 12, 1, {1, 7}, id="months"),
        pytest.param("8, 17", 24, 0, {8, 17}, id="blanks"),
    ],
)
def test_a_field_is_read_as_celery_reads_it(spec: str, count: int, lowest: int, numbers: set[int]) -> None:
    assert crontab_parser(count, lowest).parse(spec) == numbers


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"minute": "60"}, ParseException, r"minute='60': 60 is outside 0-59"),
        ({"minute": 60}, ValueError, r"minute=60: 60 is outside 0-59"),
        ({"hour": {1, 24}}, ValueError, r"hour=.*24 is outside 0-23"),
        ({"hour": "-1"}, ParseException, r"hour='-1'"),
        ({"hour": -1}, ValueError, r"hour=-1: -1 is outside 0-23"),
        ({"day_of_week": 7}, ValueError, r"day_of_week=7: 7 is outside 0-6"),
        ({"day_of_month": 0}, ValueError, r"day_of_month=0: 0 is outside 1-31"),
        ({"month_of_year": "13"}, ParseException, r"month_of_year='13': 13 is outside 1-12"),
        ({"minute": "*/0"}, ParseException, r"minute.*step of '\*/0' must be a number above 0"),
        ({"minute": "*/"}, ParseException, r"step of '\*/'"),
        ({"minute": "1-5/"}, ParseException, r"step of '1-5/'"),
        ({"minute": "5/10"}, ParseException, r"did you mean 5-59/10\?"),
        ({"minute": "1,,2"}, ParseException, "empty part"),
        ({"minute": ""}, ParseException, "empty part"),
        ({"minute": "mon"}, ParseException, r"minute='mon': 'mon' is not a number"),
        ({"day_of_week": "mun"}, ParseException, r"day_of_week='mun'.*a name such as sun.*0-6"),
        ({"day_of_week": "mar"}, ParseException, r"'mar' is not a number"),
        ({"month_of_year": "mon"}, ParseException, r"month_of_year='mon'"),
        ({"minute": 1.5}, TypeError, r"minute=1.5 must be a number"),
        ({"minute": ["1"]}, TypeError, r"minute=.*must be a number, a set of numbers"),
        ({"minute": []}, TypeError, r"minute=.*must be a number"),
        ({"minute": True}, TypeError, r"minute=True"),
        ({"day_of_month": 31, "month_of_year": "4,6,9,11"}, ValueError, "day_of_month 31 never comes in month_of_year"),
        ({"day_of_month": "30-31", "month_of_year": 2}, ValueError, "never comes"),
    ],
    ids=str,
)
def test_a_bad_field_raises_where_it_is_written(fields: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        crontab(**fields)


def test_a_crontab_is_read_from_a_line() -> None:
    assert crontab.from_string("0 4 1 * mon") == crontab(minute=0, hour=4, day_of_month=1, day_of_week="mon")
    with pytest.raises(ParseException, match="has 4 fields"):
        crontab.from_string("0 4 1 *")


@pytest.mark.parametrize(
    ("of", "zone", "start", "end", "expected"),
    [
        pytest.param(crontab(minute=30, hour=2), BERLIN, "2026-03-28 00:00", "2026-03-30 12:00",
                     ["03-28 01:30", "03-29 01:00", "03-30 00:30"], id="Berlin, 02:30 does not exist: at the jump"),
        pytest.param(crontab(minute="*/15", hour=2), BERLIN, "2026-03-29 00:00", "2026-03-29 12:00",
                     ["03-29 01:00"], id="Berlin, an hour that does not exist: once"),
        pytest.param(crontab(minute=0, hour="2,3"), BERLIN, "2026-03-29 00:00", "2026-03-29 12:00",
                     ["03-29 01:00"], id="Berlin, 02:00 and 03:00 are the same moment: once"),
        pytest.param(crontab(minute=30, hour=2), BERLIN, "2026-10-24 12:00", "2026-10-26 12:00",
                     ["10-25 00:30", "10-26 01:30"], id="Berlin, 02:30 comes twice: at the first"),
        pytest.param(crontab(minute=30), BERLIN, "2026-10-24 23:00", "2026-10-25 03:00",
                     ["10-24 23:30", "10-25 00:30", "10-25 01:30", "10-25 02:30"], id="Berlin, every hour: no pause when it comes twice"),
        pytest.param(crontab(minute=30), BERLIN, "2026-03-29 00:00", "2026-03-29 03:00",
                     ["03-29 00:30", "03-29 01:30", "03-29 02:30"], id="Berlin, every hour: no burst at the jump"),
        pytest.param(crontab(minute=15, hour=2), NEW_YORK, "2026-03-07 12:00", "2026-03-09 12:00",
                     ["03-08 07:00", "03-09 06:15"], id="New York, 02:15 does not exist"),
        pytest.param(crontab(minute=15, hour=1), NEW_YORK, "2026-10-31 12:00", "2026-11-02 12:00",
                     ["11-01 05:15", "11-02 06:15"], id="New York, 01:15 comes twice"),
        pytest.param(crontab(minute=15, hour=2), LORD_HOWE, "2026-10-02 18:00", "2026-10-04 18:00",
                     ["10-03 15:30", "10-04 15:15"], id="Lord Howe, half an hour is left out"),
        pytest.param(crontab(minute=45, hour=1), LORD_HOWE, "2026-04-03 18:00", "2026-04-05 18:00",
                     ["04-04 14:45", "04-05 15:15"], id="Lord Howe, half an hour comes twice: at the first"),
        pytest.param(crontab(minute=45), LORD_HOWE, "2026-04-04 14:00", "2026-04-04 16:00",
                     ["04-04 14:45", "04-04 15:15"], id="Lord Howe, every hour: 01:45 both times"),
        pytest.param(crontab(minute=0, hour=12), APIA, "2011-12-29 10:00", "2011-12-31 12:00",
                     ["12-29 22:00", "12-30 10:00", "12-30 22:00"], id="Apia, a whole day does not exist: at the jump"),
        pytest.param(crontab(0, 0, day_of_month=29, month_of_year=2), UTC, "2026-01-01 00:00", "2033-01-01 00:00",
                     ["02-29 00:00", "02-29 00:00"], id="a leap day"),
        pytest.param(crontab(0, 9, day_of_week="mon", day_of_month="1-7"), UTC, "2026-01-01 00:00", "2026-04-01 00:00",
                     ["01-05 09:00", "02-02 09:00", "03-02 09:00"], id="the first Monday of a month: both must match"),
        pytest.param(crontab(59, 23, month_of_year=12, day_of_month=31), UTC, "2026-06-01 00:00", "2027-12-31 23:58",
                     ["12-31 23:59"], id="once a year"),
        pytest.param(schedule(timedelta(hours=12)), BERLIN, "2026-03-28 12:00", "2026-03-29 12:00",
                     ["03-29 00:00", "03-29 12:00"], id="an interval knows no daylight saving"),
        pytest.param(schedule(timedelta(days=1), relative=True), BERLIN, "2026-03-28 12:00", "2026-03-31 12:00",
                     ["03-28 23:00", "03-29 22:00", "03-30 22:00"], id="relative days begin at the local midnight"),
        pytest.param(schedule(timedelta(hours=2), relative=True), BERLIN, "2026-06-01 10:25", "2026-06-01 17:00",
                     ["06-01 12:00", "06-01 14:00", "06-01 16:00"], id="relative hours begin at the hour"),
        pytest.param(schedule(90, relative=True), UTC, "2026-06-01 10:00", "2026-06-01 10:05",
                     ["06-01 10:01", "06-01 10:02", "06-01 10:03", "06-01 10:04", "06-01 10:05"], id="relative minutes are rounded down"),
    ],
)  # fmt: skip
def test_when_it_runs(of: BaseSchedule, zone: tzinfo, start: str, end: str, expected: list[str]) -> None:
    assert runs(of, start, end, zone) == expected


WALLS = st.datetimes(datetime.fromisoformat("2005-01-01"), datetime.fromisoformat("2035-01-01"))
MOMENTS = WALLS.map(lambda at: at.replace(tzinfo=UTC))
#: Moments within some hours of a change of daylight saving.
CHANGES = st.sampled_from(
    ["2026-03-29 01:00", "2026-10-25 01:00", "2026-03-08 07:00", "2026-11-01 06:00", "2026-10-03 15:30", "2026-04-04 15:00"]
)  # fmt: skip
NEAR = st.builds(lambda text, s: utc(text) + timedelta(seconds=s), CHANGES, st.integers(-10_000, 10_000))
ZONES = st.sampled_from([UTC, BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("Asia/Kathmandu")])
CRONTABS = st.builds(
    crontab,
    minute=st.sets(st.integers(0, 59), min_size=1, max_size=6) | st.sampled_from(["*", "*/7", "50-5"]),
    hour=st.sets(st.integers(0, 23), min_size=1, max_size=6) | st.sampled_from(["*", "*/2", "1-3", "22-3"]),
    day_of_week=st.sampled_from(["*", "*", "mon-fri", "sun", "sat-sun"]),
)


@settings(max_examples=150, deadline=None)
@given(of=CRONTABS, at=MOMENTS | NEAR, zone=ZONES)
def test_a_crontab_runs_when_a_look_at_the_clock_each_minute_says(of: crontab, at: datetime, zone: tzinfo) -> None:
    found = of.next_after(at, zone)

    assert found == _by_brute_force(of, at, zone)


def _by_brute_force(of: crontab, at: datetime, zone: tzinfo) -> datetime:
    """Each minute in turn: does the clock show a matching time, shown now for the first time, or has it just leapt over one?"""
    every_hour = len(of.hour) == 24
    minute = timedelta(minutes=1)
    now = at.replace(second=0, microsecond=0) + minute
    while True:
        shown = now.astimezone(zone)
        before = (now - minute).astimezone(zone)
        wall, earlier = shown.replace(tzinfo=None, fold=0), before.replace(tzinfo=None, fold=0)
        leapt = [] if every_hour else [earlier + n * minute for n in range(1, int((wall - earlier) / minute))]
        first = every_hour or shown.fold == 0
        if any(_matches(of, time) for time in leapt) or (first and _matches(of, wall)):
            return now
        now += minute


def _matches(of: crontab, wall: datetime) -> bool:
    return wall.minute in of.minute and wall.hour in of.hour and wall.isoweekday() % 7 in of.day_of_week


@settings(max_examples=150, deadline=None)
@given(of=CRONTABS, start=NEAR, pause=st.timedeltas(timedelta(0), timedelta(days=3)), zone=ZONES)
def test_the_latest_run_is_the_last_of_all(of: crontab, start: datetime, pause: timedelta, zone: tzinfo) -> None:
    now, last = start + pause, None
    at = start
    while (at := of.next_after(at, zone)) <= now:
        last = at

    assert of.latest(start, now, zone) == last


@pytest.mark.parametrize(
    ("of", "last", "now", "expected"),
    [
        (schedule(10), "2026-01-01 00:00:00", "2026-01-01 00:00:09", None),
        (schedule(10), "2026-01-01 00:00:00", "2026-01-01 00:00:10", "2026-01-01 00:00:10"),
        (schedule(10), "2026-01-01 00:00:00", "2026-01-03 00:00:25", "2026-01-03 00:00:20"),
        (schedule(3600, relative=True), "2026-01-01 00:10:00", "2026-01-01 05:30:00", "2026-01-01 05:00:00"),
        (crontab(0, 4), "2020-01-01 04:00:00", "2026-01-01 00:00:25", "2025-12-31 04:00:00"),
        (crontab(), "1990-01-01 04:00:00", "2026-01-01 00:00:25", "2026-01-01 00:00:00"),
    ],
)
def test_after_a_pause_the_last_run_missed_is_found(of: BaseSchedule, last: str, now: str, expected: str) -> None:
    assert of.latest(utc(last), utc(now), UTC) == (utc(expected) if expected else None)


@settings(max_examples=200, deadline=None)
@given(wall=WALLS, zone=ZONES)
def test_a_wall_time_and_its_moment_agree(wall: datetime, zone: tzinfo) -> None:
    wall = wall.replace(microsecond=0)
    shown = instant(wall, zone).astimezone(zone).replace(tzinfo=None)

    assert shown >= wall
    assert shown - wall <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("event", "date_of", "about"),
    [
        ("sunrise", "2026-06-21", "04:43"),
        ("sunset", "2026-06-21", "21:33"),
        ("solar_noon", "2026-06-21", "13:08"),
        ("dawn_civil", "2026-03-20", "05:37"),
        ("dusk_civil", "2026-03-20", "18:50"),
        ("dawn_nautical", "2026-03-20", "04:57"),
        ("dusk_astronomical", "2026-03-20", "20:13"),
    ],
)
def test_the_sun_over_berlin(event: str, date_of: str, about: str) -> None:
    """Times as almanacs print them, to some minutes."""
    at = datetime.combine(date.fromisoformat(date_of), datetime.min.time(), BERLIN)

    found = solar(event, 52.52, 13.405).next_after(at, BERLIN).astimezone(BERLIN)

    expected = datetime.fromisoformat(f"{date_of} {about}").replace(tzinfo=BERLIN)
    assert abs(found - expected) < timedelta(minutes=4)


def test_the_sun_rises_once_a_day_and_after_the_polar_night() -> None:
    berlin, tromso = solar("sunrise", 52.52, 13.405), solar("sunrise", 69.65, 18.96)

    days = [at[:5] for at in runs(berlin, "2026-05-01 00:00", "2026-05-10 23:00")]
    after = tromso.next_after(utc("2026-12-01 00:00"), UTC)

    assert days == [f"05-{day:02}" for day in range(1, 11)]
    assert (after.year, after.month) == (2027, 1)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("noon", 0, 0), "event 'noon' does not exist; choose one of dawn_astronomical"),
        (("sunset", 91, 0), "lat 91 is outside -90 to 90"),
        (("sunset", 0, 181), "lon 181 is outside -180 to 180"),
    ],
)
def test_a_bad_place_or_event_raises(args: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        solar(*args)


def test_celerys_questions_are_answered() -> None:
    now = utc("2026-06-01 10:00:30")
    every, daily = schedule(60, nowfun=lambda: now), crontab(0, 4, nowfun=lambda: now)

    assert every.remaining_estimate(now - timedelta(seconds=20)) == timedelta(seconds=40)
    assert every.is_due(now - timedelta(seconds=20)) == (False, 40.0)
    assert every.is_due(now - timedelta(seconds=60)) == (True, 60.0)
    assert daily.is_due(utc("2026-05-31 04:00:00")) == (True, 17.0 * 3600 + 3570)
    assert daily.is_due(utc("2026-06-01 04:00:00").replace(tzinfo=None)) == (False, 17.0 * 3600 + 3570)


@pytest.mark.parametrize(
    ("given_", "kind", "says"),
    [
        ("10", TypeError, "'10' is no schedule: give seconds"),
        (None, TypeError, "None is no schedule"),
        (True, TypeError, "True is no schedule"),
        (0, ValueError, "must be above zero"),
        (timedelta(seconds=-1), ValueError, "must be above zero"),
        (type("Mine", (BaseSchedule,), {})(), TypeError, r"Mine must say next_after\(moment, zone\)"),
        (type("Late", (schedule,), {"is_due": lambda *_: (True, 1)})(5), TypeError, r"Late must say next_after"),
    ],
    ids=["text", "none", "a truth", "zero", "less than zero", "without a next time", "only is_due"],
)
def test_what_is_no_schedule_raises(given_: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        maybe_schedule(given_)


def test_a_schedule_of_ones_own_says_when_it_runs_next() -> None:
    class Hourly(BaseSchedule):
        def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
            return moment.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)

    plan = maybe_schedule(Hourly(nowfun=lambda: utc("2026-06-01 10:15")))

    assert plan.is_due(utc("2026-06-01 08:00")) == (True, 2700.0)
    assert plan.latest(utc("2026-06-01 08:00"), utc("2026-06-03 10:15"), UTC) == utc("2026-06-03 10:00")


@pytest.mark.parametrize("of", [schedule(5), crontab({1, 5}, "*/2"), solar("sunset", 1.5, 2)], ids=repr)
def test_a_schedule_equals_its_copy(of: BaseSchedule) -> None:
    copy = pickle.loads(pickle.dumps(of))

    assert copy == of
    assert hash(copy) == hash(of)
    assert copy != crontab(3, 3)


@pytest.mark.parametrize("relative", [False, True])
def test_an_interval_beyond_the_calendar_never_ends(relative: bool) -> None:
    """Some write it for `never`."""
    never = schedule(timedelta.max, relative)
    at = datetime(2026, 11, 22, tzinfo=UTC)

    assert never.next_after(at, UTC).year == 9999
    assert never.latest(at, at + timedelta(days=1), UTC) is None
