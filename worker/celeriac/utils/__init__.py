"""Import paths that Celery's users know."""

from celeriac.ids import new_id as uuid

__all__ = ["uuid"]
