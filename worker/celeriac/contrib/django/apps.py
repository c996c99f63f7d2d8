"""Django's side of the package: its name in INSTALLED_APPS."""

from django.apps import AppConfig


class CeleriacConfig(AppConfig):
    """The outbox's table."""

    name = "celeriac.contrib.django"
    label = "celeriac"
    verbose_name = "Celeriac"
    default_auto_field = "django.db.models.BigAutoField"
