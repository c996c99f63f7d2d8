"""The task message of Celery's protocol 2, as a value, and what a worker must read of one to admit it.

Source: celery/app/amqp.py as_task_v2 of 5.7, measured in research/celery.md 3A. `timelimit` is [hard, soft] on the wire.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

#: Our own header: seconds since the epoch at which the client sent the message. Other consumers pass it over.
SENT_AT = "celeriac_sent_at"
#: Our own header: runs of this message that began and lost their worker. Whoever restores an expired claim adds one.
STARTS = "celeriac_starts"
#: Our own headers: the keys by which a call's rate limit and its concurrency are counted, worked out by the client that sends it.
RATE_KEY = "celeriac_rate_key"
CONCURRENCY_KEY = "celeriac_concurrency_key"
#: Our own header: the key that a unique call holds.
UNIQUE = "celeriac_unique"
#: Our own entry beside callbacks and chain, of signed messages: [task, id]. Headers are not signed; so the body says whose it is.
BOUND_TO = "celeriac_bound_to"
#: Our own header on dead letters: {reason, detail, queue, at, by, starts}.
DEATH = "celeriac_death"

#: Our own header: the arguments begin with a failed call's description, its error and its traceback, for an error callback.
ERRBACK = "celeriac_errback"

#: Celery cuts the arguments' representation at this length.
REPR_LIMIT = 1024


class Patience(NamedTuple):
    """How a publish is tried again: at most `retries` times (None: until its time is over), with longer and longer pauses."""

    retries: int | None = None
    start_s: float = 0.0
    step_s: float = 0.2
    most_s: float = 1.0

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each further try."""
        for number in count() if self.retries is None else range(self.retries):
            yield min(self.most_s, self.start_s + number * self.step_s)


class Terms(NamedTuple):
    """What a caller asks of a publish, beyond the message.

    mandatory      a message that no queue would take is an error. delivery_mode: 2 lasting, 1 not.
    timeout_s      of the whole publish, None: as the settings say. exchange_type: of the exchange, "" when the broker knows.
    """

    mandatory: bool = False
    delivery_mode: int = 2
    timeout_s: float | None = None
    patience: Patience = Patience()
    exchange_type: str = ""


#: What holds for a message that asks for nothing.
USUAL = Terms()


class TaskMessage(NamedTuple):
    """What is to be published: headers and body as Python values, and where to.

    body    (args, kwargs, embed) of protocol 2; encoded by the producer with `serializer`. terms: None for the usual ones.
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
    terms: Terms | None = None

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
    terms: Terms | None = None,
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
        body=(args, kwargs, embed or NO_EMBED),
        queue=queue,
        exchange=exchange,
        routing_key=routing_key,
        priority=priority,
        serializer=serializer,
        compression=compression,
        reply_to=reply_to,
        expiration_s=_expiration_s(expires, sent_at, embed) if expires is not None else None,
        due_at=eta.timestamp() if eta is not None else None,
        terms=terms,
    )


def bound(message: TaskMessage) -> TaskMessage:
    """The message, with its body saying whose it is: what is signed as the body of one call is that of no other."""
    args, kwargs, embed = message.body
    return message._replace(body=(args, kwargs, {**embed, BOUND_TO: [message.headers["task"], message.headers["id"]]}))


def _expiration_s(expires: datetime, sent_at: float, embed: Mapping[str, Any] | None) -> float | None:
    """None for what has expired already, and for what others wait for, a chord above all: RabbitMQ would drop it, and nobody would
    mark its result as revoked, nor tell those who wait. The worker does."""
    left_s = expires.timestamp() - sent_at
    return left_s if left_s > 0 and not any((embed or {}).values()) else None


#: What follows from a call that nothing follows from. The one object: it is compared by identity.
NO_EMBED: Mapping[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


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
