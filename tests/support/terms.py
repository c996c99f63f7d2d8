"""Workflows as terms: what a term's canvas is, and what the same functions give when they are called one after the other.

A term is a tuple: ("step", n), ("fixed", n), ("fails", n); ("chain" | "pipe", terms), ("group", terms), ("chord", header, body).
A pipe is a chain that is written with `|`. Around any of them ("linked", term, n) and ("watched", term, n): a callback, an error callback.
"""

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

from hypothesis import strategies as st

from celeriac import Celeriac, chain, chord, group

Term = tuple[Any, ...]

#: What stands in an oracle's answer for a call that failed, or never ran because of one.
FAILED = "failed"


def mix(value: Any, number: int) -> int:
    """A number that depends on all of a value, and on its order."""
    return zlib.crc32(json.dumps([value, number]).encode())


@dataclass(slots=True)
class Notes:
    """How often what ran: step numbers, callbacks with what they were given, error callbacks."""

    ran: Counter[Any] = field(default_factory=Counter)

    def __call__(self, *what: Any) -> None:
        self.ran[json.dumps(what)] += 1


# -- as the library does it


class Shop:
    """The tasks that terms are made of, on an app; `notes` says what ran since it was last set."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.notes = Notes()

        @app.task(name="step")
        def step(value: Any, number: int) -> int:
            self.notes("step", number)
            return mix(value, number)

        @app.task(name="fixed")
        def fixed(number: int) -> int:
            self.notes("step", number)
            return mix(None, number)

        @app.task(name="fails")
        def fails(value: Any, number: int) -> int:
            self.notes("step", number)
            raise ValueError(number)

        @app.task(name="called_back")
        def called_back(value: Any, number: int) -> None:
            self.notes("link", number, value)

        @app.task(name="told")
        def told(number: int) -> None:
            self.notes("link_error", number)

        self.step, self.fixed, self.fails, self.called_back, self.told = step, fixed, fails, called_back, told

    def canvas(self, term: Term) -> Any:
        """The signature that a term describes."""
        match term:
            case "step", number:
                return self.step.s(number)
            case "fixed", number:
                return self.fixed.si(number)
            case "fails", number:
                return self.fails.s(number)
            case "chain", parts:
                return chain(*map(self.canvas, parts))
            case "pipe", parts:
                return reduce(or_, map(self.canvas, parts))
            case "group", parts:
                return group(*map(self.canvas, parts))
            case "chord", header, body:
                return chord(list(map(self.canvas, header)), self.canvas(body))
            case "linked", inner, number:
                made = self.canvas(inner)
                made.link(self.called_back.s(number))
                return made
            case "watched", inner, number:
                made = self.canvas(inner)
                made.link_error(self.told.si(number))
                return made
        raise AssertionError(term)


def outcome(result: Any) -> Any:
    """A handle's value in the oracle's terms."""
    if hasattr(result, "results"):
        return [outcome(one) for one in result.results]
    return result.get(timeout=1) if result.successful() else FAILED


# -- as functions do it, one after the other


def serial(term: Term, value: Any, notes: Notes) -> Any:
    """What a term gives; a group's value is a list, FAILED stands for each call that fails or never runs."""
    match unwrapped(term):
        case "step", number:
            notes("step", number)
            return mix(value, number)
        case "fixed", number:
            notes("step", number)
            return mix(None, number)
        case "fails", number:
            notes("step", number)
            return FAILED
        case (("chain" | "pipe"), parts):
            steps = stepwise(parts)
            for place, step in enumerate(steps):
                value = serial(step, value, notes)
                if has_failed(value):
                    return shape(steps[-1]) if place < len(steps) - 1 else value
            return value
        case "group", parts:
            return members(parts, value, notes)
        case "chord", header, body:
            values = members(header, value, notes)
            if has_failed(values):
                tell_watchers(body, notes)
                return shape(body)
            return serial(body, values, notes)
        case ("linked" | "watched") as kind, inner, number:
            value = serial(inner, value, notes)
            if kind == "linked" and not has_failed(value):
                notes("link", number, value)
            if kind == "watched" and has_failed(value):
                notes("link_error", number)
            return value
    raise AssertionError(term)


_SEVERAL = frozenset(["chain", "pipe", "group", "chord"])


def pushed_down(kind: str, term: Term, number: int) -> Term:
    """A callback, or error callback, of several calls as one of those calls that it belongs to; each call has the same one once."""
    match term:
        case (("chain" | "pipe"), parts):
            steps = stepwise(parts)
            at = range(len(steps)) if kind == "watched" else [len(steps) - 1]
            return ("chain", [pushed_down(kind, one, number) if n in at else one for n, one in enumerate(steps)])
        case "group", parts:
            return ("group", [pushed_down(kind, one, number) for one in spliced(parts)])
        case "chord", header, body:
            return ("chord", header, pushed_down(kind, body, number))
        case ("linked" | "watched") as outer, inner, own:
            if inner[0] in _SEVERAL:
                return pushed_down(kind, pushed_down(outer, inner, own), number)
            there = (outer, own) == (kind, number)
            return term if there else (outer, pushed_down(kind, inner, number), own)
        case leaf:
            return (kind, leaf, number)


def stepwise(parts: Any) -> list[Term]:
    """The steps of a chain of which only the last one may end in a group: what waits for a group is a chord's body."""
    steps: list[Term] = []
    for part in parts:
        part = unwrapped(part)
        for step in stepwise(part[1]) if part[0] in {"chain", "pipe"} else [part]:
            if steps and ends_in_group(steps[-1]):
                steps[-1] = followed(steps[-1], step)
            else:
                steps.append(step)
    return steps


def unwrapped(term: Term) -> Term:
    """What is around several calls pushed down to them."""
    if term[0] in {"linked", "watched"}:
        kind, inner, number = term
        inner = unwrapped(inner)
        return pushed_down(kind, inner, number)
    return term


def followed(last: Term, step: Term) -> Term:
    match last:
        case "group", parts:
            return ("chord", spliced(parts), step)
        case "chord", header, body:
            return ("chord", header, ("chain", [body, step]))
    raise AssertionError(last)


def spliced(parts: Any) -> list[Term]:
    """A group's members, with those of groups right within it."""
    parts = map(unwrapped, parts)
    return [one for part in parts for one in (spliced(part[1]) if part[0] == "group" else [part])]


def ends_in_group(term: Term) -> bool:
    match term:
        case (("chain" | "pipe"), parts):
            return ends_in_group(stepwise(parts)[-1])
        case "group", _:
            return True
        case "chord", _, body:
            return ends_in_group(body)
        case (("linked" | "watched"), inner, _):
            return ends_in_group(inner)
    return False


def members(parts: Any, value: Any, notes: Notes) -> list[Any]:
    """The values of a group; those of a group right within it stand among them."""
    return [serial(part, value, notes) for part in spliced(parts)]


def tell_watchers(body: Term, notes: Notes) -> None:
    """Of a body that cannot run those are told that would have run first: and of a chord, those that wait for its body."""
    match unwrapped(body):
        case (("chain" | "pipe"), parts):
            tell_watchers(stepwise(parts)[0], notes)
        case "group", parts:  # once for each member, as Celery does
            for part in spliced(parts):
                tell_watchers(part, notes)
        case "chord", _, inner:
            tell_watchers(inner, notes)
        case "watched", inner, number:
            notes("link_error", number)
            tell_watchers(inner, notes)
        case "linked", inner, _:
            tell_watchers(inner, notes)


def has_failed(value: Any) -> bool:
    return any(map(has_failed, value)) if isinstance(value, list) else value == FAILED


def shape(term: Term) -> Any:
    """FAILED for each call whose value is the term's."""
    match term:
        case (("chain" | "pipe"), parts):
            return shape(parts[-1])
        case "group", parts:
            return [shape(part) for part in spliced(parts)]
        case "chord", _, body:
            return shape(body)
        case (("linked" | "watched"), inner, _):
            return shape(inner)
        case _:
            return FAILED


# -- any of them


_numbers = st.integers(0, 99)
_kinds = {False: ["step", "step", "fixed"], True: ["step", "step", "step", "step", "fixed", "fails"]}


@st.composite
def terms(draw: st.DrawFn, *, depth: int = 4, failing: bool = True) -> Term:
    """Terms of up to so many levels. Groups have two members or more: a group of one is that one in some places, see the tables."""
    inner = terms(depth=depth - 1, failing=failing)
    match (
        draw(st.sampled_from(["leaf", "linked", "watched", "chain", "pipe", "group", "chord"])) if depth > 1 else "leaf"
    ):
        case "leaf":
            leaf = (draw(st.sampled_from(_kinds[failing])), draw(_numbers))
            around = draw(st.sampled_from(["", "", "", "linked", "watched"]))
            return (around, leaf, draw(_numbers)) if around else leaf
        case ("chain" | "pipe" | "group") as kind:
            return (kind, draw(st.lists(inner, min_size=2, max_size=3)))
        case "chord":
            return ("chord", draw(st.lists(inner, min_size=1, max_size=3)), draw(inner))
        case kind:
            several = inner.filter(lambda term: kind == "watched" or not ends_in_group(term))
            return (kind, draw(several), draw(_numbers))
