"""Storing where tasks have stores of their own: each record where its task's results are."""

from collections.abc import Sequence

from celeriac.app.base import Celeriac
from celeriac.app.task import Task
from celeriac.backends.base import ResultBackend
from celeriac.exceptions import BackendUnavailable
from celeriac.wire.result import ResultMeta


def store_each(app: Celeriac, records: Sequence[tuple[Task, ResultMeta, bytes | None]]) -> list[Exception | None]:
    """As ResultBackend.store, over the stores of these tasks. Raises BackendUnavailable when the app's own cannot be reached.

    Another one that cannot be reached is the answer for its records alone: tasks with the app's store do not wait for it.
    """
    errors: list[Exception | None] = [None] * len(records)
    by_store: dict[int, tuple[ResultBackend, list[int]]] = {}
    for place, (task, _, _) in enumerate(records):
        store = app.store_of(task)
        by_store.setdefault(id(store), (store, []))[1].append(place)
    for store, places in by_store.values():
        try:
            found = store.store([records[place][1:] for place in places])
        except BackendUnavailable as error:
            if store is app.backend:
                raise
            found = [error] * len(places)
        for place, refusal in zip(places, found, strict=True):
            errors[place] = refusal
    return errors
