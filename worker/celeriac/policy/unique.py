"""Unique calls: of those with the same key, one waits or runs at a time, or one is made in a stretch of time. What the key of a call is."""

import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from celeriac.policy.throttle import SEP, key_of

#: Until when a key is held, at most `unique_for` seconds: the task has ended, it starts, or just that time.
UNTIL = ("done", "start", "expiry")
#: Options that make a call a part of something that waits for it under its own id.
_OF_A_WHOLE = ("group_id", "chord", "chain")


class Unique(NamedTuple):
    """What a task type says of its unique calls. for_s: seconds that a key is held at most; until: one of UNTIL; spec: see throttle.key_of, None:
    all arguments."""

    for_s: float
    until: str
    spec: Any


def unique_of(options: Any) -> Unique | None:
    """What the options ask for; None: nothing. options: has unique_for, unique_key, unique_until. Raises ValueError."""
    for_s, spec, until = options.unique_for, options.unique_key, options.unique_until
    if for_s is None:
        if spec is not None or until is not None:
            raise ValueError(
                "unique_key and unique_until say nothing without unique_for, the seconds that a key is held at most"
            )
        return None
    seconds = for_s.total_seconds() if isinstance(for_s, timedelta) else for_s
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 10**9:
        raise ValueError(f"unique_for {for_s!r} is not a number of seconds above 0")
    until = "done" if until is None else until
    if until not in UNTIL:
        raise ValueError(f"unique_until {until!r} is none of {', '.join(map(repr, UNTIL))}")
    if spec is not None and not callable(spec) and not (isinstance(spec, str) and all(spec.split("."))):
        raise ValueError(
            f"unique_key {spec!r} is not the name of an argument, a dotted path ('order.account') or a function of (args, kwargs)"
        )
    return Unique(float(seconds), until, spec)


def refused_option(options: Mapping[str, Any]) -> str | None:
    """The option of a call that does not go with uniqueness: somebody waits for this very id."""
    return next((name for name in _OF_A_WHOLE if options.get(name)), None)


def unique_key(
    task: str, unique: Unique, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None
) -> str:
    """The key of a call, with its task's name. signature: of the body without `self`. Raises ValueError when there is none."""
    if unique.spec is not None:
        return f"{task}{SEP}{key_of(unique.spec, args, kwargs, signature)}"
    return f"{task}{SEP}{_digest(args, kwargs, signature)}"


def _digest(args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None) -> str:
    """Of all arguments, however they were passed: f(1, 2) and f(1, y=2) are the same call."""
    if signature is not None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    text = json.dumps([list(args), dict(kwargs)], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


__all__ = ["UNTIL", "Unique", "refused_option", "unique_key", "unique_of"]
