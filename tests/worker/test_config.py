"""Settings: Celery's names of both ages, the environment, two profiles, and errors that name the setting."""

import types
from datetime import timedelta
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.config import BY_NAME, PROFILES, SETTINGS, Settings, from_environment, from_object
from celeriac.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(("old", "new"), [(old, setting.name) for setting in SETTINGS for old in setting.old])
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
    ],
)
def test_a_wrong_value_is_refused_by_the_settings_name_and_with_its_meaning(name: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        Settings({name: value})

    assert name in str(raised.value)
    assert repr(value) in str(raised.value)
    meaning = BY_NAME.get(name, BY_NAME["result_expires"]).help
    assert meaning in str(raised.value)


def test_a_name_that_nobody_knows_is_kept_and_told_with_the_nearest_one() -> None:
    settings = Settings({"task_ack_late": True, "shop_currency": "EUR"})

    assert settings.shop_currency == "EUR"
    assert "task_ack_late (did you mean task_acks_late?)" in settings.unknown()
    with pytest.raises(AttributeError, match="did you mean broker_url"):
        _ = settings.broker_ur


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
        pytest.param(types.SimpleNamespace(CELERY_TASK_ACKS_LATE=True), "celery", {"task_acks_late": True}, id="a namespace in any case"),
    ],
)  # fmt: skip
def test_settings_come_out_of_objects(source: Any, namespace: str | None, found: dict[str, Any]) -> None:
    assert from_object(source, namespace) == found
