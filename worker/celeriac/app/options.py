"""What a call may be asked for: the names of options, what their values mean, and a word for who has mistyped one."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celeriac.exceptions import NotSupported
from celeriac.policy.calling import OPTIONS

#: What apply_async takes, for who has mistyped it.
_NAMES = (
    *OPTIONS, "countdown", "eta", "expires", "task_id", "queue", "exchange", "routing_key", "priority", "urgency", "serializer", "compression",
    "headers", "shadow", "argsrepr", "kwargsrepr",
    "time_limit", "soft_time_limit", "ignore_result", "link", "link_error", "reply_to", "require_consumer", "root_id",
    "parent_id", "group_id", "group_index", "retries", "connection", "producer",
)  # fmt: skip

#: Options of signatures that no call takes: stamps, how often a call was replaced, and what means nothing to us.
_OF_SIGNATURES = frozenset(["stamped_headers", "replaced_task_nesting", "add_to_parent", "interval", "max_retries"])

#: Options that a call knows; those of other clients' signatures that are none of these are left out.
CALL_OPTIONS = frozenset([*_NAMES, "chain", "chord"])


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for options of a part of a workflow that nobody knows: who sends it later, a worker, could not ask."""
    unknown = options.keys() - CALL_OPTIONS - _OF_SIGNATURES - set(options.get("stamped_headers") or ())
    if unknown:
        raise TypeError(f"task {name}: apply_async does not know {', '.join(map(_with_nearest, sorted(unknown)))}")


def embedded(name: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """callbacks, errbacks, chain and chord of the options; anything left that we do not know is an error of the caller's."""
    link, link_error = options.pop("link", None), options.pop("link_error", None)
    chain, chord = options.pop("chain", None), options.pop("chord", None)
    if options:
        options.pop("add_to_parent", None)
        for own in (
            "require_consumer",
            "connection",
            "producer",
        ):  # of what is sent on its own; here it is sent with others
            if options.pop(own, None):
                raise NotSupported(
                    f"task {name}: {own} is not kept for a part of a chain, group or chord; set it on the task, or leave it out"
                )
    if options:
        raise TypeError(f"task {name}: apply_async does not know {', '.join(map(_with_nearest, sorted(options)))}")
    if not (link or link_error or chain or chord):
        return None
    return {"callbacks": listed(link), "errbacks": listed(link_error), "chain": chain, "chord": chord}


def _with_nearest(option: str) -> str:
    import difflib  # only for who has mistyped one

    near = difflib.get_close_matches(option, _NAMES, n=1)
    return f"{option} (did you mean {near[0]}?)" if near else option


def listed(value: Any) -> list[Any] | None:
    """Signatures, one or several, as a message holds them; None for none."""
    return None if not value else list(value) if isinstance(value, list | tuple) else [value]


def moment(value: Any, now: datetime) -> datetime | None:
    """An aware datetime out of one (naive means UTC), its ISO 8601 text, a timedelta, or seconds from now. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if isinstance(value, timedelta):
        return now + value
    try:
        return now + timedelta(seconds=float(value))
    except OverflowError as error:
        raise ValueError(f"{value!r} seconds from now is beyond the year 9999") from error
