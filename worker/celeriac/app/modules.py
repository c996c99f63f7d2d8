"""Modules by name: what a path leads to, which of them hold tasks, and what the one that runs is called."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def import_tasks(app: "Celeriac", more: Iterable[str] = ()) -> None:
    """Import the modules of `imports` and `include`, and more; then the app's own signals are told, once. Raises ImproperlyConfigured."""
    for _, answer in signals.import_modules.send(sender=app):
        if isinstance(answer, Exception):  # say a Django project that cannot be set up: nothing good would follow
            raise answer
    for module in [*app.conf.imports, *app.conf.include, *more]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"cannot import {module!r} (of the settings imports or include, or of -I): {error}"
            ) from error
    _announce(app)


def _announce(app: "Celeriac") -> None:
    """Tell the app's own signals, once. What a receiver raises is raised: an entry that cannot work must not go unseen."""
    if app._announced:
        return
    app._announced = True
    app.finalize(auto=True)
    for signal, named in (
        (app.on_configure, {}),
        (app.on_after_configure, {"source": app.conf}),
        (app.on_after_finalize, {}),
    ):
        for _, answer in signal.send(sender=app, **named):
            if isinstance(answer, Exception):
                raise answer


def discover(
    app: "Celeriac", packages: Iterable[str] | Callable[[], Iterable[str]] | None, related_name: str | None, force: bool
) -> None:
    """See Celeriac.autodiscover_tasks."""
    if not packages:
        app.related_names = [*app.related_names, related_name or ""]
        return
    for package in packages() if callable(packages) else packages:
        module = f"{package}.{related_name}" if related_name else package
        if _is_there(module):
            app.conf.include = [*app.conf.include, module]
            if force:
                importlib.import_module(module)


def settings_at(path: str) -> Any:
    """The module, `module:attribute` or `module.attribute` of that name. Raises ImportError, AttributeError."""
    module, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        above, _, attribute = path.rpartition(".")
        if error.name != path or not above:  # a module that it imports is missing
            raise
        found = importlib.import_module(above)
    return getattr(found, attribute) if attribute else found


def imported(path: str) -> Any:
    """What a dotted path (`proj.tasks:Base` or `proj.tasks.Base`) names. Raises ImproperlyConfigured."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(f"cannot import {path!r}: {error}") from error


def main_module() -> str:
    """The importable name of the module that runs as __main__."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else "__main__"


def _is_there(module: str) -> bool:
    """Whether a module can be found. Raises ModuleNotFoundError for a package that cannot."""
    package = module.rpartition(".")[0]
    if package and not hasattr(importlib.import_module(package), "__path__"):  # a module, which has no modules in it
        return False
    return importlib.util.find_spec(module) is not None
