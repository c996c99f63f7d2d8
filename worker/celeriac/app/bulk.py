"""Many calls in one go: their messages by the thousand, a few publishes. Here are methods of `Celeriac`, as functions of the app."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app.calls import handle, lent, require_consumer, tell
from celeriac.app.context import current
from celeriac.app.once import check_many
from celeriac.app.task import Task
from celeriac.broker.producer import Producer, after_others
from celeriac.exceptions import EncodeError, OperationalError
from celeriac.result import AsyncResult
from celeriac.wire.message import TaskMessage

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

#: Calls of send_many whose messages are in memory at once.
_LOT = 1000


def send_many(
    app: "Celeriac", name: str, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], *, task_type: Task | None = None,
    countdown: float | None = None, eta: datetime | None = None, expires: Any = None, **options: Any,
) -> list[AsyncResult]:  # fmt: skip
    """Send a task by name once for each (args, kwargs) of `calls`, by the thousand; see Task.send_many."""
    producer = lent(app, name, options.pop("connection", None), options.pop("producer", None))
    required = options.pop("require_consumer", None)
    running = current.get() if options.pop("add_to_parent", True) else None
    shadow = task_type.shadow_name if task_type is not None and task_type._shadows else None
    if options.get("shadow") is not None:
        shadow = None
    results: list[AsyncResult] = []
    remaining = iter(calls)
    while lot := list(islice(remaining, _LOT)):
        messages = [
            app.message(
                name, args, kwargs, task_type, countdown=countdown, eta=eta, expires=expires, task_id=None,
                options=options.copy() if shadow is None else options | {"shadow": shadow(args, kwargs, options)},
            )
            for args, kwargs in lot
        ]  # fmt: skip
        if required:
            for message in {message.queue: message for message in messages}.values():
                require_consumer(app, message)
        try:
            app.publish_many(messages, producer)
        except (OperationalError, EncodeError) as error:
            if not results:
                raise
            raise after_others(error, len(results)) from error
        if running is not None:
            for message in messages:
                running.add_child(message.headers["id"])
        results += map(partial(handle, app), messages)
    return results


def publish_many(app: "Celeriac", messages: Sequence[TaskMessage], producer: Producer | None = None) -> None:
    """Publish messages made by `message`, all in a few goes; see broker/producer.py: Producer.publish_many, for what it raises."""
    types = {name: app._registry.tasks.get(name) for name in {message.headers["task"] for message in messages}}
    check_many(types.values())
    asking = {name for name, task in types.items() if task is not None and task.require_consumer}
    if asking:
        for message in {each.queue: each for each in messages if each.headers["task"] in asking}.values():
            require_consumer(app, message)
    if signals.before_task_publish.receivers:
        for message in messages:
            tell(signals.before_task_publish, message)
    (producer or app.producer).publish_many(messages)
    if app._sent_events is not None:
        for message in messages:
            app._sent_events.tell(message)
    if signals.after_task_publish.receivers:
        for message in messages:
            tell(signals.after_task_publish, message)
