"""What a test may call to see that a worker answers."""

from celeriac.compat import shared_task


@shared_task(name="celery.ping")
def ping() -> str:
    """ "pong"."""
    return "pong"
