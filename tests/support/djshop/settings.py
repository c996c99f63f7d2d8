"""A Django project's settings; the database and the broker come from the environment."""

import os
from urllib.parse import urlsplit

_url = urlsplit(os.environ["DATABASE"])
_sqlite = _url.scheme == "sqlite"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _url.path}
    if _sqlite
    else {
        "ENGINE": "django.db.backends.postgresql", "NAME": _url.path[1:], "HOST": _url.hostname, "PORT": _url.port, "USER": _url.username
    }
}  # fmt: skip
INSTALLED_APPS = ["djshop.blog", "celeriac.contrib.django"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "of a test"
USE_TZ = True

CELERY_BROKER_URL = os.environ["BROKER"]
CELERY_RESULT_BACKEND = os.environ["BACKEND"]
CELERY_TASK_DEFAULT_QUEUE = "blog"
