"""Import paths that Celery's users know."""
