"""What follows from an outcome: what is stored, what is published, what becomes of the message, what is told.

The one place where a task's fate is decided. The order in which a settlement is applied never changes: store, publish, ack,
observe; a crash between any two of them leads to a second delivery, never to a lost task or result.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, assert_never

from celeriac import states
from celeriac.exceptions import NotRegistered, Reject, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from celeriac.policy.admission import REFUSED
from celeriac.policy.outcome import Failed, Ignored, Lost, Outcome, Rejected, RetryAsked, Revoked, Succeeded, Unreadable
from celeriac.wire.chord import ChordStart
from celeriac.wire.message import DEATH, STARTS, TaskMessage, compose, parse_time, short_repr
from celeriac.wire.result import ResultMeta, exception_to_wire

ACK = "ack"
REQUEUE = "requeue"  # to the back of its queue
DEAD = "dead"  # published to the dead-letter queue, then acknowledged
AGAIN = "again"  # to the back of its queue, with one start more


class Settlement(NamedTuple):
    """state: the counter's word (succeeded, failed, retried, rejected, revoked, expired, ignored, requeued, dead_lettered).

    store   the record to write, None for none; `encoded` is the same already in bytes.
    chords  to be opened before `publish`. part: its end as a member of a chord's header, encoded, when it has succeeded.
    publish messages that follow (a retry), published together with the ack. death: what to write on a dead letter.
    retry_at  seconds since the epoch at which the same message, as it came, is to run with one retry more.
    """

    state: str
    then: str = ACK
    store: ResultMeta | None = None
    encoded: bytes | None = None
    publish: tuple[TaskMessage, ...] = ()
    death: Mapping[str, Any] | None = None
    error: BaseException | None = None
    traceback: str | None = None
    chords: tuple[ChordStart, ...] = ()
    part: bytes | None = None
    retry_at: float | None = None


_SUCCEEDED = Settlement("succeeded")
_UNKNOWN_TASK = (
    "task {} is not registered on this worker: is its module imported (settings imports, include),"
    " and do client and worker run the same version of the app?"
)
_IGNORED = Settlement("ignored")


class Rules(NamedTuple):
    """What a task type says about its settlements."""

    ignore_result: bool = False
    store_errors: bool = False  # even if results are ignored
    result_extended: bool = False
    serializer: str = "json"
    #: Whether it runs again when its process goes away under it; never when it was acknowledged before. At most so many starts.
    again_when_lost: bool = False
    max_starts: int = 5
    #: Whether a failure leaves a dead letter; whether it runs again, up to the same cap, when it ran into its hard time limit.
    dies_when_failed: bool = False
    again_when_late: bool = False
    #: Seconds until it is retried when its process goes away under it, None: it is not; at most so many retries, None: any number.
    retry_lost_s: float | None = None
    max_retries: int | None = None
    #: Whether monitors listen, and are told what it returned.
    shown: bool = False


def settle(
    outcome: Outcome, headers: Mapping[str, Any], rules: Rules, *, queue: str, hostname: str, now: float
) -> Settlement:
    """The settlement of one outcome. now: seconds since the epoch."""
    match outcome:
        case Succeeded(value, encoded, follow, _, chords, part):
            if encoded is None:  # the result is ignored, or nothing keeps it
                if not follow and part is None:
                    return _SUCCEEDED
                return Settlement("succeeded", publish=follow, chords=chords, part=part)
            whole = ResultMeta(headers["id"], states.SUCCESS, value)  # all of it is in `encoded`
            return Settlement("succeeded", store=whole, encoded=encoded, publish=follow, chords=chords, part=part)
        case Failed():
            return _failed(outcome, headers, rules, queue=queue, hostname=hostname, now=now)
        case RetryAsked(error, traceback):
            again = outcome.again or next_run(outcome, headers, rules, queue, now)
            shown = error if error is not None else RuntimeError("retry")
            meta = (
                None
                if rules.ignore_result
                else _meta(headers, states.RETRY, exception_to_wire(shown), traceback, rules, queue, hostname, now)
            )
            return Settlement("retried", store=meta, publish=(again,), error=error, traceback=traceback)
        case Rejected(_, requeue) if requeue:
            return Settlement("requeued", REQUEUE)
        case Rejected(reason, _, follow, chords):  # it never runs again: who waits for it, and its chord, must know
            error = Reject(reason)
            return Settlement(
                "rejected", DEAD, store=_error_meta(headers, states.FAILURE, error, None, rules, queue, hostname, now),
                publish=follow, death=_death("rejected", reason, headers, queue, hostname, now), error=error, chords=chords,
            )  # fmt: skip
        case Ignored(follow, chords):
            return Settlement("ignored", publish=follow, chords=chords) if follow else _IGNORED
        case Revoked(why, _):
            error = TaskRevokedError(why)
            return Settlement(
                "expired" if why == "expired" else "revoked",
                store=_error_meta(headers, states.REVOKED, error, None, rules, queue, hostname, now),
                error=error,
            )
        case Lost():
            return _lost(outcome, headers, rules, queue=queue, hostname=hostname, now=now)
        case Unreadable(error, reason):
            detail = _UNKNOWN_TASK.format(error) if reason == "unknown_task" else str(error)
            detail = REFUSED.get(detail, detail)
            death = _death(reason, detail, headers, queue, hostname, now)
            named = isinstance(headers.get("id"), str)
            meta = _error_meta(headers, states.FAILURE, error, None, rules, queue, hostname, now) if named else None
            return Settlement("dead_lettered", DEAD, store=meta, death=death, error=error)
        case _ as never:
            assert_never(never)


def _failed(
    outcome: Failed, headers: Mapping[str, Any], rules: Rules, *, queue: str, hostname: str, now: float
) -> Settlement:
    """It has failed, and may leave a dead letter; or it ran into its hard limit, and its type lets it run again."""
    error, traceback, _, follow, chords = outcome
    then, death = ACK, None
    if rules.again_when_late and isinstance(error, TimeLimitExceeded):
        starts = _starts(headers) + 1
        if starts < rules.max_starts:
            return Settlement("requeued", AGAIN, error=error)
        detail = f"started {starts} times, and each time it ran into its hard limit, or its process was lost; at last {error!r}"
        then, death = DEAD, {**_death("time_limit", detail, headers, queue, hostname, now), "starts": starts}
    elif rules.dies_when_failed:
        then, death = DEAD, _death("failed", short_repr(error), headers, queue, hostname, now)
    store = _error_meta(headers, states.FAILURE, error, traceback, rules, queue, hostname, now)
    return Settlement("failed", then, store, None, follow, death, error, traceback, chords)


def _starts(headers: Mapping[str, Any]) -> int:
    before = headers.get(STARTS)
    return before if isinstance(before, int) else 0


def _lost(
    outcome: Lost,
    headers: Mapping[str, Any],
    rules: Rules,
    *,
    queue: str,
    hostname: str,
    now: float,
) -> Settlement:
    """A retry, or once more and then a dead letter, where its type says so; else it has failed."""
    reason, follow, chords = outcome
    error = WorkerLostError(reason)
    again = rules.again_when_lost
    if rules.retry_lost_s is not None:
        retries = headers.get("retries")
        if rules.max_retries is None or (retries if isinstance(retries, int) else 0) < rules.max_retries:
            record = exception_to_wire(error)
            meta = (
                None if rules.ignore_result else _meta(headers, states.RETRY, record, None, rules, queue, hostname, now)
            )
            return Settlement("retried", store=meta, error=error, retry_at=now + rules.retry_lost_s)
        again = False  # as Celery: its retries are used up
    starts = _starts(headers) + 1
    if again and starts < rules.max_starts:
        return Settlement("requeued", AGAIN, error=error)
    store = _error_meta(headers, states.FAILURE, error, None, rules, queue, hostname, now)
    if not again:
        death = _death("failed", reason, headers, queue, hostname, now) if rules.dies_when_failed else None
        return Settlement("failed", DEAD if death else ACK, store, None, follow, death, error, None, chords)
    detail = f"started {starts} times, and each time its process was lost; at last {reason}"
    death = {**_death("worker_lost", detail, headers, queue, hostname, now), "starts": starts}
    return Settlement("dead_lettered", DEAD, store=store, publish=follow, death=death, error=error, chords=chords)


def untold(
    found: Settlement, why: str, headers: Mapping[str, Any], *, queue: str, hostname: str, now: float
) -> Settlement:
    """The settlement of a call whose end, or what it means for others, no record can tell: its message is a dead letter that does."""
    if found.then != ACK:
        return found
    return found._replace(then=DEAD, death=_death("result_refused", why, headers, queue, hostname, now))


def next_run(asked: RetryAsked, headers: Mapping[str, Any], rules: Rules, queue: str, now: float) -> TaskMessage:
    """The same call once more: same id, one retry more; everything that the message carried stays."""
    options = dict(asked.options)
    own = {name: value for name, value in headers.items() if name not in _COMPOSED and name not in _OF_ONE_DELIVERY}
    limits, retries = headers.get("timelimit"), headers.get("retries")
    hard, soft = limits if isinstance(limits, list | tuple) and len(limits) == 2 else (None, None)
    expires_at = parse_time(headers.get("expires"))
    expires = options.pop("expires", None) or (datetime.fromtimestamp(expires_at, UTC) if expires_at else None)
    return compose(
        id=headers["id"],
        task=headers["task"],
        args=asked.args,
        kwargs=asked.kwargs,
        queue=options.pop("queue", None) or queue,
        origin=headers.get("origin") or "",
        sent_at=now,
        priority=options.pop("priority", None) or 0,
        serializer=options.pop("serializer", None) or rules.serializer,
        compression=options.pop("compression", None) or headers.get("compression"),
        reply_to=options.pop("reply_to", None) or "",
        eta=datetime.fromtimestamp(asked.due_at, UTC) if asked.due_at > now else None,
        expires=expires,
        retries=(retries if isinstance(retries, int) else 0) + 1,
        time_limit=options.pop("time_limit", hard),
        soft_time_limit=options.pop("soft_time_limit", soft),
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        group=headers.get("group"),
        group_index=headers.get("group_index"),
        shadow=options.pop("shadow", None) or headers.get("shadow"),
        ignore_result=bool(options.pop("ignore_result", headers.get("ignore_result"))),
        headers={**own, **(options.pop("headers", None) or {})},
        embed=options.pop("embed", None),
    )


#: Headers that say how a message was delivered or packed, not what was asked for.
_OF_ONE_DELIVERY = frozenset([STARTS, DEATH, "redelivered", "compression"])
_COMPOSED = frozenset(
    [
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "celeriac_sent_at",
    ]
)


def _meta(
    headers: Mapping[str, Any],
    status: str,
    result: Any,
    traceback: str | None,
    rules: Rules,
    queue: str,
    hostname: str,
    now: float,
) -> ResultMeta:
    extra: dict[str, Any] = {}
    if headers.get("group"):
        extra["group_id"] = headers["group"]
    if headers.get("parent_id"):
        extra["parent_id"] = headers["parent_id"]
    if rules.result_extended:
        extra |= {
            "name": headers.get("task"), "args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr"),
            "worker": hostname, "retries": headers.get("retries") or 0, "queue": queue,
        }  # fmt: skip
    done = datetime.fromtimestamp(now, UTC).isoformat() if status in states.READY_STATES else None
    return ResultMeta(str(headers["id"]), status, result, traceback, done, (), extra)


#: The SUCCESS record of a run, for those who encode it where it ran.
success_meta = _meta


def _error_meta(
    headers: Mapping[str, Any],
    status: str,
    error: BaseException,
    traceback: str | None,
    rules: Rules,
    queue: str,
    hostname: str,
    now: float,
) -> ResultMeta | None:
    if rules.ignore_result and not rules.store_errors:
        return None
    described = exception_to_wire(error)
    if isinstance(error, NotRegistered | TaskRevokedError | Reject):
        described["exc_module"] = "celery.exceptions"  # so that Celery's own clients rebuild their own class
    return _meta(headers, status, described, traceback, rules, queue, hostname, now)


def _death(
    reason: str, detail: str, headers: Mapping[str, Any], queue: str, hostname: str, now: float
) -> dict[str, Any]:
    return {
        "reason": reason,
        "detail": detail[:1000],
        "queue": queue,
        "at": now,
        "by": hostname,
        "starts": headers.get(STARTS) or 0,
    }


__all__ = [
    "ACK",
    "AGAIN",
    "DEAD",
    "DEATH",
    "REQUEUE",
    "Rules",
    "Settlement",
    "next_run",
    "settle",
    "success_meta",
    "untold",
]
