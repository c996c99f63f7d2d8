"""The app: settings, registry, the current one, and calls by name."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from celeriac import AsyncResult, Celeriac, Celery, current_app, current_task, shared_task, signals
from celeriac.exceptions import EncodeError, ImproperlyConfigured, NotRegistered
from celeriac.wire.message import TaskMessage


class Outbox(list[TaskMessage]):
    """A producer that keeps what was published."""

    publish = list.append

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def app() -> Celeriac:
    app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app._producer = Outbox()  # type: ignore[assignment]
    return app


def sent(app: Celeriac) -> Outbox:
    return app._producer  # type: ignore[return-value]


# -- settings


def test_settings_come_from_a_module_by_its_name(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shop_settings")
    module.CELERY_TASK_SERIALIZER = "yaml"  # type: ignore[attr-defined]
    module.BROKER_URL = "redis://other"  # type: ignore[attr-defined]
    module.inner = {"task_default_queue": "inner"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_settings", module)

    app.config_from_object("shop_settings")
    app.config_from_object("shop_settings:inner")

    assert (app.conf.task_serializer, app.conf.task_default_queue) == ("yaml", "inner")
    assert app.conf.broker_url == "memory://"


def test_settings_with_a_namespace_are_djangos(app: Celeriac) -> None:
    django = types.SimpleNamespace(
        CELERY_TASK_DEFAULT_QUEUE="django", CELERY_TASK_ACKS_LATE=True, DATABASES={}, TASK_SERIALIZER="yaml"
    )

    app.config_from_object(django, namespace="CELERY")

    assert (app.conf.task_default_queue, app.conf.task_acks_late, app.conf.task_serializer) == ("django", True, "json")
    assert app.conf.unknown() == []


@pytest.mark.parametrize("source", ["no.such.module", "json:no_such_name"])
def test_settings_that_cannot_be_read_are_named(app: Celeriac, source: str) -> None:
    app.config_from_object(source, silent=True)
    assert app.conf.task_serializer == "json"
    app.config_from_object(source)
    for _ in range(2):  # whoever asks is told
        with pytest.raises(ImproperlyConfigured, match="cannot read settings from"):
            _ = app.conf
    with pytest.raises(ImproperlyConfigured, match="cannot read settings from"):
        Celeriac("shop", set_as_current=False).config_from_object(source, force=True)


def test_a_settings_module_may_import_the_app_that_it_configures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ring_app.py").write_text(
        "from celeriac import Celeriac\napp = Celeriac('ring', set_as_current=False)\napp.config_from_object('ring_settings')\n"
    )
    (tmp_path / "ring_settings.py").write_text("from ring_app import app\ntask_default_queue = app.main\n")
    monkeypatch.syspath_prepend(tmp_path)

    import ring_app  # type: ignore[import-not-found]

    assert "ring_settings" not in sys.modules
    assert ring_app.app.conf.task_default_queue == "ring"


def test_a_class_may_hold_settings_and_be_named_by_its_path(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shop_settings")
    module.Shop = type("Shop", (), {"task_default_queue": "of a class"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_settings", module)

    for path in ("shop_settings:Shop", "shop_settings.Shop"):
        fresh = Celeriac("shop", config_source=path, set_as_current=False)
        assert fresh.conf.task_default_queue == "of a class"


def test_a_misspelt_module_behind_the_settings_is_named_itself(
    app: Celeriac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_settings.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ImproperlyConfigured, match="'needy_settings': No module named 'no_such_thing'"):
        app.config_from_object("needy_settings", force=True)


def test_defaults_may_be_added_and_everything_else_stands_above_them(app: Celeriac) -> None:
    asked: list[int] = []

    def defaults() -> dict[str, Any]:
        asked.append(1)
        return {"task_default_queue": "late", "task_acks_late": True, "broker_url": "redis://no"}

    app.add_defaults({"task_default_queue": "early", "shop_currency": "EUR"})
    app.add_defaults(defaults)
    app.config_from_object({"task_acks_late": False})
    assert asked == []

    assert (app.conf.task_default_queue, app.conf.task_acks_late, app.conf.shop_currency) == ("late", False, "EUR")
    assert app.conf.broker_url == "memory://"
    assert asked == [1]


def test_an_environment_variable_may_name_the_settings(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match="SHOP_SETTINGS is not set"):
        app.config_from_envvar("SHOP_SETTINGS")
    app.config_from_envvar("SHOP_SETTINGS", silent=True)

    monkeypatch.setitem(sys.modules, "shop_settings", types.SimpleNamespace(task_default_queue="env"))
    monkeypatch.setenv("SHOP_SETTINGS", "shop_settings")
    app.config_from_envvar("SHOP_SETTINGS")

    assert app.conf.task_default_queue == "env"


def test_content_that_no_serializer_writes_is_refused_with_those_there_are(app: Celeriac) -> None:
    app.conf.accept_content = ["jsno"]

    with pytest.raises(ImproperlyConfigured, match=r"accept_content: 'jsno' is not a serializer; known: .*json"):
        _ = app.backend


def test_a_result_backend_that_nobody_serves_is_refused_without_its_password(app: Celeriac) -> None:
    app.conf.result_backend = "oracle://me:secret@host"

    with pytest.raises(ImproperlyConfigured) as raised:
        _ = app.backend

    assert "oracle" in str(raised.value)
    assert "secret" not in str(raised.value)


# -- the registry


def test_a_task_that_is_defined_twice_is_the_first(app: Celeriac) -> None:
    first = app.task(lambda: 1, name="t")
    second = app.task(lambda: 2, name="t")

    assert second is first
    assert app.tasks["t"]() == 1


def test_a_task_is_found_by_name_or_named_as_missing(app: Celeriac) -> None:
    task = app.task(lambda: 1, name="t")

    assert app.find("t") is task
    with pytest.raises(NotRegistered, match="gone"):
        app.find("gone")


def test_two_apps_have_tasks_of_their_own(app: Celeriac) -> None:
    other = Celeriac("other", set_as_current=False)

    mine, theirs = app.task(lambda: "mine", name="t"), other.task(lambda: "theirs", name="t")

    assert (mine(), theirs(), mine.app, theirs.app) == ("mine", "theirs", app, other)


def test_modules_with_tasks_are_imported_by_name(
    app: Celeriac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_included").mkdir()
    (tmp_path / "shop_included" / "__init__.py").write_text("")
    (tmp_path / "shop_included" / "tasks.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    app.autodiscover_tasks(["shop_included"])
    app.import_tasks()

    assert sys.modules.pop("shop_included.tasks").loaded
    app.conf.imports = ["no.such.tasks"]
    with pytest.raises(ImproperlyConfigured, match=r"no\.such\.tasks"):
        app.import_tasks()


# -- the one global


@pytest.fixture
def globals_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from celeriac import compat

    monkeypatch.setattr(compat, "_current", None)
    monkeypatch.setattr(compat, "_shared", [])


@pytest.mark.usefixtures("globals_restored")
def test_the_current_app_is_the_one_made_last() -> None:
    first = Celeriac("first")
    assert current_app() is first
    Celeriac("aside", set_as_current=False)
    assert current_app() is first

    second = Celery("second")

    assert current_app() is second
    assert Celery is Celeriac


@pytest.mark.usefixtures("globals_restored")
def test_a_shared_task_is_on_every_app_made_before_or_later() -> None:
    before = Celeriac("before")

    @shared_task(name="lib.add", max_retries=7)
    def add(x: int, y: int) -> int:
        return x + y

    @shared_task
    def plain() -> int:
        return 1

    later = Celeriac("later")

    assert add(2, 3) == 5
    for app in (before, later):
        assert app.tasks["lib.add"].max_retries == 7
        assert app.tasks["lib.add"].app is app
        assert app.tasks[f"{__name__}.plain"]() == 1


@pytest.mark.usefixtures("globals_restored")
def test_a_shared_task_of_a_library_that_was_imported_first_is_sent_by_the_app_that_was_made_later() -> None:
    @shared_task(bind=True, name="lib.add", max_retries=7)
    def add(self: Any, x: int) -> Any:
        return self.app.main, x

    later = Celeriac("later", broker="memory://", task_default_queue="later")
    later._producer = Outbox()  # type: ignore[assignment]

    add.delay(2)
    add.max_retries = 9

    assert [(message.headers["task"], message.queue) for message in sent(later)] == [("lib.add", "later")]
    assert (add(2), add.name, add.app) == (("later", 2), "lib.add", later)
    assert (later.tasks["lib.add"].max_retries, Celeriac("last").tasks["lib.add"].max_retries) == (9, 7)
    with pytest.raises(ImproperlyConfigured, match=r"lib\.add is a task already"):
        later.task(add)


def test_the_current_task_is_the_one_that_runs_here(app: Celeriac) -> None:
    found: list[Any] = []
    task = app.task(lambda: found.append(current_task()), name="t")

    task.apply()

    assert found == [task]
    assert current_task() is None


# -- calls


def test_a_task_may_be_called_by_its_name_alone(app: Celeriac) -> None:
    handle = app.send_task("far.away", [1], {"y": 2}, queue="q", task_id="a1", headers={"tenant": "t"})

    [message] = sent(app)
    assert isinstance(handle, AsyncResult)
    assert (handle.id, message.id, message.headers["task"], message.queue) == ("a1", "a1", "far.away", "q")
    assert (message.headers["tenant"], message.body[:2]) == ("t", ([1], {"y": 2}))
    assert message.headers["origin"].startswith("gen")


@pytest.mark.parametrize("option", ["countdwon", "que", "eat"])
def test_an_option_that_nobody_knows_is_refused_and_nothing_is_sent(app: Celeriac, option: str) -> None:
    task = app.task(lambda: 1, name="t")

    with pytest.raises(TypeError, match=option):
        task.apply_async((), **{option: 5})
    assert sent(app) == []


@pytest.mark.parametrize(
    "options", [{"retry": False}, {"retry_policy": {}}, {"delivery_mode": 1}, {"add_to_parent": False}], ids=repr
)
def test_options_of_celery_that_mean_nothing_here_are_passed_over(app: Celeriac, options: dict[str, Any]) -> None:
    app.send_task("t", **options)

    assert len(sent(app)) == 1


def test_links_travel_in_the_body(app: Celeriac) -> None:
    signature = {"task": "t.next"}

    app.send_task("t", link=signature, link_error=[signature, signature], chain=[signature])

    assert sent(app)[0].body[2] == {
        "callbacks": [signature],
        "errbacks": [signature] * 2,
        "chain": [signature],
        "chord": None,
    }


def test_a_call_inside_of_a_task_knows_its_parent_and_root(app: Celeriac) -> None:
    app.task(lambda: app.send_task("inner").id, name="outer").apply(task_id="a1", root_id="r1")

    assert (sent(app)[0].headers["parent_id"], sent(app)[0].headers["root_id"]) == ("a1", "r1")


def test_waiting_for_a_result_inside_of_a_task_is_refused(app: Celeriac) -> None:
    from deliveries import delivery

    from celeriac.broker.codec import content_types
    from celeriac.policy.outcome import Failed
    from celeriac.policy.settlement import Rules
    from celeriac.worker.executor import Executor, Job

    task = app.task(lambda: app.AsyncResult("other").get(timeout=0.01), name="t")

    outcome = (
        Executor(app, hostname="w", accept=content_types(["json"]), encode=None)
        .execute(Job(task, delivery("t"), Rules()))
        .outcome
    )

    assert isinstance(outcome, Failed)
    assert "never call result.get() within a task" in str(outcome.error)


def test_signals_tell_of_a_call_before_and_after_it_is_published(app: Celeriac) -> None:
    told: list[Any] = []

    def hear(signal: Any = None, sender: Any = None, headers: Any = None, **_: Any) -> None:
        told.append((signal.name, sender, headers["id"], len(sent(app))))

    signals.before_task_publish.connect(hear)
    signals.after_task_publish.connect(hear)
    try:
        app.send_task("t", task_id="a1")
    finally:
        signals.before_task_publish.disconnect(hear)
        signals.after_task_publish.disconnect(hear)

    assert told == [("before_task_publish", "t", "a1", 0), ("after_task_publish", "t", "a1", 1)]


def test_one_receiver_may_listen_to_two_senders() -> None:
    heard: list[Any] = []
    signal = signals.Signal("test")

    def hear(sender: Any = None, **_: Any) -> None:
        heard.append(sender)

    signal.connect(hear, sender="a")
    signal.connect(hear, sender="b")
    for sender in "abc":
        signal.send(sender)
    assert heard == ["a", "b"]

    assert signal.disconnect(hear, sender="a")
    signal.send("a")
    signal.send("b")
    assert heard == ["a", "b", "b"]


def test_arguments_that_cannot_be_written_are_refused_by_the_call_that_names_them() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)

    with app, pytest.raises(EncodeError, match="<object object"):
        app.send_task("t", [object()])
    with app, pytest.raises(EncodeError, match="no such"):
        app.send_task("t", serializer="no such")
