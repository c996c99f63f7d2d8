"""What a call asks of its publish: Celery's options of apply_async, and ours, as Terms; the number of a priority.

Every option is honoured, or refused with what to do instead.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celeriac.exceptions import NotSupported
from celeriac.wire.message import USUAL, Patience, Terms

URGENCIES = ("high", "normal", "low")
#: Celery's defaults of a retry policy.
_POLICY = {"max_retries": 3, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 1.0}
#: In a retry policy of Celery's too: every error of the connection is one that a publish is tried again for.
_POLICY_EXTRAS = frozenset({"retry_errors"})
_MODES = {1: 1, 2: 2, "transient": 1, "persistent": 2}
_EXCHANGE_TYPES = frozenset({"", "direct", "topic", "fanout", "headers"})

#: The options that `terms_of` takes out of a call's.
OPTIONS = frozenset({
    "mandatory", "immediate", "delivery_mode", "retry", "retry_policy", "timeout", "confirm_timeout", "exchange_type",
})  # fmt: skip


def terms_of(name: str, options: dict[str, Any], usual: Terms | None) -> Terms | None:
    """The terms of a call. options: of the call; those that are terms are taken out of it. usual: of its task type.

    Raises TypeError and ValueError for values that mean nothing, NotSupported for `immediate`.
    """
    if OPTIONS.isdisjoint(options):
        return usual
    terms = usual or USUAL
    if options.pop("immediate", False):
        refuse_immediate(name)
    mandatory = options.pop("mandatory", None)
    retry, policy = options.pop("retry", None), options.pop("retry_policy", None)
    times = [_seconds(name, option, options.pop(option, None)) for option in ("timeout", "confirm_timeout")]
    timeout_s = min((seconds for seconds in times if seconds is not None), default=terms.timeout_s)
    patience = terms.patience
    if retry is not None and not retry:
        patience = Patience(0)
    elif policy:
        patience = patience_of(name, policy)
    mode = options.pop("delivery_mode", None)
    kind = options.pop("exchange_type", None)
    return Terms(
        mandatory=terms.mandatory if mandatory is None else bool(mandatory),
        delivery_mode=terms.delivery_mode if mode is None else mode_of(name, mode),
        timeout_s=timeout_s,
        patience=patience,
        exchange_type=terms.exchange_type if kind is None else _exchange_type(name, kind),
    )


def type_terms(name: str, options: Any, usual: Terms | None = None) -> Terms | None:
    """The terms of a task type; None for the app's. options: has mandatory, immediate, delivery_mode. usual: the app's."""
    if options.immediate:
        refuse_immediate(name)
    if not options.mandatory and options.delivery_mode is None:
        return None
    terms = usual or USUAL
    mode = terms.delivery_mode if options.delivery_mode is None else mode_of(name, options.delivery_mode)
    return terms._replace(mandatory=bool(options.mandatory), delivery_mode=mode)


def app_terms(*, retry: bool, policy: Mapping[str, Any] | None, delivery_mode: int) -> Terms | None:
    """The terms of calls that ask for nothing, as the settings say; None for the usual ones. Raises TypeError, ValueError for a wrong policy."""
    patience = Patience(0) if not retry else patience_of("", policy) if policy is not None else USUAL.patience
    terms = USUAL._replace(patience=patience, delivery_mode=delivery_mode)
    return None if terms == USUAL else terms


def refuse_immediate(name: str) -> None:
    """Raise NotSupported: no broker of today takes a message only if somebody can run it at once."""
    raise NotSupported(
        f"task {name}: immediate=True is not supported by any broker (RabbitMQ removed it in 3.0)."
        " Use require_consumer=True: it raises NotRoutable when no worker consumes the queue"
    )


def mode_of(name: str, value: Any) -> int:
    """AMQP's delivery mode: 1 or 2. Raises ValueError."""
    mode = _MODES.get(value) if isinstance(value, int | str) else None
    if mode is None:
        raise ValueError(f"task {name}: delivery_mode {value!r} is neither 2 ('persistent') nor 1 ('transient')")
    return mode


def patience_of(name: str, policy: Mapping[str, Any]) -> Patience:
    """Celery's retry_policy as Patience. Raises TypeError for names it does not know, ValueError for values."""
    if not isinstance(policy, Mapping):
        raise TypeError(f"task {name}: retry_policy {policy!r} is not a mapping such as {_POLICY}")
    unknown = policy.keys() - _POLICY.keys() - _POLICY_EXTRAS
    if unknown:
        raise TypeError(
            f"task {name}: retry_policy does not know {', '.join(sorted(unknown))}; it takes {', '.join(_POLICY)}"
        )
    given = {**_POLICY, **policy}
    retries = given["max_retries"]
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ValueError(
            f"task {name}: max_retries {retries!r} of the retry_policy is neither None nor a whole number of 0 or more"
        )
    start_s, step_s, most_s = (
        _seconds(name, option, given[option]) or 0.0 for option in ("interval_start", "interval_step", "interval_max")
    )
    return Patience(retries, start_s, step_s, most_s)


def priority_of(name: str, urgency: Any, *, lowest_first: bool, most: int | None) -> int:
    """The number that means this urgency. lowest_first: 0 is the most urgent (Redis, memory), else the highest number (RabbitMQ).

    most   the highest number that RabbitMQ tells apart, task_queue_max_priority; None: 9. Raises ValueError.
    """
    if urgency not in URGENCIES:
        raise ValueError(f"task {name}: urgency {urgency!r} is none of {', '.join(map(repr, URGENCIES))}")
    place = URGENCIES.index(urgency)
    if lowest_first:
        return (0, 3, 6)[place]
    top = 9 if most is None else most
    return (top, top // 2, 0)[place]


def check_priority(name: str, priority: Any) -> int:
    """A raw priority, 0 to 255. Raises TypeError, ValueError."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"task {name}: priority {priority!r} is not a whole number; urgency='high' is a word for it")
    if not 0 <= priority <= 255:
        raise ValueError(f"task {name}: priority {priority} is not within 0 to 255")
    return priority


def _exchange_type(name: str, value: Any) -> str:
    if value not in _EXCHANGE_TYPES:
        raise ValueError(f"task {name}: exchange_type {value!r} is none of 'direct', 'topic', 'fanout', 'headers'")
    return str(value)


def _seconds(name: str, option: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"task {name}: {option} {value!r} is not a number of seconds")
    return float(value)


__all__ = [
    "OPTIONS",
    "URGENCIES",
    "app_terms",
    "check_priority",
    "mode_of",
    "patience_of",
    "priority_of",
    "terms_of",
    "type_terms",
]
