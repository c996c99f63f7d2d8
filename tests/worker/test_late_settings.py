"""Settings that are made after a task was defined hold for it all the same, as in Celery; what the task says itself stands above them."""

import importlib
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, Task
from celeriac.exceptions import ImproperlyConfigured
from celeriac.task import PeriodicTask

DERIVED = [
    ("ignore_result", "task_ignore_result", True),
    ("acks_late", "task_acks_late", True),
    ("reject_on_worker_lost", "task_reject_on_worker_lost", True),
    ("retry_on_worker_lost", "task_retry_on_worker_lost", True),
    ("acks_on_failure", "task_acks_on_failure", False),
    ("acks_on_timeout", "task_acks_on_failure_or_timeout", False),
    ("track_started", "task_track_started", True),
    ("serializer", "task_serializer", "yaml"),
    ("compression", "task_compression", "gzip"),
    ("rate_limit", "task_default_rate_limit", "7/m"),
    ("rate_limit_scope", "task_rate_limit_scope", "cluster"),
    ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored", True),
    ("send_error_emails", "task_send_error_emails", True),
]


def an_app(**settings: Any) -> Celeriac:
    return Celeriac("late", broker="memory://", set_as_current=False, **settings)


def add(x: int, y: int) -> int:
    return x + y


@pytest.mark.parametrize(("attribute", "setting", "value"), DERIVED, ids=[setting for _, setting, _ in DERIVED])
@pytest.mark.parametrize("way", ["attribute", "update", "object", "module", "environment's old name"])
def test_a_setting_made_after_the_task_holds_for_it(
    attribute: str, setting: str, value: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = an_app()
    task = app.task(add)
    as_a_class = app.register_task(type("Sum", (Task,), {"run": add, "name": "sum", "abstract": True}))
    assert getattr(task, attribute) != value

    match way:
        case "attribute":
            setattr(app.conf, setting, value)
        case "update":
            app.conf.update({setting: value})
        case "object":
            app.config_from_object({setting: value})
        case "module":
            monkeypatch.setitem(sys.modules, "late_conf", types.SimpleNamespace(**{setting: value}))
            app.config_from_object("late_conf")
        case _:
            app.conf.pin({setting: value})

    assert getattr(task, attribute) == getattr(as_a_class, attribute) == value
    assert getattr(type(task), attribute) == value


@pytest.mark.parametrize(("attribute", "setting", "value"), DERIVED, ids=[setting for _, setting, _ in DERIVED])
def test_what_a_task_says_itself_stands_above_settings_of_any_time(attribute: str, setting: str, value: Any) -> None:
    own: Any = "pickle" if isinstance(value, str) and "/" not in value else False
    own = {"rate_limit": "1/h", "rate_limit_scope": "worker"}.get(attribute, own)
    app = an_app(**{setting: value})
    decorated = app.task(**{attribute: own})(add)
    base: Any = type("Base", (Task,), {attribute: own, "abstract": True})
    inherited = app.task(name="inherited", base=base)(add)
    unset: Any = {attribute: None}
    none = app.task(name="none", **unset)(add)

    app.conf[setting] = value

    assert getattr(decorated, attribute) == getattr(inherited, attribute) == own
    assert getattr(none, attribute) == value  # None: as the settings say
    setattr(none, attribute, own)
    assert getattr(none, attribute) == own


def test_a_message_is_made_by_the_settings_of_its_time() -> None:
    app = an_app(result_backend="memory://")
    task = app.task(add)
    urgent = app.task(name="urgent", mandatory=True)(add)

    app.conf.update(task_serializer="yaml", task_ignore_result=True, task_publish_retry=False)
    made = [
        app.message(each.name or "", (1, 2), {}, each, countdown=None, eta=None, expires=None, task_id=None, options={})
        for each in (task, urgent)
    ]

    assert [each.serializer for each in made] == ["yaml", "yaml"]
    assert [each.headers["ignore_result"] for each in made] == [True, True]
    assert [each.terms is not None and each.terms.patience.retries for each in made] == [0, 0]
    assert [each.terms is not None and each.terms.mandatory for each in made] == [False, True]


def test_annotations_made_later_hold_and_replace_those_before() -> None:
    app = an_app(task_annotations={"late.add": {"rate_limit": "1/s", "priority": 3, "time_limit": 9}})
    task = app.task(name="late.add", time_limit=5)(add)
    other = app.task(name="late.other")(add)
    assert (task.rate_limit, task.priority, task.time_limit) == ("1/s", 3, 9)

    app.conf.task_annotations = {"late.add": {"rate_limit": "2/s"}, "*": {"on_failure": lambda self, *_: None}}
    assert app.tasks["late.add"] is task
    assert (task.rate_limit, task.priority, task.time_limit) == ("2/s", None, 5)
    assert "on_failure" in task._hooked
    assert "on_failure" in other._hooked

    app.conf.task_annotations = None
    assert app.tasks
    assert (task.rate_limit, task.time_limit, task._hooked) == (None, 5, frozenset())


def test_annotations_that_cannot_be_are_told_when_tasks_are_looked_at_and_again() -> None:
    app = an_app()
    app.task(name="late.add")(add)
    app.conf.task_annotations = {"late.add": {"rate_limit": "10/fortnight"}}

    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=r"task late\.add: rate limit '10/fortnight'"):
            app.conf.task_routes  # noqa: B018


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("task_default_rate_limit", "10/fortnight", "rate limit '10/fortnight'"),
        ("task_error_whitelist", [7], "7 is neither a class of exceptions"),
    ],
)
def test_a_wrong_default_is_told_before_the_first_message(setting: str, value: Any, message: str) -> None:
    app = an_app()
    task = app.task(add)
    app.conf[setting] = value

    with pytest.raises(ImproperlyConfigured, match=message):
        task.delay(1, 2)


def test_settings_named_by_a_path_may_import_the_tasks_they_speak_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_shop.py").write_text(
        "from celeriac import Celery\n"
        "app = Celery('late_shop', broker='memory://', set_as_current=False)\n"
        "app.config_from_object('late_shop_conf')\n"
        "@app.task\n"
        "def pay(): ...\n"
        "@app.task\n"
        "def ship(): ...\n"
    )
    (tmp_path / "late_shop_conf.py").write_text(
        "from late_shop import pay, ship\n"
        "task_acks_late = True\n"
        "task_annotations = {ship.name: {'max_retries': 9}}\n"
        "task_routes = {pay.name: 'money'}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    import late_shop  # type: ignore[import-not-found]

    assert "late_shop_conf" not in sys.modules
    assert late_shop.pay.acks_late is True
    assert late_shop.ship.max_retries == 9


@pytest.mark.parametrize("way", ["attribute", "object", "module"])
def test_a_schedule_that_is_set_later_takes_no_entry_away_that_code_has_added(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = an_app()
    task = app.task(name="add")(add)
    app.add_periodic_task(10, task.s(1, 2), name="added")
    app.add_periodic_task(10, task.s(1, 2), name="both")
    app.task(name="by class", base=PeriodicTask, run_every=5)(lambda: None)
    later = {
        "later": {"task": "add", "schedule": 3.0, "args": (1, 2)},
        "both": {"task": "add", "schedule": 7.0, "args": (3, 4)},
    }

    match way:
        case "attribute":
            app.conf.beat_schedule = later
        case "object":
            app.config_from_object({"beat_schedule": later})
        case _:
            monkeypatch.setitem(sys.modules, "late_schedule", types.SimpleNamespace(beat_schedule=later))
            app.config_from_object("late_schedule")

    assert sorted(app.conf.beat_schedule) == ["added", "both", "by class", "later"]
    assert app.conf.beat_schedule["both"]["schedule"] == 7.0
    del app.conf.beat_schedule["added"]
    assert sorted(app.conf.beat_schedule) == ["both", "by class", "later"]


def test_a_periodic_task_reads_no_settings_as_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app()
    app.config_from_object("no_such_settings_yet")
    app.task(name="by class", base=PeriodicTask, run_every=5)(lambda: None)
    monkeypatch.setitem(sys.modules, "no_such_settings_yet", types.SimpleNamespace(task_acks_late=True))

    assert app.conf.task_acks_late is True
    assert list(app.conf.beat_schedule) == ["by class"]


def test_threads_that_ask_first_at_once_all_see_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(types.ModuleType):
        def __dir__(self) -> list[str]:
            time.sleep(0.05)
            return ["task_default_queue"]

    module = Slow("late_slow")
    module.task_default_queue = "slow"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "late_slow", module)
    app = an_app()
    app.config_from_object("late_slow")
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(app.conf.task_default_queue)) for _ in range(5)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == ["slow"] * 5


def test_a_thread_that_defines_tasks_while_another_reads_settings_that_import_them_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held_app.py").write_text(
        "from celeriac import Celery\n"
        "app = Celery('held', broker='memory://', set_as_current=False)\n"
        "app.config_from_object('held_conf')\n"
    )
    (tmp_path / "held_conf.py").write_text(
        "import held_sync\nheld_sync.reads.set()\nimport held_tasks\ntask_acks_late = True\n"
    )
    (tmp_path / "held_sync.py").write_text("import threading\nreads = threading.Event()\nimports = threading.Event()\n")
    (tmp_path / "held_tasks.py").write_text(
        "from held_app import app\nimport held_sync\nheld_sync.imports.set()\nassert held_sync.reads.wait(10)\n"
        "import time; time.sleep(0.1)\n@app.task\ndef pay(): ...\n"
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    import held_app  # type: ignore[import-not-found]
    import held_sync  # type: ignore[import-not-found]

    importing = threading.Thread(target=lambda: importlib.import_module("held_tasks"), daemon=True)
    seen: list[Any] = []
    reading = threading.Thread(target=lambda: seen.append(held_app.app.conf.task_acks_late), daemon=True)
    importing.start()
    assert held_sync.imports.wait(10)
    reading.start()
    reading.join(10)
    importing.join(10)

    assert seen == [True]
    assert held_app.app.tasks["held_tasks.pay"].acks_late is True
