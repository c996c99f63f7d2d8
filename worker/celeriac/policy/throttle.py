"""What bounds a task type: how many start a second, how many run at once, and by which key of a call each is counted."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from celeriac.policy.ratelimit import SLACK_S, parse_rate
from celeriac.wire.message import CONCURRENCY_KEY, RATE_KEY

#: Separates the parts of an id in the store; keys never hold it.
SEP = "\x06\x16"
#: Keys longer than this are cut, and told apart by a digest.
MOST_CHARACTERS = 200

#: The name of an argument, a dotted path that starts with one, or a function of (args, kwargs).
KeySpec = str | Callable[[Sequence[Any], Mapping[str, Any]], Any]

#: The attributes of a task that `check` looks at.
OPTIONS = ("rate_limit", "rate_limit_scope", "rate_limit_key", "max_concurrency", "concurrency_key")


class Throttle(NamedTuple):
    """The bounds of one task type, as a worker knows them.

    per_s      starts a second; 0: any number. shared: counted for the cluster, else for this worker.
    rate_keyed, concurrency_keyed   whether each key of a call has a bound of its own.
    most       that run at once in the cluster; 0: any number.
    """

    task: str
    per_s: float = 0.0
    shared: bool = False
    rate_keyed: bool = False
    most: int = 0
    concurrency_keyed: bool = False

    def rate_key(self, headers: Mapping[str, Any]) -> str:
        """The key that a call's start is counted by; empty: all calls together."""
        return _header(headers, RATE_KEY) if self.rate_keyed else ""

    def concurrency_key(self, headers: Mapping[str, Any]) -> str:
        """The key that a running call is counted by; empty: all calls together."""
        return _header(headers, CONCURRENCY_KEY) if self.concurrency_keyed else ""

    def fifo(self, headers: Mapping[str, Any]) -> str:
        """The line in which a call waits: its calls start in order, and no other line waits for it."""
        return joined(self.task, self.rate_key(headers), self.concurrency_key(headers))


def joined(task: str, rate_key: str, concurrency_key: str) -> str:
    """The id of a line."""
    return f"{task}{SEP}{rate_key}{SEP}{concurrency_key}" if rate_key or concurrency_key else task


def throttle_of(task: str, options: Any, *, rates: bool = True) -> Throttle | None:
    """The bounds that a task's options ask for; None when there are none.

    options   has rate_limit, rate_limit_scope, rate_limit_key, max_concurrency, concurrency_key. rates: whether rate limits count.

    A rate that is kept for each key, or beside max_concurrency, holds for the cluster.
    """
    per_s = (parse_rate(options.rate_limit) or 0.0) if rates else 0.0
    most = options.max_concurrency or 0
    if not per_s and not most:
        return None
    keyed = options.rate_limit_key is not None
    return Throttle(
        task, per_s, shared=bool(keyed or most or options.rate_limit_scope == "cluster"), rate_keyed=keyed and per_s > 0,
        most=most, concurrency_keyed=options.concurrency_key is not None and most > 0,
    )  # fmt: skip


def check(options: Mapping[str, Any]) -> None:
    """Raise ValueError for bounds that cannot be kept. options: a value, or None, of each of OPTIONS."""
    parse_rate(options["rate_limit"])
    most = options["max_concurrency"]
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ValueError(f"max_concurrency {most!r} is not a whole number of 1 or more")
    for name, needed in (("rate_limit_key", "rate_limit"), ("concurrency_key", "max_concurrency")):
        spec = options[name]
        if spec is None:
            continue
        if not callable(spec) and not (isinstance(spec, str) and all(spec.split("."))):
            raise ValueError(
                f"{name} {spec!r} is not the name of an argument, a dotted path ('order.account') or a function of (args, kwargs)"
            )
        if name == "concurrency_key" and most is None:
            raise ValueError(f"{name} without {needed} bounds nothing: set {needed}, too")
    if options["rate_limit_scope"] not in {None, "worker", "cluster"}:
        raise ValueError(f"rate_limit_scope {options['rate_limit_scope']!r} is neither 'worker' nor 'cluster'")


def key_of(
    spec: KeySpec, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None = None
) -> str:
    """The key of a call, as text of at most MOST_CHARACTERS.

    signature   of the body without `self`: so that an argument is found however it was passed, or by its default.

    Raises ValueError when there is none; whatever a function of the user's raises.
    """
    value = spec(args, kwargs) if callable(spec) else _find(spec, args, kwargs, signature)
    if value is None:
        raise ValueError(f"the key {spec!r} is None for this call")
    text = str(value).replace(SEP, "")
    if len(text) > MOST_CHARACTERS:
        text = text[: MOST_CHARACTERS - 33] + "~" + blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()
    return text


def _find(path: str, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None) -> Any:
    name, *rest = path.split(".")
    value = _argument(name, args, kwargs, signature)
    for part in rest:
        try:
            value = _part(value, part)
        except (LookupError, AttributeError, TypeError, ValueError):
            raise ValueError(
                f"the key {path!r} was not found in the arguments: {type(value).__name__} has no {part!r}"
            ) from None
    return value


def _argument(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None) -> Any:
    if name in kwargs:
        return kwargs[name]
    if signature is not None:
        bound = signature.bind_partial(*args, **kwargs)
        bound.apply_defaults()
        if name in bound.arguments:
            return bound.arguments[name]
    raise ValueError(f"the key {name!r} was not found: this call has no such argument")


def _part(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit():
        return value[int(part)]
    return getattr(value, part)


def _header(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""


__all__ = ["OPTIONS", "SEP", "SLACK_S", "KeySpec", "Throttle", "check", "joined", "key_of", "throttle_of"]
