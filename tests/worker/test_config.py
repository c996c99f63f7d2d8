"""Settings: Celery's names of both ages, the environment, two profiles, and errors that name the setting."""

import re
import types
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import celeriac
from celeriac import Celeriac
from celeriac.config import (
    BY_NAME,
    EVERY,
    PROFILES,
    SETTINGS,
    UNSUPPORTED,
    Effect,
    Setting,
    Settings,
    from_environment,
    from_object,
    misspelt_variables,
)
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker.assemble import Options, run_worker


@pytest.mark.parametrize(("old", "new"), [(old, setting.name) for setting in EVERY for old in setting.old])
def test_an_old_name_is_the_new_one(old: str, new: str) -> None:
    settings = Settings()

    settings[old] = value = settings[new]

    assert old in settings
    assert settings[old] == settings[new] == value
    assert settings.unknown() == []


def test_values_are_read_by_attribute_item_and_any_case() -> None:
    settings = Settings({"CELERY_DEFAULT_QUEUE": "a", "TASK_SERIALIZER": "yaml"})
    settings.task_acks_late = True

    assert settings.task_default_queue == settings["task_default_queue"] == settings["CELERY_DEFAULT_QUEUE"] == "a"
    assert (settings.task_serializer, settings.task_acks_late) == ("yaml", True)
    assert settings.get("no_such", 7) == 7


@pytest.mark.parametrize("profile", PROFILES)
def test_every_default_is_a_value_that_could_be_set(profile: str) -> None:
    settings = Settings(profile=profile)

    for setting in SETTINGS:
        default = setting.default_in(profile)
        settings[setting.name] = default
        assert settings[setting.name] == default


@pytest.mark.parametrize(
    ("name", "celery", "kubernetes"),
    [
        ("task_acks_late", False, True),
        ("task_track_started", False, True),
        ("task_rate_limit_scope", "worker", "cluster"),
        ("worker_pool", "prefork", "threads"),
        ("worker_http_port", 0, 8080),
        ("broker_heartbeat", 120.0, 10.0),
        ("task_lease", 30.0, 30.0),
        ("task_max_deliveries", 5, 5),
    ],
)
def test_a_profile_decides_what_nobody_set(name: str, celery: object, kubernetes: object) -> None:
    assert Settings()[name] == celery
    assert Settings(profile="kubernetes")[name] == kubernetes


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'openshift'.*celery, kubernetes"):
        Settings(profile="openshift")


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("task_acks_late", "1", True),
        ("task_acks_late", "TRUE", True),
        ("task_acks_late", "off", False),
        ("task_acks_late", "", False),
        ("task_acks_late", 0, False),
        ("result_expires", timedelta(minutes=2), 120.0),
        ("result_expires", "60", 60.0),
        ("result_expires", None, None),
        ("worker_concurrency", "8", 8),
        ("worker_concurrency", "", None),
        ("worker_concurrency", "auto", None),
        ("worker_prefetch_multiplier", "4", 4),
        ("worker_prefetch_multiplier", "0", None),
        ("worker_prefetch_multiplier", 0, None),
        ("imports", "a.tasks, b.tasks", ["a.tasks", "b.tasks"]),
        ("imports", ("a", "b"), ["a", "b"]),
        ("broker_url", "", None),
    ],
)
def test_a_value_is_made_what_its_setting_wants(name: str, given: object, value: object) -> None:
    assert Settings({name: given})[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_concurrency", "many"),
        ("worker_http_port", "http"),
        ("worker_http_port", None),
        ("task_acks_late", "perhaps"),
        ("task_lease", "long"),
        ("broker_transport_options", "fast"),
        ("imports", 7),
        ("CELERY_TASK_RESULT_EXPIRES", "never"),
        ("result_expires", -1),
        ("result_expires", float("nan")),
        ("worker_max_tasks_per_child", -5),
        ("worker_max_tasks_per_child", 2.5),
        ("task_serializer", None),
        ("task_default_queue", 7),
        ("task_acks_late", ["yes"]),
        ("task_rate_limit_scope", "galaxy"),
        ("broker_url", {"host": "h"}),
        ("broker_transport_options", "{no json"),
    ],
)
def test_a_wrong_value_is_refused_by_the_settings_name_and_with_its_meaning(name: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        Settings({name: value})

    assert name in str(raised.value)
    assert repr(value) in str(raised.value)
    assert "expected" in str(raised.value)
    meaning = BY_NAME.get(name, BY_NAME["result_expires"]).help
    assert meaning in str(raised.value)


def test_no_name_is_in_the_tables_twice() -> None:
    """Who builds what `unsupported.py` has a row for moves it to `table.py`."""
    names = Counter(name for setting in EVERY for name in {setting.name, *setting.old, setting.name.upper()})

    assert {name for name, count in names.items() if count > 1} == set()


def test_every_setting_that_is_said_to_do_something_is_read_somewhere() -> None:
    """No option without a reader: who takes a reader away moves the row to `unsupported.py`, with the reason."""
    package = Path(celeriac.__file__).parent
    code = "\n".join(path.read_text() for path in package.rglob("*.py") if path.parent.name != "config")

    assert [setting.name for setting in SETTINGS if not re.search(rf"\b{setting.name}\b", code)] == []


def test_no_setting_that_is_said_to_do_nothing_is_read() -> None:
    """Who reads one moves its row to `table.py`. beat reads beat_scheduler to refuse what it does not have."""
    package = Path(celeriac.__file__).parent
    code = "\n".join(path.read_text() for path in package.rglob("*.py") if path.parent.name != "config")

    read = {setting.name for setting in UNSUPPORTED if re.search(rf"\bconf\.{setting.name}\b", code)}
    assert read == {"beat_scheduler"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("task_ack_late", "task_acks_late"),
        ("task_ackslate", "task_acks_late"),
        ("worker_prefetch_multiplyer", "worker_prefetch_multiplier"),
        ("tsak_acks_late", "task_acks_late"),
        ("accept_contents", "accept_content"),
        ("import", "imports"),
        ("CELERY_ACK_LATE", "CELERY_ACKS_LATE"),
        ("CELERYD_CONCURENCY", "CELERYD_CONCURRENCY"),
        ("BROKER_URI", "BROKER_URL"),
    ],
)
def test_a_name_that_was_meant_as_a_setting_stops_a_start_with_the_right_one(wrong: str, right: str) -> None:
    settings = Settings({wrong: True})

    with pytest.raises(ImproperlyConfigured, match=rf"there is no setting {wrong} \(did you mean {right}\?\)"):
        settings.check()


@pytest.mark.parametrize(
    "name", ["shop_currency", "SHOP_CURRENCY", "DEBUG", "TIME_ZONE", "CACHES", "CACHE_MIDDLEWARE_SECONDS", "importance", "tasks_per_page"]
)  # fmt: skip
def test_a_projects_own_values_are_kept_and_no_mistake(name: str) -> None:
    settings = Settings({name: "EUR"})

    settings.check()
    assert (settings[name], settings.own()) == ("EUR", {name: "EUR"})
    with pytest.raises(AttributeError, match="did you mean broker_url"):
        _ = settings.broker_ur


def test_a_worker_and_a_client_refuse_a_misspelt_setting() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    app.conf.update(task_ack_late=True, worker_concurency=1)

    with pytest.raises(ImproperlyConfigured, match=r"task_ack_late .*and no worker_concurency"):
        app.send_task("t")
    with pytest.raises(ImproperlyConfigured, match="task_ack_late"):
        run_worker(app, Options(pool="solo"))


@pytest.mark.parametrize("setting", [each for each in UNSUPPORTED if each.effect is Effect.REFUSED], ids=lambda each: each.name)  # fmt: skip
def test_a_setting_that_would_be_missed_is_refused_with_the_reason(setting: Setting) -> None:
    Settings({setting.name: setting.default})

    with pytest.raises(ImproperlyConfigured) as raised:
        Settings({setting.name: False if setting.default in (True, None) and "acks" in setting.name else 1})
    assert setting.help in str(raised.value)


def test_a_setting_without_effect_is_told_when_it_is_set_and_only_then() -> None:
    settings = Settings({"CELERYD_STATE_DB": "/tmp/x", "worker_lost_wait": 10.0})

    settings.check()
    [remark] = settings.remarks()
    assert remark == f"the setting worker_state_db has no effect here: {BY_NAME['worker_state_db'].help}"


def test_two_names_of_one_setting_must_not_contradict_each_other() -> None:
    with pytest.raises(ImproperlyConfigured, match="CELERY_ACKS_LATE and task_acks_late are two names"):
        Settings({"CELERY_ACKS_LATE": True, "task_acks_late": False})

    settings = Settings({"CELERY_TASK_RESULT_EXPIRES": timedelta(minutes=1), "result_expires": 60})
    assert settings.result_expires == 60.0
    assert settings.remarks() == [
        "CELERY_TASK_RESULT_EXPIRES and result_expires are two names of the setting result_expires: keep result_expires alone"
    ]
    settings.CELERY_TASK_RESULT_EXPIRES = 30  # another source may say otherwise
    assert settings.result_expires == 30.0


def test_what_is_set_is_told_apart_from_what_holds() -> None:
    settings = Settings({"task_acks_late": True, "shop": 1}, profile="kubernetes")
    settings.add_defaults({"task_default_queue": "ours", "task_acks_late": False, "colour": "red"})
    settings.broker_transport_options["visibility_timeout"] = 9

    assert settings.changes == {"task_acks_late": True, "shop": 1}
    assert (settings.task_default_queue, settings.task_acks_late, settings.colour) == ("ours", True, "red")
    assert settings.without_defaults() == {
        "shop": 1, "task_default_queue": "ours", "broker_transport_options": {"visibility_timeout": 9},
    }  # fmt: skip
    assert settings.value_set_for("CELERY_ACKS_LATE")
    assert not settings.value_set_for("task_default_queue")
    assert settings.setdefault("task_default_queue", "other") == "other"
    del settings["CELERY_DEFAULT_QUEUE"]
    assert settings.task_default_queue == "ours"
    assert settings.get_by_parts("task", "acks_late") is True
    assert dict(settings.items())["shop"] == 1
    assert Settings().broker_transport_options == {}


def test_secrets_are_never_shown() -> None:
    settings = Settings(
        {"broker_url": "redis://me:s3cret@h", "redis_password": "s3cret", "broker_transport_options": {"sentinel_kwargs": {"password": "s3cret"}},
         "shop_api_key": "s3cret", "result_backend": "db+postgresql://me:s3cret@h/x", "task_default_routing_key": "seen"}
    )  # fmt: skip

    for text in (settings.humanize(), settings.humanize(with_defaults=True), repr(settings), repr(settings.table())):
        assert "s3cret" not in text
        assert "seen" in text
    assert settings.table(censored=False)["redis_password"] == "s3cret"
    with pytest.raises(ImproperlyConfigured) as raised:
        settings.redis_password = ["s3cret"]
    assert "s3cret" not in str(raised.value)


def test_two_apps_do_not_share_a_mutable_default() -> None:
    first, second = Settings(), Settings()

    first.broker_transport_options = {"x": 1}

    assert second.broker_transport_options == {}


# -- where values come from


def test_the_environment_names_settings_in_upper_case() -> None:
    environ = {
        "CELERIAC_BROKER_URL": "redis://h",
        "CELERIAC_TASK_ACKS_LATE": "1",
        "CELERIAC_NONSENSE": "x",
        "BROKER_URL": "no",
    }

    assert from_environment(environ) == {"broker_url": "redis://h", "task_acks_late": "1"}


@pytest.mark.parametrize(
    ("variable", "value", "near"),
    [
        pytest.param("CELERIAC_TASK_ACK_LATE", "1", "CELERIAC_TASK_ACKS_LATE", id="misspelt"),
        pytest.param("CELERIAC_BROKER_UR", "redis://h", "CELERIAC_BROKER_URL", id="cut off"),
        pytest.param("CELERIAC_WORKER_HTP_PORT", "8080", "CELERIAC_WORKER_HTTP_PORT", id="a port"),
        pytest.param("CELERIAC_POD_NAME", "x", None, id="what the chart sets"),
        pytest.param("CELERIAC_PROFILE", "celery", None, id="the profile"),
        pytest.param("CELERIAC_APP", "shop", None, id="the app"),
        pytest.param("CELERIAC_OPERATOR_LOG_LEVEL", "info", None, id="the operator's"),
        pytest.param("CELERIAC_WORKER_SERVICE_HOST", "10.0.0.1", None, id="what Kubernetes tells of a Service"),
        pytest.param("CELERIAC_WORKER_HTTP_PORT_8080_TCP_ADDR", "10.0.0.1", None, id="more of it"),
        pytest.param("CELERIAC_WORKER_HTP_PORT", "tcp://10.0.0.1:8080", None, id="a port of it"),
        pytest.param("XCELERIAC_TASK_ACK_LATE", "1", None, id="somebody else's"),
    ],
)  # fmt: skip
def test_a_misspelt_variable_is_named_and_others_are_left_alone(variable: str, value: str, near: str | None) -> None:
    assert misspelt_variables({variable: value}) == ([f"{variable} (did you mean {near}?)"] if near else [])


def test_a_misspelt_variable_stops_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_TASK_ACK_LATE", "1")

    with pytest.raises(ImproperlyConfigured, match="CELERIAC_TASK_ACK_LATE"):
        Celeriac("shop", broker="memory://", set_as_current=False).send_task("t")


def test_an_app_takes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_PROFILE", "kubernetes")
    monkeypatch.setenv("CELERIAC_WORKER_HTTP_PORT", "0")

    app = Celeriac("shop", set_as_current=False)

    assert (app.conf.profile, app.conf.task_acks_late, app.conf.worker_http_port) == ("kubernetes", True, 0)


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_WORKER_HTTP_PORT", "http")

    with pytest.raises(ImproperlyConfigured, match="worker_http_port='http'"):
        Celeriac("shop", set_as_current=False)


def test_the_environment_is_stronger_than_the_code_and_the_command_line_than_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERIAC_BROKER_URL", "redis://environment")
    monkeypatch.setenv("CELERIAC_PROFILE", "kubernetes")

    app = Celeriac("shop", broker="redis://given", profile="celery", set_as_current=False)
    app.config_from_object({"broker_url": "redis://object", "task_default_queue": "object"})
    app.conf.broker_url = "redis://later"

    assert (app.conf.broker_url, app.conf.profile, app.conf.task_default_queue) == (
        "redis://environment",
        "kubernetes",
        "object",
    )
    app.conf.pin({"broker_url": "redis://command-line"})
    app.conf.broker_url = "redis://later"
    assert app.conf.broker_url == "redis://command-line"


def test_what_is_given_to_the_app_is_stronger_than_an_object_and_what_is_set_later_than_both() -> None:
    app = Celeriac("shop", broker="redis://given", set_as_current=False)
    app.config_from_object({"broker_url": "redis://object"})

    assert app.conf.broker_url == "redis://given"
    app.conf.broker_url = "redis://later"
    assert app.conf.broker_url == "redis://later"


def test_celerys_own_variables_count_below_ours() -> None:
    theirs = {"CELERY_BROKER_URL": "redis://theirs", "CELERY_RESULT_BACKEND": "redis://results"}

    assert from_environment(theirs) == {"broker_url": "redis://theirs", "result_backend": "redis://results"}
    assert from_environment({**theirs, "CELERIAC_BROKER_URL": "redis://ours"})["broker_url"] == "redis://ours"


@pytest.mark.parametrize(
    ("source", "namespace", "found"),
    [
        pytest.param({"broker_url": "b", "own": 1}, None, {"broker_url": "b", "own": 1}, id="a mapping, with settings of its own"),
        pytest.param({"_private": 1}, None, {}, id="nothing private"),
        pytest.param(types.SimpleNamespace(BROKER_URL="b", DEBUG=True), None, {"BROKER_URL": "b"}, id="a module, of which only what is known"),
        pytest.param({"CELERY_BROKER_URL": "b", "DEBUG": True}, "CELERY", {"broker_url": "b"}, id="with a namespace"),
        pytest.param(
            types.SimpleNamespace(CELERY_ACK_LATE=1, _task_x=1, task_lists=types, CACHES={}), None, {"CELERY_ACK_LATE": 1},
            id="a module's mistakes, too",
        ),
        pytest.param({"CELERY_RESULT_DBURI": "d"}, "CELERY", {"CELERY_RESULT_DBURI": "d"}, id="an old name that begins as the namespace does"),
        pytest.param(types.SimpleNamespace(CELERY_TASK_ACKS_LATE=True), "celery", {"task_acks_late": True}, id="a namespace in any case"),
    ],
)  # fmt: skip
def test_settings_come_out_of_objects(source: Any, namespace: str | None, found: dict[str, Any]) -> None:
    assert from_object(source, namespace) == found


def test_a_report_shows_what_is_set_and_no_secret() -> None:
    app = Celeriac(
        "shop", broker="redis://me:s3cret@h", set_as_current=False, shop_api_key="s3cret", task_acks_late=True
    )

    text = app.bugreport()

    assert f"celeriac:{celeriac.__version__} " in text
    assert "task_acks_late: True" in text
    assert "redis://me:**@h" in text
    assert "s3cret" not in text
