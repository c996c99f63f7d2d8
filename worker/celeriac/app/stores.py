"""The result store that the settings describe."""

from celeriac.app import addresses
from celeriac.backends import open_backend
from celeriac.backends.base import ResultBackend
from celeriac.backends.sql_options import SqlOptions
from celeriac.broker.codec import content_types
from celeriac.config import Settings
from celeriac.exceptions import ImproperlyConfigured


def open_store(conf: Settings, url: str | None = None) -> ResultBackend:
    """The store at `url`, else at what result_backend means. Connects at the first use. Raises ImproperlyConfigured."""
    chosen = url if url is not None else addresses.result_url(conf)
    if chosen == "database":  # the guide's name
        if not conf.database_url:
            raise ImproperlyConfigured(
                "result_backend is database, and database_url (CELERY_RESULT_DBURI) names no database"
            )
        chosen = f"db+{conf.database_url.removeprefix('db+')}"
    sql = SqlOptions(
        conf.database_engine_options, conf.database_short_lived_sessions, conf.database_table_names or {},
        conf.database_table_schemas or {}, conf.database_create_tables_at_setup,
    )  # fmt: skip
    return open_backend(
        chosen, options=addresses.result_options(conf), expires_s=conf.result_expires, serializer=conf.result_serializer,
        accept=content_types(conf.result_accept_content or conf.accept_content), compression=conf.result_compression, sql=sql,
        broker=addresses.publish_address(conf), persistent=conf.result_persistent,
    )  # fmt: skip
