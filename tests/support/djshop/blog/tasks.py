"""The project's tasks."""

import os

from django.db import connection

from celeriac import shared_task


@shared_task
def index(article: int) -> str:
    """The guide's race: the article must be there when this runs."""
    from djshop.blog.models import Article

    return str(Article.objects.get(pk=article).title)


@shared_task
def connections() -> list[int]:
    """The process that runs this, and whether it came with a connection of another one's."""
    came_with = connection.connection is not None
    connection.ensure_connection()
    return [os.getpid(), int(came_with)]
