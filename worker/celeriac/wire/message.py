"""The task message of Celery's protocol 2, as a value, and what a worker must read of one to admit it.

Source: celery/app/amqp.py as_task_v2 of 5.7, measured in research/celery.md 3A. `timelimit` is [hard, soft] on the wire.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

#: Our own header: seconds since the epoch at which the client sent the message. Other consumers pass it over.
SENT_AT = "celeriac_sent_at"
#: Our own header: runs of this message that began and lost their worker. Whoever restores an expired claim adds one.
STARTS = "celeriac_starts"
#: Our own headers: the keys by which a call's rate limit and its concurrency are counted, worked out by the client that sends it.
RATE_KEY = "celeriac_rate_key"
CONCURRENCY_KEY = "celeriac_concurrency_key"
#: Our own header on dead letters: {reason, detail, queue, at, by, starts}.
DEATH = "celeriac_death"

#: Celery cuts the arguments' representation at this length.
REPR_LIMIT = 1024


class TaskMessage(NamedTuple):
    """What is to be published: headers and body as Python values, and where to.

    body    (args, kwargs, embed) of protocol 2; encoded by the producer with `serializer`.
    due_at  seconds since the epoch before which it must not run (the ETA), None: at once.
    """

    headers: dict[str, Any]
    body: tuple[Any, ...]
    queue: str
    exchange: str = ""
    routing_key: str = ""
    priority: int = 0
    serializer: str = "json"
    compression: str | None = None
    reply_to: str = ""
    expiration_s: float | None = None
    due_at: float | None = None

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.headers["id"])


def short_repr(value: object) -> str:
    """repr(value), at most REPR_LIMIT characters; never raises: users' objects may."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not stop a publish
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= REPR_LIMIT else text[: REPR_LIMIT - 3] + "..."


def compose(
    *,
    id: str,
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    queue: str,
    origin: str,
    sent_at: float,
    exchange: str = "",
    routing_key: str = "",
    priority: int = 0,
    serializer: str = "json",
    compression: str | None = None,
    reply_to: str = "",
    eta: datetime | None = None,
    expires: datetime | None = None,
    retries: int = 0,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    root_id: str | None = None,
    parent_id: str | None = None,
    group: str | None = None,
    group_index: int | None = None,
    shadow: str | None = None,
    ignore_result: bool = False,
    headers: Mapping[str, Any] | None = None,
    embed: Mapping[str, Any] | None = None,
) -> TaskMessage:
    """The message of one call. `headers` of the caller are merged flat; `embed` holds callbacks, errbacks, chain, chord."""
    fixed: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": id,
        "shadow": shadow,
        "eta": eta.isoformat() if eta is not None else None,
        "expires": expires.isoformat() if expires is not None else None,
        "group": group,
        "group_index": group_index,
        "retries": retries,
        "timelimit": [time_limit, soft_time_limit],
        "root_id": root_id or id,
        "parent_id": parent_id,
        "argsrepr": short_repr(args),
        "kwargsrepr": short_repr(kwargs),
        "origin": origin,
        "ignore_result": ignore_result,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        SENT_AT: sent_at,
    }
    if headers:
        fixed.update(headers)
    return TaskMessage(
        headers=fixed,
        body=(args, kwargs, embed or _NO_EMBED),
        queue=queue,
        exchange=exchange,
        routing_key=routing_key,
        priority=priority,
        serializer=serializer,
        compression=compression,
        reply_to=reply_to,
        expiration_s=(expires.timestamp() - sent_at) if expires is not None else None,
        due_at=eta.timestamp() if eta is not None else None,
    )


_NO_EMBED: Mapping[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def parse_time(text: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 time; a time without an offset is UTC. None for None.

    Raises ValueError for anything else.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except TypeError as error:
        raise ValueError(f"not an ISO 8601 time: {text!r}") from error
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def split_body(body: Any) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
    """args, kwargs and embed of a decoded body, of protocol 2 or 1. Raises ValueError when it is neither."""
    match body:
        case [list() | tuple() as args, dict() as kwargs, dict() as embed]:
            return args, kwargs, embed
        case [list() | tuple() as args, dict() as kwargs, None]:
            return args, kwargs, {}
        case {"task": _, "id": _}:  # protocol 1: everything in the body
            return body.get("args") or (), body.get("kwargs") or {}, {}
        case _:
            raise ValueError(f"the body is not [args, kwargs, embed]: {body!r:.200}")
