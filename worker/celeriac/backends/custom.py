"""Result stores of the user's own: a class by its path, or by the scheme for which a package has registered it.

`module:Class` or `module.Class`, with or without `+` and a URL for it. A package registers `scheme = "module:Class"` in the entry
point group `celeriac.result_backends`. The class is called with (url, options=…, expires_s=…, serializer=…, accept=…).
"""

import importlib
import re
from importlib.metadata import entry_points
from typing import Any

from celeriac.backends.base import ResultBackend
from celeriac.exceptions import ImproperlyConfigured

GROUP = "celeriac.result_backends"
_PATH = re.compile(r"(?P<module>[A-Za-z_][\w.]*)[:.](?P<name>[A-Za-z_]\w*)(?:\+(?P<url>.+))?\Z")
#: What a store must have: the Protocol's public names.
_WANTED = sorted(
    {name for name in vars(ResultBackend) if not name.startswith("_")} | {name for name in ResultBackend.__annotations__ if not name.startswith("_")}
)  # fmt: skip


def custom_class(url: str, scheme: str) -> tuple[Any, str | None] | None:
    """(the class, the URL for it) of what a user's result_backend names; None when it names nothing of the kind.

    Raises ImproperlyConfigured for a path that cannot be imported.
    """
    for found in entry_points(group=GROUP, name=scheme):
        return found.load(), url
    path = _PATH.match(url)
    if path is None or (path["url"] is None and "://" in url):
        return None
    try:
        return getattr(importlib.import_module(path["module"]), path["name"]), path["url"]
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(f"result_backend {url!r} cannot be imported: {error}") from error


def check_methods(store: Any, what: str) -> None:
    """Raise ImproperlyConfigured for what is no result store, naming what it lacks."""
    missing = [name for name in _WANTED if not hasattr(store, name)]
    if missing:
        raise ImproperlyConfigured(
            f"{what}: {type(store).__name__} is no result store, it lacks {', '.join(missing)}; see celeriac.backends.base.ResultBackend."
            " Stores written for Celery have other methods"
        )
