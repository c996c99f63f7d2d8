"""An object's fields, read one by one: each is checked, and what is wrong with it is collected as a sentence. Knows no kind."""

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, TypeVar

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_Choice = TypeVar("_Choice", bound=StrEnum)


def seconds_of(text: str) -> float:
    """Seconds of a duration such as 30s, 1h30m or 500ms. Raises ValueError."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class Fields:
    """One object's fields, read one by one. Problems are collected, none stops the reading; `end` finds unknown fields.

    A wrong field reads as its default, so that the rest is still checked.
    """

    __slots__ = ("hidden", "known", "path", "problems", "raw")

    def __init__(self, raw: object, path: str, problems: list[str]) -> None:
        self.path, self.problems = path, problems
        self.known: set[str] = set()
        self.hidden: set[str] = set()
        self.raw: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
        if not isinstance(raw, Mapping):
            problems.append(f"{path} is {_shown(raw)}, must be an object")
            self.problems = []  # said: that its fields are missing too would be noise

    def __contains__(self, name: str) -> bool:
        """Whether the field is set; null means that it is not."""
        return self.raw.get(name) is not None

    def problem(self, name: str, sentence: str) -> None:
        """Note what is wrong with a field: the sentence follows its path."""
        self.problems.append(f"{self.path}.{name} {sentence}")

    def reserved(self, name: str, sentence: str) -> None:
        """A field that another version has: a problem when it is set, and never suggested."""
        if name in self:
            self.problem(name, sentence)
        self.hidden.add(name)

    def end(self) -> None:
        """To be called when all fields were read: what is left is not ours."""
        for name in sorted(set(map(str, self.raw)) - self.known - self.hidden):
            near = get_close_matches(name, self.known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(self.known))}"
            self.problem(name, f"is not a field of this version; {hint}")

    def nested(self, name: str, *, required: bool = False) -> "Fields":
        """The fields of an object in this one; of an empty one, where there is none."""
        value = self._get(name, required)
        return Fields({} if value is None else value, f"{self.path}.{name}", [] if value is None else self.problems)

    def items(self, name: str, *, most: int, required: bool = False) -> "list[Fields]":
        """The fields of each object of a list, at most so many; required: at least one."""
        value = self._get(name, required)
        if value is None:
            return []
        if not isinstance(value, Sequence) or isinstance(value, str):
            self.problem(name, f"is {_shown(value)}, must be a list")
            return []
        if len(value) > most or (required and not value):
            self.problem(name, f"has {len(value)} entries, may have {1 if required else 0} to {most}")
        return [Fields(item, f"{self.path}.{name}[{i}]", self.problems) for i, item in enumerate(value)]

    def text(self, name: str, default: str = "", *, longest: int, required: bool = False) -> str:
        """A string of at most so many characters; required: at least one."""
        value = self._get(name, required)
        if value is None:
            return default
        if not isinstance(value, str):
            self.problem(name, f"is {_shown(value)}, must be a string")
            return default
        if len(value) > longest or (required and not value):
            self.problem(name, f"has {len(value)} characters, may have {1 if required else 0} to {longest}")
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.problem(name, f"is {_shown(value)}, must be true or false")
        return default

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """A whole number, from low to high."""
        value = self.optional_integer(name, low=low, high=high)
        return default if value is None else value

    def optional_integer(self, name: str, *, low: int, high: int) -> int | None:
        """The same; None where it is not set."""
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.problem(name, f"is {_shown(value)}, must be a whole number from {low} to {high}")
            return None
        if not low <= value <= high:
            self.problem(name, f"is {value}, must be from {low} to {high}")
            return None
        return value

    def decimal(self, name: str, default: float, *, low: float, high: float) -> float:
        """A number written as a string, such as "1.5": Kubernetes' conventions keep floats out of specs."""
        value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            self.problem(name, f'is {_shown(value)}, must be a number in quotes, such as "1.5"')
            return default
        number = float(value)
        if not math.isfinite(number) or not low <= number <= high:
            self.problem(name, f'is "{value}", must be from {low:g} to {high:g}')
        return number

    def duration(self, name: str, default_s: float, *, low_s: float, high_s: float) -> float:
        """Seconds, of a duration such as 5m."""
        value_s = self._duration(name, low_s, high_s, "")
        return default_s if value_s is None else value_s

    def duration_or_auto(self, name: str, *, low_s: float, high_s: float) -> float | None:
        """The same; None for `auto`, and where it is not set."""
        if self.raw.get(name) == "auto":
            self.known.add(name)
            return None
        return self._duration(name, low_s, high_s, "auto or ")

    def number_or_percent(self, name: str, default: str) -> int | str:
        """Pods as a number, or a percentage as it stands, such as "25%"."""
        value = self._get(name)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000:
            return value
        if isinstance(value, str) and re.fullmatch(r"(100|[1-9][0-9]?)%", value):
            return value
        self.problem(name, f'is {_shown(value)}, must be 1 to 10000 pods or "1%" to "100%"')
        return default

    def choice(self, name: str, default: _Choice) -> _Choice:
        """One of the values of the enumeration that the default is of."""
        value = self._get(name)
        if value is None:
            return default
        kind = type(default)
        if isinstance(value, str) and value in tuple(kind):
            return kind(value)
        self.problem(name, f"is {_shown(value)}, must be one of {', '.join(kind)}")
        return default

    def _duration(self, name: str, low_s: float, high_s: float, also: str) -> float | None:
        value = self._get(name)
        if value is None:
            return None
        try:
            value_s = seconds_of(value) if isinstance(value, str) else math.nan
        except ValueError:
            value_s = math.nan
        if math.isnan(value_s):
            self.problem(name, f"is {_shown(value)}, must be {also}a duration such as 30s, 5m or 1h30m")
            return None
        if not low_s <= value_s <= high_s:
            self.problem(name, f"is {value}, must be from {low_s:g}s to {high_s:g}s")
            return None
        return value_s

    def _get(self, name: str, required: bool = False) -> Any:
        self.known.add(name)
        value = self.raw.get(name)
        if value is None and required:
            self.problem(name, "is missing")
        return value


def _shown(value: object) -> str:
    return f"{value!r:.80}"
