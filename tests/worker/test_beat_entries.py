"""Entries of the schedule: the ways to write them, and what is wrong with one is said where it is written or at beat's start."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import Celeriac, compat
from celeriac.app.periodic import PeriodicTask
from celeriac.beat import BeatLazyFunc
from celeriac.beat.entries import entries_of
from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules import crontab, schedule
from celeriac.task import periodic_task


@pytest.fixture
def app() -> Celeriac:
    app = Celeriac("shop", broker="memory://")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return app


@pytest.mark.parametrize(
    ("given", "plan"),
    [(30, schedule(30)), (timedelta(minutes=1), schedule(60)), (crontab(0, 4), crontab(0, 4)), (1.5, schedule(1.5))],
    ids=str,
)
def test_an_entry_of_the_setting(app: Celeriac, given: Any, plan: Any) -> None:
    app.conf.beat_schedule = {
        "sum": {
            "task": "add",
            "schedule": given,
            "args": [1],
            "kwargs": {"y": 2},
            "options": {"queue": "x", "expires": 10},
        }
    }

    [entry] = entries_of(app).values()

    assert (entry.name, entry.task, entry.schedule) == ("sum", "add", plan)
    assert (entry.args, entry.kwargs, entry.options) == ((1,), {"y": 2}, {"queue": "x", "expires": 10})
    assert entry.catch_up == "latest"


def test_the_guides_name_of_the_setting_means_the_same(app: Celeriac) -> None:
    app.conf.CELERYBEAT_SCHEDULE = {"sum": {"task": "add", "schedule": 5, "args": (1, 2), "relative": True}}

    assert entries_of(app)["sum"].schedule == schedule(5, relative=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"schedule": 1}, "task is None; give the name of a task"),
        ({"task": "add"}, "schedule: None is no schedule: give seconds"),
        ({"task": "add", "schedule": 0}, "schedule: schedule: run_every is 0; it must be above zero"),
        ({"task": "add", "schedule": "* * * * *"}, "is no schedule"),
        ({"task": "add", "schedule": 1, "args": "ab"}, "args is 'ab'; give a list or tuple"),
        ({"task": "add", "schedule": 1, "kwargs": [1]}, r"kwargs is \[1\]; give a dict"),
        ({"task": "add", "schedule": 1, "arguments": [1]}, r"unknown key\(s\) arguments; it takes args, catch_up"),
        ({"task": "add", "schedule": 1, "args": (1,)}, r"add\(x.*missing a required argument: 'y'"),
        ({"task": "add", "schedule": 1, "args": (1, 2), "options": {"quue": "x"}}, "quue"),
        ({"task": "add", "schedule": 1, "args": (1, 2), "options": {"task_id": "x"}}, "must not set task_id"),
        ({"task": "add", "schedule": 1, "args": (1, 2), "catch_up": "most"}, "catch_up is 'most'; choose one of latest, all, skip"),
        ({"task": "add", "schedule": float("inf")}, "schedule: cannot convert float infinity"),
        ({"task": "add", "schedule": 1, "args": (1, 2j)}, "Object of type complex is not JSON serializable"),
        ({"task": "elsewhere", "schedule": 1, "kwargs": {"x": 2j}}, "Object of type complex is not JSON serializable"),
        ("add", "'add' must be a dict"),
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_cannot_work_is_named_at_start(app: Celeriac, given: Any, says: str) -> None:
    app.conf.beat_schedule = {"sum": given}

    with pytest.raises(ImproperlyConfigured, match=f"beat_schedule, entry 'sum': .*{says}"):
        entries_of(app)


def test_a_periodic_task_is_added_when_the_app_is_configured(app: Celeriac) -> None:
    told = []

    @app.on_after_configure.connect
    def setup(sender: Celeriac, **named: Any) -> None:
        told.append((sender, named["source"]))
        sender.add_periodic_task(10.0, sender.tasks["add"], (1, 2), name="sum", expires=5)
        sender.add_periodic_task(crontab(0, 7, day_of_week=1), sender.tasks["add"], (3, 4), catch_up="all")

    app.import_tasks()
    app.import_tasks()

    found = entries_of(app)
    assert told == [(app, app.conf)]
    assert set(found) == {"sum", "add(3, 4)"}
    assert found["sum"].options == {"expires": 5}
    assert found["add(3, 4)"].catch_up == "all"


def test_a_signature_brings_its_arguments_and_options(app: Celeriac) -> None:
    signature = {
        "task": "add",
        "args": (2,),
        "kwargs": {},
        "options": {"queue": "x", "priority": 3},
        "immutable": False,
    }

    key = app.add_periodic_task(30, signature, (1,), priority=5)

    entry = entries_of(app)[key]
    assert (key, entry.args, entry.options) == ("add(1, 2)", (1, 2), {"queue": "x", "priority": 5})


def test_what_a_receiver_raises_is_raised(app: Celeriac) -> None:
    @app.on_after_finalize.connect
    def setup(sender: Celeriac, **_: Any) -> None:
        sender.add_periodic_task(10, sender.tasks["add"], (1,))

    with pytest.raises(TypeError, match=r"add\(x.*missing a required argument: 'y'"):
        app.import_tasks()


@pytest.mark.parametrize(
    ("plan", "sig", "kind", "says"),
    [
        (0, "task", ValueError, r"add_periodic_task\(0, .*must be above zero"),
        ("1", "task", TypeError, "'1' is no schedule"),
        (1, None, TypeError, "give a task or a signature, such as add.s"),
        (1, {"args": ()}, TypeError, "give a task or a signature"),
    ],
    ids=str,
)
def test_a_bad_periodic_task_raises_where_it_is_added(app: Celeriac, plan: Any, sig: Any, kind: type[Exception], says: str) -> None:  # fmt: skip
    with pytest.raises(kind, match=says):
        app.add_periodic_task(plan, app.tasks["add"] if sig == "task" else sig, (1, 2))


def test_the_same_call_twice_without_a_name_is_said(app: Celeriac, caplog: pytest.LogCaptureFixture) -> None:
    app.add_periodic_task(1, app.tasks["add"], (1, 2))
    app.add_periodic_task(2, app.tasks["add"], (1, 2))

    assert "periodic task add(1, 2) was added before without a name" in caplog.text
    assert [entry.schedule for entry in entries_of(app).values()] == [schedule(2)]


def test_the_guides_periodic_tasks(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_shared", [])  # the apps of other tests shall not have them

    @periodic_task(run_every=timedelta(seconds=30), name="look")
    def look() -> str:
        return "seen"

    class Sweep(PeriodicTask):
        name = "sweep"
        run_every = crontab(minute="*/5")
        options = {"queue": "slow"}

        def run(self) -> str:
            return "swept"

    app.finalize()

    found = entries_of(app)
    assert (found["look"].schedule, found["sweep"].schedule) == (schedule(30), crontab(minute="*/5"))
    assert found["sweep"].options == {"queue": "slow"}
    assert look() == "seen"
    assert app.tasks["sweep"].ignore_result
    assert "(periodic)" in repr(app.tasks["sweep"])


def test_a_periodic_task_without_a_schedule_is_refused(app: Celeriac) -> None:
    class Never(PeriodicTask):
        name = "never"

        def run(self) -> None:
            return None

    with pytest.raises(ImproperlyConfigured, match="periodic task never has no run_every"):
        app.finalize()
    with pytest.raises(TypeError, match=r"give @periodic_task\(run_every=…\)"):
        periodic_task(lambda: None)
    Never.run_every = 5  # so that the app of the next test may adopt it
    app.finalize()


@pytest.mark.parametrize(
    ("url", "expires", "there"),
    [
        ("db+sqlite:///results.db", 3600, True),
        ("db+sqlite:///results.db", None, False),
        ("redis://localhost", 3600, False),
        (None, 3600, False),
    ],
)
def test_results_are_swept_daily_where_the_store_keeps_what_has_expired(url: str | None, expires: Any, there: bool) -> None:  # fmt: skip
    app = Celeriac("shop", broker="memory://", backend=url, result_expires=expires)

    found = entries_of(app)

    assert list(found) == (["celery.backend_cleanup"] if there else [])
    if there:
        assert found["celery.backend_cleanup"].schedule == crontab(0, 4)


def test_a_lazy_argument_is_worked_out_when_it_is_sent() -> None:
    numbers = iter([1, 2])
    lazy = BeatLazyFunc(lambda: next(numbers))

    assert (lazy(), lazy()) == (1, 2)


def test_whose_clock_counts() -> None:
    assert Celeriac(broker="memory://").timezone is UTC
    assert Celeriac(broker="memory://", timezone="UTC").timezone is UTC
    assert Celeriac(broker="memory://", timezone="Europe/Berlin").timezone == ZoneInfo("Europe/Berlin")
    here = Celeriac(broker="memory://", enable_utc=False).timezone
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert at.astimezone(here).utcoffset() == at.astimezone().utcoffset()
    with pytest.raises(ImproperlyConfigured, match="timezone='Europe/Berlnn' is not known here"):
        Celeriac(broker="memory://", timezone="Europe/Berlnn").timezone  # noqa: B018


def test_the_example_of_the_page_runs_as_it_is_written() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "beat.md").read_text()
    names: dict[str, Any] = {"__name__": "shop"}

    exec(page.split("```python\n")[1].split("```")[0], names)  # the page's own code
    names["app"].import_tasks()

    assert set(entries_of(names["app"])) == {"sweep at night", "sweep a little", "sweep a bit"}
