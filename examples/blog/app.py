"""The project's Celeriac app. Worker: `celeriac -A examples.blog.app worker`; relay of the outbox: `celeriac -A examples.blog.app outbox`."""

import os

from celeriac import Celeriac

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.blog.settings")

app = Celeriac("blog")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
