"""Mail about failed tasks: which failure is worth one, what it says, and how many are left out. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: Failures that are told apart; beyond it the oldest are forgotten, and may be told of again.
MOST_KEYS = 1000
MOST_SUBJECT = 200
MOST_REPR = 2000
MOST_TRACEBACK = 50_000


class Mail(NamedTuple):
    """What is sent. subject: one line, without control characters."""

    subject: str
    body: str


class Failure(NamedTuple):
    """A task that has failed. shown: the exception as people read it. left_out: failures like it since the last mail about them."""

    task: str
    id: str
    shown: str
    traceback: str | None
    args: str
    kwargs: str
    hostname: str
    left_out: int = 0


def listed(entries: Any) -> tuple[str, ...]:
    """A white list as the names of classes. Raises ValueError for an entry that is neither a class nor a name."""
    found = []
    for entry in (entries,) if isinstance(entries, type | str) else entries or ():
        if isinstance(entry, type) and issubclass(entry, BaseException):
            found.append(f"{entry.__module__}.{entry.__qualname__}")
        elif isinstance(entry, str) and entry:
            found.append(entry)
        else:
            raise ValueError(f"error_whitelist: {entry!r} is neither a class of exceptions nor the dotted name of one")
    return tuple(found)


def names_of(kind: type[BaseException]) -> frozenset[str]:
    """The dotted names of an exception's class and of those it derives from; of builtins the bare names, too."""
    dotted = {f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__}
    return frozenset(dotted | {each.__qualname__ for each in kind.__mro__ if each.__module__ == "builtins"})


def is_wanted(names: frozenset[str], whitelist: Iterable[str]) -> bool:
    """Whether mail is sent about an exception of these names; an empty list means: about all."""
    wanted = frozenset(whitelist)
    return not wanted or not wanted.isdisjoint(names)


class Book:
    """Which failures were told of, and when. period_s: in which a failure of one key is told of once."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        #: Key -> (until when it is not told of again, how many were left out since).
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, key: tuple[str, str], now: float) -> int | None:
        """How many failures of this key were left out since the last mail; None: this one is left out, too. now: seconds of any clock."""
        until, left_out = self._told.get(key, (now, 0))
        if now < until:
            self._told[key] = (until, left_out + 1)
            return None
        self._told.pop(key, None)
        if len(self._told) >= MOST_KEYS:
            del self._told[next(iter(self._told))]
        self._told[key] = (now + self._period_s, 0)
        return left_out


def mail_of(failure: Failure, *, redact_args: bool) -> Mail:
    """The mail about a failure. redact_args: without arguments."""
    hidden = "(left out: task_error_email_redact_args)"
    lines = [
        f"Task {failure.task} has failed on {failure.hostname}.",
        "",
        f"id:        {failure.id}",
        f"exception: {_cut(failure.shown, MOST_REPR)}",
        f"args:      {hidden if redact_args else _cut(failure.args, MOST_REPR)}",
        f"kwargs:    {hidden if redact_args else _cut(failure.kwargs, MOST_REPR)}",
    ]
    if failure.left_out:
        lines += [
            "",
            f"{failure.left_out} more failures of this task with this exception were left out since the last mail.",
        ]
    if failure.traceback:
        lines += ["", _cut(failure.traceback, MOST_TRACEBACK)]
    host = failure.hostname.partition("@")[2] or failure.hostname
    subject = f"[celeriac@{host}] Error: Task {failure.task} ({failure.id}): {failure.shown}"
    return Mail(_cut(_one_line(subject), MOST_SUBJECT), "\n".join(map(_plain, lines)) + "\n")


def arguments_of(headers: Mapping[str, Any]) -> tuple[str, str]:
    """args and kwargs as the caller wants them to be shown: whoever hides them (argsrepr=) has hidden them here, too."""
    return str(headers.get("argsrepr") or ""), str(headers.get("kwargsrepr") or "")


def _one_line(text: str) -> str:
    """Without line breaks and other control characters: a name or an error may come from anybody, and a header ends at a line break."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in text.replace("\r\n", "\n"))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
