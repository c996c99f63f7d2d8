"""What is done for a record that not every record needs: a store of its task's own, and the arguments of its call."""

from collections.abc import Collection, Sequence

from celeriac.app.base import Celeriac
from celeriac.app.task import Task
from celeriac.backends.base import ResultBackend
from celeriac.broker.codec import decode
from celeriac.broker.consumer import Delivery, payload
from celeriac.exceptions import BackendUnavailable, DecodeError
from celeriac.wire.message import split_body
from celeriac.wire.result import ResultMeta, with_arguments


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


def with_call(meta: ResultMeta, delivery: Delivery, accept: Collection[str]) -> ResultMeta:
    """The record with the arguments of its call, as result_extended asks; as their reprs when the body cannot be read."""
    try:
        headers = delivery.headers
        body = decode(
            payload(delivery), delivery.content_type, delivery.content_encoding, accept, headers.get("compression")
        )
        args, kwargs, _ = split_body(body)
    except (DecodeError, ValueError, TypeError):  # whoever wants to run it is told of that
        return meta
    return with_arguments(meta, args, kwargs)
