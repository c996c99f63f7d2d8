"""Prometheus' text format (0.0.4), straight from numbers: a hundred thousand samples in less than a tenth of a second.

prometheus_client makes two objects of each sample, looks its labels over and sorts them, which takes ten times as long. Of the same
families it writes the same page, byte for byte: the tests compare them. See docs/decisions/0016-metrics-are-text.md.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import inf, isfinite, isnan

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Kind of a family -> what the page adds to its name, and what it is called there.
KINDS = {
    "counter": ("_total", "counter"),
    "gauge": ("", "gauge"),
    "histogram": ("", "histogram"),
    "info": ("_info", "gauge"),
    "summary": ("", "summary"),
}


class _Escaped(dict[str, str]):
    """Values of labels as they are written, each made once.

    JSON may hold half a character (`"\\ud800"`), and with that in a name no page could be sent: it is told as its code.
    """

    def __missing__(self, text: str) -> str:
        whole = text.encode(errors="backslashreplace").decode()
        found = self[text] = _one_line(whole).replace('"', '\\"')
        return found


class Labels:
    """Names of labels, and their values as text: families that have the same ones share it, and so the text that was made last."""

    def __init__(self, *names: str) -> None:
        self.names, self.escaped = names, _Escaped()
        order = sorted(range(len(names)), key=names.__getitem__)
        place = order.index(len(names) - 1) if names else 0
        ahead = "".join([f'{names[at]}="{{{at}}}",' for at in order[:place]])
        behind = "".join([f',{names[at]}="{{{at}}}"' for at in order[place + 1 :]])
        self._patterns = (f'{{{{{ahead}{names[-1]}="', f'"{behind}}}}} ') if names else ("", " ")
        self._last: tuple[tuple[str, ...] | None, str] = (None, "")

    def and_(self, *more: str) -> "Labels":
        """These names and more."""
        found = Labels(*self.names, *more)
        found.escaped = self.escaped
        return found

    def of(self, values: tuple[str, ...]) -> str:
        """`{name="value"} `, in the order of the names; values: of each label."""
        last, text = self._last
        if values != last:
            ahead, behind = self.around(values[:-1])
            text = f"{ahead}{self.escaped[values[-1]]}{behind}" if values else behind
            self._last = (values, text)
        return text

    def around(self, values: tuple[str, ...]) -> tuple[str, str]:
        """What of that is ahead of the last label's value, and what is behind it; values: of the labels before."""
        texts = [self.escaped[value] for value in values]
        return self._patterns[0].format(*texts), self._patterns[1].format(*texts)


NO_LABELS = Labels()


class Family:
    """One metric with its samples of one scrape, in the order in which they are added.

    name     without what its kind adds: the counter `celeriac_tasks` is `celeriac_tasks_total` on the page.
    kind     one of `KINDS`.
    labels   values are given in their order, and may be any text.
    bounds   of a histogram's buckets, rising, without infinity.
    """

    def __init__(
        self, name: str, kind: str, documentation: str, labels: Labels = NO_LABELS, *, bounds: Iterable[float] = ()
    ) -> None:
        self.name, self.kind, self.documentation, self.labels = name, kind, documentation, labels
        suffix, shown_kind = KINDS[kind]
        self._full_name = name + suffix
        self._lines = [
            f"# HELP {self._full_name} {_one_line(documentation)}\n",
            f"# TYPE {self._full_name} {shown_kind}\n",
        ]
        self._bounds = [_number(bound) for bound in (*bounds, inf)]
        self._by_bound = labels.and_("le") if kind == "histogram" else labels

    def add(self, labels: tuple[str, ...], value: float) -> None:
        """One sample."""
        self._lines.append(f"{self._full_name}{self.labels.of(labels)}{_number(value)}\n")

    def add_each(self, labels: tuple[str, ...], values: Mapping[str, float]) -> None:
        """A sample for each of these values of the last label; `labels` are those before it."""
        ahead, behind = self.labels.around(labels)
        start, lasts = self._full_name + ahead, self.labels.escaped
        lines = [
            f"{start}{lasts[last]}{behind}{_SMALL.get(value) or _number(value)}\n" for last, value in values.items()
        ]
        self._lines.append("".join(lines))

    def add_histogram(self, labels: tuple[str, ...], counts: Iterable[int], total: float) -> None:
        """A histogram. counts: of each bucket alone, the last one beyond all bounds. total: the sum of what was observed."""
        ahead, behind = self._by_bound.around(labels)
        start, sums = f"{self.name}_bucket{ahead}", list(accumulate(counts))
        lines = [
            f"{start}{bound}{behind}{_SMALL.get(count) or _number(count)}\n"
            for bound, count in zip(self._bounds, sums, strict=True)
        ]
        self._lines.append("".join(lines))
        self.add_summary(labels, sums[-1], total)

    def add_summary(self, labels: tuple[str, ...], count: int, total: float) -> None:
        """How many were observed, and their sum."""
        text = self.labels.of(labels)
        self._lines.append(f"{self.name}_count{text}{_number(count)}\n{self.name}_sum{text}{_number(total)}\n")

    def text(self) -> bytes:
        """What the page tells of it."""
        return "".join(self._lines).encode()


def single(name: str, kind: str, documentation: str, value: float) -> Family:
    """A family of one sample, without labels."""
    family = Family(name, kind, documentation)
    family.add((), value)
    return family


def labelled(name: str, kind: str, documentation: str, label: str, values: Mapping[str, float]) -> Family:
    """A family with one label, by the values of that."""
    family = Family(name, kind, documentation, Labels(label))
    family.add_each((), values)
    return family


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


#: Most numbers of a page are small and whole.
_SMALL: dict[float, str] = {whole: f"{whole}.0" for whole in range(1000)}


def _number(value: float) -> str:
    """As Go writes it: from a million on with an exponent."""
    text = _SMALL.get(value) or repr(float(value))
    return text if -1e6 < value < 1e6 else _far(value, text)


def _far(value: float, text: str) -> str:
    if not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    whole, point, rest = text.partition(".")
    if value < 0 or not point or len(whole) == 1:
        return text
    digits = f"{whole}{rest}".rstrip("0")
    return f"{digits[0]}{digits[1:] and '.'}{digits[1:]}e+{len(whole) - 1:02d}"
