"""Result stores, behind one Protocol. None of them knows tasks, pools or brokers."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celeriac.backends.base import ResultBackend
from celeriac.broker.connection import REDIS_SCHEMES, redacted
from celeriac.exceptions import ImproperlyConfigured


def open_backend(
    url: str | None,
    *,
    options: Mapping[str, Any] | None = None,
    expires_s: float | None = 86400.0,
    serializer: str = "json",
    accept: frozenset[str] = frozenset(),
) -> ResultBackend:
    """The result store that the URL names; without one, a store that keeps nothing. Connects at the first use.

    Raises ImproperlyConfigured for a scheme that nobody serves.
    """
    if not url or url.startswith("disabled"):
        from celeriac.backends.disabled import DisabledBackend

        return DisabledBackend()
    scheme = urlsplit(url).scheme.lower()
    if scheme in REDIS_SCHEMES:
        from celeriac.backends.redis import RedisBackend

        return RedisBackend(url, options=options or {}, expires_s=expires_s, serializer=serializer, accept=accept)
    if url in {"cache+memory://", "memory://"}:
        from celeriac.backends.memory import MemoryBackend

        return MemoryBackend()
    raise ImproperlyConfigured(
        f"result_backend {redacted(url)!r}: no store for the scheme {scheme!r}; use redis://, rediss://, valkey:// or cache+memory:// (for tests)"
    )
