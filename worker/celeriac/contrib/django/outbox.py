"""The outbox in a Django project's database: see contrib/outbox.py."""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router, transaction
from django.db.models import F

from celeriac.app.base import Celeriac
from celeriac.contrib.outbox import OWN_S, Fast, Row, message_for
from celeriac.exceptions import BackendUnavailable, ImproperlyConfigured
from celeriac.result import AsyncResult


def write(task: Any, args: Any, kwargs: Any, using: str | None, options: dict[str, Any]) -> AsyncResult:
    """Write a call into the transaction of a database; its handle."""
    app: Celeriac = task.app
    message, text = message_for(app, task, args, kwargs, options)
    model = _model()
    alias = using or router.db_for_write(model)
    now = time.time()
    row = model.objects.using(alias).create(
        task_id=message.id, message=text, made_at=now, free_at=now + OWN_S, tries=0, trouble=""
    )
    transaction.on_commit(partial(_publish, app, alias, row.pk, message), using=alias)
    return app.AsyncResult(message.id)


def _publish(app: Celeriac, alias: str, place: int, message: Any) -> None:
    if _fast(app).publish(message):
        try:
            DjangoRows(alias).delete([place])
        except BackendUnavailable:
            return  # it is published; the relay will publish it once more, with the same id


@cache
def _fast(app: Celeriac) -> Fast:
    return Fast(app)


def _model() -> Any:
    if not apps.is_installed("celeriac.contrib.django"):
        raise ImproperlyConfigured(
            "the outbox has no table: add 'celeriac.contrib.django' to INSTALLED_APPS and run `migrate`"
        )
    return apps.get_model("celeriac", "OutboxMessage")


class DjangoRows:
    """Rows of the outbox in one of Django's databases."""

    def __init__(self, alias: str = DEFAULT_DB_ALIAS) -> None:
        self._alias = alias

    def take(self, most: int, taken_s: float) -> list[Row]:
        """See contrib/outbox.py: Rows."""
        if not connections[self._alias].in_atomic_block:
            connections[
                self._alias
            ].close_if_unusable_or_obsolete()  # the last one may be hours old, or its server gone
        now, mark = time.time(), uuid.uuid4().hex
        taken = {"free_at": now + taken_s, "taken_by": mark}
        with self._errors(), transaction.atomic(using=self._alias):
            rows = _model().objects.using(self._alias)
            free = rows.filter(free_at__lte=now).order_by("place")
            if connections[self._alias].features.has_select_for_update_skip_locked:
                locked = list(free.select_for_update(skip_locked=True)[:most])
                if locked:
                    rows.filter(pk__in=[row.pk for row in locked]).update(**taken)
                return [Row(row.pk, row.message, row.tries) for row in locked]
            # One statement takes them: nothing comes in between.
            if not rows.filter(pk__in=free.values("pk")[:most]).update(**taken):
                return []
            return [Row(row.pk, row.message, row.tries) for row in rows.filter(taken_by=mark).order_by("place")]

    def delete(self, places: Iterable[int]) -> None:
        """See contrib/outbox.py: Rows."""
        with self._errors():
            _model().objects.using(self._alias).filter(pk__in=list(places)).delete()

    def put_off(self, places: Iterable[int], for_s: float, trouble: str = "") -> None:
        """See contrib/outbox.py: Rows."""
        with self._errors():
            _model().objects.using(self._alias).filter(pk__in=list(places)).update(
                free_at=time.time() + for_s, tries=F("tries") + (1 if trouble else 0), trouble=trouble
            )

    def waiting(self) -> tuple[int, float | None]:
        """See contrib/outbox.py: Rows."""
        with self._errors():
            rows = _model().objects.using(self._alias)
            oldest = rows.order_by("made_at").first()
            return rows.count(), None if oldest is None else time.time() - oldest.made_at

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            raise BackendUnavailable(
                f"the outbox's database {self._alias!r} did not do what was asked: {error}"
            ) from error


__all__ = ["DjangoRows", "write"]
