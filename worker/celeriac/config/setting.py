"""One setting as a value, and what turns what users write into what it wants. Errors say what was expected."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from enum import Enum
from typing import Any


class Effect(Enum):
    """What setting it does. REFUSED: to ignore it could hurt, so a value other than the default is an error."""

    HONOURED = "honoured"
    NONE = "none"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. kubernetes: its default in that profile, when it differs. old: names it had in Celery.

    help  one sentence: what it does; of one without effect why, and what is there instead.
    """

    name: str
    type: Callable[[Any], Any]
    default: Any
    help: str
    kubernetes: Any = ...
    old: tuple[str, ...] = ()
    effect: Effect = Effect.HONOURED

    def default_in(self, profile: str) -> Any:
        """The value when nobody sets it."""
        return self.default if profile == "celery" or self.kubernetes is ... else self.kubernetes


_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})


def boolean(value: Any) -> bool:
    """True or False, or a word for it. Raises ValueError."""
    if isinstance(value, str):
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise ValueError("expected true or false")
    if value is None or isinstance(value, int | float):
        return bool(value)
    raise ValueError("expected true or false")


def text(value: Any) -> str:
    """Text. Raises ValueError for anything else: str() would accept all there is."""
    if not isinstance(value, str):
        raise ValueError("expected text")  # noqa: TRY004 - one kind of error for all of them
    return value


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of these words. Raises ValueError naming them."""

    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected one of: {', '.join(choices)}")
        return str(value)

    return convert


def only(*accepted: Any) -> Callable[[Any], Any]:
    """One of these values, as it is. Raises ValueError."""

    def convert(value: Any) -> Any:
        if not any(value is each or value == each for each in accepted):
            raise ValueError(f"only {' or '.join(repr(each) for each in accepted)} can be had")
        return value

    return convert


def optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """None, and the empty text of an unset variable, as they are."""
    return lambda value: None if value is None or value == "" else convert(value)


def whole(value: Any) -> int:
    """A whole number, 0 or more. Raises ValueError."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError("expected a whole number") from None
    if number < 0 or (isinstance(value, float) and value != number):
        raise ValueError("expected a whole number, 0 or more")
    return number


def concurrency(value: Any) -> int | None:
    """None: the CPUs."""
    return None if value in (None, "", "auto") else whole(value)


def multiplier(value: Any) -> int | None:
    """None for 0, too: Celery's 0 claims all there is, and keeps it from workers that are free."""
    return None if value in (None, "") else whole(value) or None


def seconds(value: Any) -> float:
    """Seconds, 0 or more, out of a number or a timedelta. Raises ValueError."""
    try:
        found = float(value.total_seconds() if hasattr(value, "total_seconds") else value)
    except (TypeError, ValueError):
        raise ValueError("expected seconds: a number or a timedelta") from None
    if not found >= 0:
        raise ValueError("expected seconds, 0 or more")
    return found


def a_zone(value: Any) -> Any:
    """The name of a time zone, or a tzinfo, as it is; beat looks it up. Raises ValueError."""
    if not isinstance(value, str | tzinfo):
        raise ValueError("expected the name of a time zone, such as Europe/Berlin")  # noqa: TRY004
    return value


def words(value: Any) -> list[Any]:
    """A list; text is cut at its commas. Raises ValueError."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError("expected a list")  # noqa: TRY004
    return list(value)


def mailboxes(value: Any) -> list[tuple[str, str]]:
    """(name, address) pairs; text is addresses, cut at its commas, each perhaps as `Ann <ann@example.com>`. Raises ValueError."""
    from email.utils import parseaddr  # a client is light

    found = []
    for each in value.split(",") if isinstance(value, str) and value else value or ():
        name, address = parseaddr(each) if isinstance(each, str) else each
        if "@" not in address:
            raise ValueError(f"expected mail addresses, or pairs of a name and an address; {each!r} is neither")
        found.append((str(name), str(address)))
    return found


def mapping(value: Any) -> dict[str, Any]:
    """A mapping; text is read as JSON, as environment variables hold it. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("expected a mapping, in JSON") from None
    if not isinstance(value, Mapping):
        raise ValueError("expected a mapping")  # noqa: TRY004
    return dict(value)


def delivery_mode(value: Any) -> int:
    """2 for persistent, 1 for transient, by number or by word. Raises ValueError."""
    found = {"1": 1, "2": 2, "transient": 1, "persistent": 2}.get(str(value).lower())
    if found is None:
        raise ValueError("expected 2 or persistent, 1 or transient")
    return found


def log_format(value: Any) -> str:
    """A format of log lines. Raises ValueError, as logging does."""
    logging.Formatter(text(value))
    return str(value)


def log_level(value: Any) -> str:
    """The name of one of logging's levels, in capitals; numbers too. Raises ValueError."""
    levels = {"10": "DEBUG", "20": "INFO", "30": "WARNING", "40": "ERROR", "50": "CRITICAL"}
    name = levels.get(str(value), str(value).upper())
    if name not in levels.values():
        raise ValueError(f"expected one of: {', '.join(levels.values())}")
    return name


def urls(value: Any) -> str:
    """One URL, or several joined by `;`. Raises ValueError."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(url, str) for url in value):
        return ";".join(value)
    raise ValueError("expected a URL, or a list of them")


def anything(value: Any) -> Any:
    """As it is: who reads it knows."""
    return value
