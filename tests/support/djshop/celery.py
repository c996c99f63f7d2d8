"""The project's app, as Celery's guide to Django has it."""

from celeriac import Celeriac

app = Celeriac("djshop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
