"""The Django project: as small as it gets with a form, sites and sessions of nobody. What differs by place comes from the environment."""

import os

SECRET_KEY = os.environ.get("BLOG_SECRET_KEY", "only for the demo")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "examples.blog.urls"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.sites",
    "celeriac.contrib.django",  # the outbox's table
    "examples.blog",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BLOG_DATABASE", "blog.sqlite3"),
        # Web and worker write to one file: who begins a transaction to write waits for the other one.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SITE_ID = 1
USE_TZ = True
TIME_ZONE = "UTC"  # Django would set Chicago's for the whole process, and log lines with it

AKISMET_KEY = os.environ.get("AKISMET_KEY", "")
AKISMET_URL = os.environ.get("AKISMET_URL", "https://rest.akismet.com")

# Broker and result store come from CELERIAC_BROKER_URL and CELERIAC_RESULT_BACKEND.
CELERY_TASK_DEFAULT_QUEUE = "blog"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.request": {"handlers": ["console"], "level": "ERROR"}},
}
