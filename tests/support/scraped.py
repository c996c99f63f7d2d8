"""A scrape's page, without HTTP."""

from collections.abc import Iterable

from celeriac.telemetry.exposition import Family


def page_of(families: Iterable[Family]) -> str:
    """The text that a scrape gets."""
    return b"".join(family.text() for family in families).decode()
