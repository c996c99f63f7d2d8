"""Where an app's settings come from, when they are read, and whether they can be used. Here are methods of `Celeriac`, as functions of the app."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac import config
from celeriac.app import security
from celeriac.app.modules import settings_at
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy import errormail
from celeriac.policy.ratelimit import parse_rate

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def read_settings(app: "Celeriac") -> config.Settings:
    """The settings. Sources that config_from_object was given by name are read now. Raises ImproperlyConfigured."""
    with app._reading:  # two threads may ask first
        while app._sources:
            source = app._sources.pop(0)
            try:
                source()
            except BaseException:
                app._sources.insert(0, source)  # whoever asks next is told, too
                raise
        with app._lock:
            for task in app._registry.tasks.values():
                app._registry.annotate(type(task))
        schedule = app._settings.beat_schedule
        # It was set anew: what tasks and code have added is no part of that.
        if not app._entries.keys() <= schedule.keys():
            app._settings.beat_schedule = {**app._entries, **schedule}
    return app._settings


def config_from_object(
    app: "Celeriac", source: Any, silent: bool = False, force: bool = False, namespace: str | None = None
) -> None:
    """Take settings from a mapping, an object, or the dotted path of a module, an object in one (`proj.settings:Shop`) or a class.

    What is named by a path is imported when a setting is read for the first time, so it may import this app; force: now. silent: a
    path that cannot be imported is no error. namespace: only names that begin with it count, without it.
    """
    if not isinstance(source, str):
        _take(app, source, silent, namespace)
        return
    _later(app, partial(_take, app, source, silent, namespace))
    if force:
        _ = app.conf


def config_from_envvar(app: "Celeriac", variable: str, silent: bool = False, force: bool = False) -> None:
    """Take settings from the module that an environment variable names."""
    module = os.environ.get(variable)
    if module:
        app.config_from_object(module, silent=silent, force=force)
    elif not silent:
        raise ImproperlyConfigured(
            f"the environment variable {variable} is not set; it should name the settings module"
        )


def add_defaults(app: "Celeriac", defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
    """Values that hold where nothing is set; a function is asked for them when a setting is read for the first time."""
    if callable(defaults):
        _later(app, lambda: app._settings.add_defaults(defaults()))
    else:
        app._settings.add_defaults(defaults)


def _later(app: "Celeriac", source: Callable[[], None]) -> None:
    app._sources.append(source)
    app._look_again()


def _take(app: "Celeriac", source: Any, silent: bool, namespace: str | None) -> None:
    if isinstance(source, str):
        try:
            source = settings_at(source)
        except (ImportError, AttributeError) as error:
            if silent:
                return
            raise ImproperlyConfigured(f"cannot read settings from {source!r}: {error}") from error
    app._settings.update(config.from_object(source, namespace))
    app._settings.update(app._given)


def check_settings(app: "Celeriac") -> None:
    """Raise ImproperlyConfigured for settings, and CELERIAC_ variables, that do not exist; before the first message and at a worker's start."""
    conf = app.conf
    conf.check()
    try:
        parse_rate(conf.task_default_rate_limit)
        errormail.listed(conf.task_error_whitelist)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"setting task_default_rate_limit or task_error_whitelist cannot be used: {error}"
        ) from None
    wrong = config.misspelt_variables(os.environ)
    if wrong:
        raise ImproperlyConfigured(f"the environment sets no setting with {', nor with '.join(wrong)}")
    security.check(conf, signs=app.signs)


__all__ = ["add_defaults", "check_settings", "config_from_envvar", "config_from_object", "read_settings"]
