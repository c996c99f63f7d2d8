"""What an app in a Django project needs besides its tasks: Django set up before they are imported, connections in order around them.

Installed by itself where DJANGO_SETTINGS_MODULE is set, as with Celery.
"""

import importlib
import importlib.util
import logging
from typing import Any

from celeriac import signals
from celeriac.app.base import Celeriac
from celeriac.app.task import Task
from celeriac.contrib.outbox import register

log = logging.getLogger(__name__)

#: One for each app: signals hold their receivers weakly.
_installed: dict[int, "DjangoFixup"] = {}


def install(app: Celeriac) -> None:
    """Do so for the app, once; without Django there is a warning and nothing else."""
    if importlib.util.find_spec("django") is None:
        log.warning("DJANGO_SETTINGS_MODULE is set and Django is not installed: %r is an app without it", app)
        return
    if id(app) not in _installed:
        _installed[id(app)] = DjangoFixup(app)


class DjangoFixup:
    """The receivers of one app."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        if app.task_cls is Task:
            app.task_cls = "celeriac.contrib.django.task:DjangoTask"
        signals.import_modules.connect(self._set_up, sender=app)
        signals.worker_init.connect(self._leave_connections)
        signals.worker_process_init.connect(self._leave_connections)
        signals.task_prerun.connect(self._before_and_after)
        signals.task_postrun.connect(self._before_and_after)

    def _set_up(self, **_: Any) -> None:
        """Before the modules with tasks are imported."""
        import django
        from django.apps import apps
        from django.core.checks import run_checks

        django.setup()
        run_checks()
        for related_name in self._app.related_names:
            for config in apps.get_app_configs():
                module = f"{config.name}.{related_name}"
                if importlib.util.find_spec(module) is not None:
                    importlib.import_module(module)
        if apps.is_installed("celeriac.contrib.django"):
            from celeriac.contrib.django.outbox import DjangoRows

            register(self._app, DjangoRows())
        self._leave_connections()

    def _leave_connections(self, **_: Any) -> None:
        """No process shares a connection with the one that it comes from."""
        from django.db import connections

        connections.close_all()

    def _before_and_after(self, sender: Any = None, **_: Any) -> None:
        """Close what is broken or as old as CONN_MAX_AGE allows. Not where an eager call runs in a caller's transaction."""
        if getattr(sender, "app", None) is not self._app or sender.request.is_eager:
            return
        from django.core.cache import close_caches
        from django.db import close_old_connections

        close_old_connections()
        close_caches()


__all__ = ["install"]
