"""Celeriac in a Django project: tasks that wait for the commit, an outbox table, connections kept in order around tasks.

An app that is made where DJANGO_SETTINGS_MODULE is set gets all but the table, as with Celery. For the table (the outbox) add
'celeriac.contrib.django' to INSTALLED_APPS and run `migrate`.
"""

from celeriac.contrib.django.task import DjangoTask

__all__ = ["DjangoTask"]
