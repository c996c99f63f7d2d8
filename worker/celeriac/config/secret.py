"""What of a setting may be shown: passwords, keys and tokens never."""

import re
from collections.abc import Mapping
from typing import Any

#: Settings whose values nobody may see, by name: Celery's list.
_SECRET = re.compile("API|TOKEN|KEY|SECRET|PASS|PROFANITY_FILTER|SIGNATURE|DATABASE", re.IGNORECASE)
#: Names with one of these words that hold no secret.
_HARMLESS = frozenset({
    "task_default_routing_key", "rate_limit_key", "concurrency_key", "routing_key", "binding_key", "redis_socket_keepalive", "global_keyprefix",
    "database_create_tables_at_setup", "database_short_lived_sessions", "database_table_names", "database_table_schemas",
})  # fmt: skip
#: Up to the last @ of the URL: some write a password with an @ as it is, and kombu reads it so; with a / it cannot be read, and is shown
#: in the error that says so.
_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^/:@\s]*):(?:(?!://)\S)*@", re.IGNORECASE)
_IN_QUERY = re.compile(r"(?P<head>[?&][a-z_]*(password|secret|token)=)[^&\s;'\"]*", re.IGNORECASE)


def redacted(text: str) -> str:
    """The URL, or any text that holds URLs, with every password replaced by **."""
    return _IN_QUERY.sub(r"\g<head>**", _PASSWORD.sub(r"\g<head>:**@", text))


def shown(name: str, value: Any) -> Any:
    """A setting's value for people and for JSON, without secrets."""
    if value and isinstance(name, str) and name.lower() not in _HARMLESS and _SECRET.search(name):
        return "********"
    if isinstance(value, str):
        return redacted(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): shown(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [shown("", inner) for inner in value]
    return redacted(repr(value))
