"""DjangoTask: calls that belong to the transaction they are made in."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from celeriac.app.task import Task
from celeriac.result import AsyncResult


class DjangoTask(Task):
    """The base of tasks in a Django project; `using` is the alias of a database.

    `…_on_commit` sends after the commit: a crash in between, or a broker that is away, loses the call. `…_in_outbox` writes it into the
    transaction: a crash loses nothing.
    """

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`delay(...)` once the transaction is committed; never when it is rolled back. Without one, at once."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *, using: str | None = None, **options: Any
    ) -> None:  # fmt: skip
        """`apply_async(...)` once the transaction is committed. Raises TypeError now when the arguments do not fit."""
        from django.db import transaction

        self.check_arguments(tuple(args or ()), dict(kwargs or {}))
        transaction.on_commit(partial(self.apply_async, args, kwargs, **options), using=using)

    def delay_in_outbox(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Write the call into the transaction; its handle. Published once that is committed."""
        return self.apply_async_in_outbox(args, kwargs)

    def apply_async_in_outbox(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *, using: str | None = None, **options: Any
    ) -> AsyncResult:  # fmt: skip
        """As `delay_in_outbox`, with the options of apply_async. Needs 'celeriac.contrib.django' in INSTALLED_APPS."""
        from celeriac.contrib.django.outbox import write

        return write(self, tuple(args or ()), dict(kwargs or {}), using, options)


__all__ = ["DjangoTask"]
