"""Result stores, behind one Protocol. None of them knows tasks, pools or brokers."""

import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celeriac.backends.base import ResultBackend
from celeriac.backends.custom import check_methods, custom_class
from celeriac.backends.sql_options import SqlOptions
from celeriac.broker.connection import REDIS_SCHEMES, BrokerAddress, check_installed
from celeriac.config.secret import redacted
from celeriac.exceptions import ImproperlyConfigured

_INSTEAD = "use redis://, valkey://, rpc://, db+postgresql+psycopg://, db+mysql+pymysql://, db+sqlite:///file or cache+memory:// (for tests)"
#: Stores that Celery or its guide has and we have not, and what there is to say of each.
_PLANNED = {
    "cache": "memcached is planned",
    "mongodb": "MongoDB is planned",
    "mongodb+srv": "MongoDB is planned",
    "django": "Django's ORM is planned; results can be kept in the same database, in Celery's tables, with db+postgresql+psycopg://",
    "django-db": "Django's ORM is planned; results can be kept in the same database, in Celery's tables, with db+postgresql+psycopg://",
    "django-cache": "Django's cache is planned",
    "tyrant": "Tokyo Tyrant is planned, by the memcached protocol that it speaks, and without expiry; Redis and Valkey play the same part",
}


def open_backend(
    url: str | None,
    *,
    options: Mapping[str, Any] | None = None,
    expires_s: float | None = 86400.0,
    serializer: str = "json",
    accept: frozenset[str] = frozenset(),
    compression: str | None = None,
    sql: SqlOptions | None = None,
    broker: BrokerAddress | None = None,
    persistent: bool = False,
) -> ResultBackend:
    """The result store that the URL names; without one, a store that keeps nothing. Connects at the first use.

    broker, persistent: for results that are sent as messages: where, and whether it writes them to disk.

    Raises ImproperlyConfigured for a scheme that nobody serves.
    """
    if not url or url.startswith("disabled"):
        from celeriac.backends.disabled import DisabledBackend

        return DisabledBackend()
    scheme = urlsplit(url).scheme.lower() or url.lower()
    if scheme in REDIS_SCHEMES:
        check_installed("result_backend", url)
        from celeriac.backends.redis import RedisBackend

        return RedisBackend(
            url, options=options or {}, expires_s=expires_s, serializer=serializer, accept=accept, compression=compression
        )  # fmt: skip
    if url.startswith(("cache+memory://", "memory://")) and not urlsplit(url).netloc:
        from celeriac.backends.memory import open_memory

        return open_memory(urlsplit(url).path.strip("/"))
    if scheme.startswith(("db+", "sqla+")):
        try:
            from celeriac.backends.sql import SqlBackend
        except ImportError as error:
            raise ImproperlyConfigured(
                f"result_backend {redacted(url)!r} needs SQLAlchemy: pip install 'celeriac[sql]' ({error})"
            ) from error
        return SqlBackend(
            url, options=sql or SqlOptions(), expires_s=expires_s, serializer=serializer, accept=accept, compression=compression
        )  # fmt: skip
    if scheme in {"rpc", "amqp"} and broker is not None:
        if scheme == "amqp":
            warnings.warn(
                "result_backend amqp, a queue for each result, is no more: results go to one queue of the caller's, as with rpc://; say rpc://",
                stacklevel=2,
            )
        from celeriac.backends.rpc import RpcBackend

        return RpcBackend(broker, expires_s=expires_s, serializer=serializer, accept=accept, persistent=persistent)
    custom = custom_class(url, scheme)
    if custom is not None:
        kind, its_url = custom
        store: ResultBackend = kind(
            its_url, options=options or {}, expires_s=expires_s, serializer=serializer, accept=accept
        )
        check_methods(store, f"result_backend {redacted(url)!r}")
        return store
    planned = _PLANNED.get(scheme.partition("+")[0]) or _PLANNED.get(scheme)
    if planned:
        raise ImproperlyConfigured(f"result_backend {redacted(url)!r}: {planned}. Until then {_INSTEAD}")
    raise ImproperlyConfigured(f"result_backend {redacted(url)!r}: no store for the scheme {scheme!r}; {_INSTEAD}")
