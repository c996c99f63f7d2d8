"""Where settings come from: the environment, mappings, modules and objects."""

import re
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

from celeriac.config.names import EVERY, is_old, looks_like_ours, nearest, setting_of

#: Celery's own variables, which a deployment may still set.
_CELERY_VARIABLES = {"CELERY_BROKER_URL": "broker_url", "CELERY_RESULT_BACKEND": "result_backend"}
#: From here on a variable counts as a setting's that was misspelt: others use the prefix, too.
_NEAR = 0.85
#: What Kubernetes tells each container of a Service that is called celeriac-…
_SERVICE = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that `CELERIAC_<SETTING>` variables name, and CELERY_BROKER_URL and CELERY_RESULT_BACKEND; others are passed over."""
    found: dict[str, Any] = {
        name: environ[variable] for variable, name in _CELERY_VARIABLES.items() if environ.get(variable)
    }
    for setting in EVERY:
        value = environ.get(f"CELERIAC_{setting.name.upper()}")
        if value is not None:
            found[setting.name] = value
    return found


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """`CELERIAC_…` variables that were meant as settings and name none, each with the nearest right one; others are passed over."""
    wrong = []
    for variable, value in environ.items():
        prefix, _, rest = variable.partition("_")
        if prefix != "CELERIAC" or setting_of(rest.lower()) is not None:
            continue
        near = nearest(rest, _NEAR)
        if near is None or _SERVICE.search(variable) or (variable.endswith("_PORT") and _SERVICE_PORT.match(value)):
            continue
        wrong.append(f"{variable} (did you mean CELERIAC_{near.upper()}?)")
    return wrong


def from_object(source: Any, namespace: str | None = None) -> dict[str, Any]:
    """Settings out of a mapping, module or object; with a namespace, `CELERY_BROKER_URL` means broker_url.

    Of a module or object only what is a setting or looks like one; of a mapping, and of a namespace, all there is.
    """
    is_mapping = isinstance(source, Mapping)
    items = source.items() if is_mapping else ((name, getattr(source, name)) for name in dir(source))
    prefix = f"{namespace.rstrip('_')}_".upper() if namespace else ""
    found: dict[str, Any] = {}
    for name, value in items:
        if prefix:
            if name.upper().startswith(prefix):
                found[_within(name, prefix)] = value
        elif setting_of(name) is not None or (is_mapping and not name.startswith("_")) or _meant(name, value):
            found[name] = value
    return found


def _meant(name: str, value: Any) -> bool:
    """Whether what a module holds was meant as a setting, though there is none of that name."""
    return (
        not name.startswith("_") and not isinstance(value, ModuleType | FunctionType | type) and looks_like_ours(name)
    )


def _within(name: str, prefix: str) -> str:
    """The setting that a name with a prefix means: `CELERY_RESULT_DBURI` is an old name as a whole."""
    inner = name[len(prefix) :].lower()
    return name if setting_of(inner) is None and is_old(name) else inner
