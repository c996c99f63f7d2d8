"""What the settings say of results in SQL, as a value: here, so that SQLAlchemy is imported only where it is used."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class SqlOptions(NamedTuple):
    """What the settings database_… say. engine_options: of SQLAlchemy's create_engine. table_…: by the words task and group."""

    engine_options: Mapping[str, Any] = {}
    short_lived_sessions: bool = False
    table_names: Mapping[str, str] = {}
    table_schemas: Mapping[str, str] = {}
    create_tables: bool = True
