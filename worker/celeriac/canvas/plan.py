"""What sending a signature means: the messages that can go now, and the chords that must be open before they do.

One function, `compose`, for clients and workers: a client sends a plan at once (`send`), a worker with the settlement of the task that
it follows from. A chain's first step carries the rest of the chain, the members of a chord's header carry its body; nothing is written
more often than that, so a plan is as large as its workflow.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from celeriac.canvas.forms import chain, chord, chunks, group
from celeriac.canvas.freeze import flat, frozen
from celeriac.canvas.joining import linked
from celeriac.canvas.signature import Signature, listed, maybe_signature
from celeriac.exceptions import NotSupported
from celeriac.result import GroupResult
from celeriac.wire.chord import ChordStart
from celeriac.wire.message import TaskMessage


class Sender(Protocol):
    """What is needed of the app."""

    @property
    def tasks(self) -> Mapping[str, Any]: ...
    @property
    def backend(self) -> Any: ...
    @property
    def call_options(self) -> frozenset[str]: ...
    def message(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], task_type: Any, *, countdown: float | None, eta: datetime | None,
        expires: Any, task_id: str | None, options: dict[str, Any],
    ) -> TaskMessage: ...  # fmt: skip


class Plan(NamedTuple):
    """messages: to be published, in order. chords: to be opened before that.

    strict  an option that nobody knows raises; else it is left out: signatures of other clients may have options of their own.
    """

    messages: list[TaskMessage]
    chords: list[ChordStart]
    strict: bool = True


class Member(NamedTuple):
    """A place in a group; body: of the chord whose header the group is, None for a plain one."""

    group_id: str
    place: int
    body: Any = None


def send(app: Any, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Send a signature; the handle."""
    if sig["subtask_type"] is None:
        return _send_one(app, sig, args, kwargs, options)
    if app.conf.task_always_eager:
        return sig.apply(args, kwargs, **options)
    options = dict(options)
    _check_options(app, sig)
    copy, result = frozen(app, sig, options.pop("task_id", None))
    plan = Plan([], [])
    compose(app, copy, plan, args, kwargs, options)
    if plan.chords:
        app.backend.open_chords(plan.chords)
    app.publish_many(plan.messages)
    if isinstance(result, GroupResult) and len(result.results) == 1 and isinstance(result.results[0], GroupResult):
        return result.results[0]  # of one member that ends in a group: as Celery has it
    return result


def _check_options(app: Any, sig: Signature) -> None:
    """Raise TypeError for options that nobody knows, of all that is sent now or later."""
    if sig["options"]:
        app.check_options(sig["task"], sig["options"])
    inner: Sequence[Any] = ()
    match sig:
        case chain() | group():
            inner = sig.tasks
        case chord():
            inner = [sig.header, sig.body] if sig.body is not None else [sig.header]
    for one in inner:
        if one["options"] or one["subtask_type"] is not None:
            _check_options(app, one)


def _send_one(
    app: Any, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """By the task's own apply_async, which a class may override; by name where there is no such task here."""
    given, named = _arguments(sig, args, kwargs)
    merged = _merged(sig["options"], options)
    task = app.tasks.get(sig["task"])
    if task is not None:
        return task.apply_async(given, named, **merged)
    return app.send_task(sig["task"], given, named, **merged)


def compose(
    app: Sender, sig: Signature, plan: Plan, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None, *, rest: Sequence[Any] = (), member: Member | None = None,
) -> None:  # fmt: skip
    """Add to a plan what sending `sig`, which is frozen, asks for now.

    args, kwargs   put before its own. options: of this call, above its own. rest: the steps after it, the next one last.
    member         its place in a group, as which its last step counts.

    Raises NotSupported for a chord without a store that counts.
    """
    merged = _merged(sig["options"], options or {})
    following, group_id = merged.pop("chain", None), merged.pop("group_id", None)
    place, body = merged.pop("group_index", None), merged.pop("chord", None)
    if following:
        rest = [*rest, *following]
    if group_id and member is None:
        member = Member(group_id, place or 0, body)
    match sig:
        case _ if sig["subtask_type"] is None:  # most are: first, so that a large group is quick
            plan.messages.append(_message(app, sig, args, kwargs or {}, merged, rest, member, strict=plan.strict))
        case chain():
            _chain(app, sig, plan, args, kwargs, merged, rest, member)
        case group():
            _group(app, sig, plan, args, kwargs, merged, rest, member)
        case chord():
            _chord(app, sig, plan, args, kwargs, merged, rest, member)
        case chunks():
            compose(app, sig.group(), plan, args, kwargs, options, rest=rest, member=member)
        case _:  # map, starmap
            plan.messages.append(_message(app, sig, args, kwargs or {}, merged, rest, member, strict=plan.strict))


def _chain(
    app: Sender, sig: chain, plan: Plan, args: Any, kwargs: Any, options: dict[str, Any], rest: Sequence[Any], member: Member | None
) -> None:  # fmt: skip
    options.pop("task_id", None)  # its last step's
    steps = linked(sig.tasks)
    if not steps:
        return
    link, errbacks = listed(options.pop("link", None)), listed(options.pop("link_error", None))
    if link or errbacks or (member is not None and len(steps) > 1):
        steps = [step.clone() for step in steps]
        for callback in link:
            steps[-1].link(callback)
        for errback in errbacks:
            for step in steps:
                step.link_error(errback)
    first, *following = steps
    if following and member is not None:
        following[-1] = placed(following[-1], member)
        member = None
    compose(app, first, plan, args, kwargs, options, rest=[*rest, *reversed(following)], member=member)


def _group(
    app: Sender, sig: group, plan: Plan, args: Any, kwargs: Any, options: dict[str, Any], rest: Sequence[Any], member: Member | None
) -> None:  # fmt: skip
    if rest:  # as Celery's clients may leave it to workers
        body = maybe_signature(rest[-1])
        upgraded, _ = frozen(app, chord(sig, body))
        compose(app, upgraded, plan, args, kwargs, options, rest=rest[:-1], member=member)
        return
    if options.get("link"):
        raise TypeError("a group has no value of its own to be linked to: make it a chord, group(…) | callback")
    group_id = options.pop("task_id", None) or ""
    body, place = None, 0
    if member is not None:
        group_id, place, body = member
    for one in flat(sig):
        theirs = member is None and one["options"].get("chord")  # it counts elsewhere: see `placed`
        compose(app, one, plan, args, kwargs, options, member=None if theirs else Member(group_id, place, body))
        place += size(one)


def _chord(
    app: Sender, sig: chord, plan: Plan, args: Any, kwargs: Any, options: dict[str, Any], rest: Sequence[Any], member: Member | None
) -> None:  # fmt: skip
    body = sig.body.clone()
    for callback in listed(options.pop("link", None)):
        body.link(callback)
    for errback in listed(options.pop("link_error", None)):
        body.link_error(errback)
    if isinstance(body, chain):
        # What follows its first step becomes an option of that one: Celery's workers fail it with its body.
        body, *following = linked(body.unchain_tasks())
        if following and member is not None:
            following[-1], member = placed(following[-1], member), None
        rest = [*rest, *reversed(following)]
    if member is not None:
        body = placed(body, member)
    if rest:
        body["options"] = {**body["options"], "chain": [*rest, *(body["options"].get("chain") or ())]}
    options = {name: value for name, value in options.items() if name not in _OF_CHORDS}
    shared = {name: options[name] for name in ("root_id", "parent_id", *_stamps_of(options)) if name in options}
    header = sig.header
    count = size(header)
    if not count:
        compose(app, body, plan, ([],), None, shared)
        return
    if not app.backend.keeps_chords:
        raise NotSupported(
            f"{sig!r:.200}: the result store of this app cannot count a chord's members;"
            " set result_backend to a Redis, Valkey or SQL one"
        )
    group_id = header["options"].get("task_id")
    plan.chords.append(ChordStart(group_id, count, _structure(app, header)))
    inherited = {name: value for name, value in header["options"].items() if name != "task_id"}
    place = 0
    for one in flat(header):
        compose(app, one, plan, args, kwargs, {**inherited, **options}, member=Member(group_id, place, body))
        place += size(one)


def placed(sig: Signature, member: Member) -> Signature:
    """A copy that counts as a member: written on the last calls themselves, as Celery's workers read it. It may count already."""
    match sig:
        case chain() if sig.tasks:
            return _with_parts(sig, tasks=[*sig.tasks[:-1], placed(sig.tasks[-1], member)])
        case group():
            place, tasks = member.place, []
            for one in flat(sig):
                tasks.append(placed(one, member._replace(place=place)))
                place += size(one)
            return _with_parts(sig, tasks=tasks)
        case chord():
            return _with_parts(sig, body=placed(sig.body, member))
        case _ if sig["options"].get("chord"):
            return sig
        case _:
            return sig.clone().set(group_id=member.group_id, group_index=member.place, chord=member.body)


def _with_parts(sig: Signature, **parts: Any) -> Signature:
    made = sig.clone()
    made["kwargs"] = {**made["kwargs"], **parts}
    return made


def size(sig: Signature) -> int:
    """How many calls it ends with: as many members it counts for in a chord's header."""
    match sig:
        case _ if sig["subtask_type"] is None:
            return 1
        case group():
            return sum(map(size, sig.tasks))
        case chain():
            return size(sig.tasks[-1]) if sig.tasks else 0
        case chord():
            return size(sig.body)
        case chunks():
            return size(sig.group())
        case _:
            return 1


def _structure(app: Any, header: group) -> Any:
    """The header's result, where it has groups within; else None."""
    if all(size(one) == 1 and not _is_group(one) for one in header.tasks):
        return None
    _, result = frozen(app, header)
    return result.as_tuple() if any(isinstance(one, GroupResult) for one in result.results) else None


def _is_group(sig: Signature) -> bool:
    last: Any = sig
    while isinstance(last, chain | chord):
        last = last.body if isinstance(last, chord) else last.tasks[-1]
    return isinstance(last, group)


def _message(
    app: Sender, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any], rest: Sequence[Any],
    member: Member | None, *, strict: bool,
) -> TaskMessage:  # fmt: skip
    if not isinstance(sig["task"], str):
        raise TypeError(f"{dict(sig)!r:.200} names no task")
    given, named = _arguments(sig, args, kwargs)
    if rest:
        options["chain"] = rest
    if member is not None and member.body is not None:
        options["chord"] = member.body
    task = app.tasks.get(sig["task"])
    if task is not None and strict:
        task.check_arguments(given, named)
    marked = stamp_headers(options)
    if marked:
        options["headers"] = {**marked, **(options.get("headers") or {})}
    if not strict:
        options = {name: value for name, value in options.items() if name in app.call_options}
    message = app.message(
        sig["task"], given, named, task,
        countdown=options.pop("countdown", None), eta=options.pop("eta", None), expires=options.pop("expires", None),
        task_id=options.pop("task_id", None), options=options,
    )  # fmt: skip
    if member is not None:  # not as options: a call without any takes the short way through `message`
        message.headers["group"], message.headers["group_index"] = member.group_id, member.place
    return message


def stamp_headers(options: dict[str, Any]) -> dict[str, Any]:
    """Takes stamps and the count of replacements out of options; the headers that they are on the wire."""
    headers: dict[str, Any] = {}
    names = options.pop("stamped_headers", None)
    if names:
        headers["stamped_headers"] = list(names)
        headers["stamps"] = {name: options.pop(name) for name in names if name in options}
    nesting = options.pop("replaced_task_nesting", None)
    if nesting is not None:
        headers["replaced_task_nesting"] = nesting
    return headers


def _stamps_of(options: Mapping[str, Any]) -> list[str]:
    return ["stamped_headers", *(options.get("stamped_headers") or ())]


def _arguments(
    sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if sig["immutable"]:
        return tuple(sig["args"] or ()), dict(sig["kwargs"] or {})
    return (*args, *(sig["args"] or ())), {**(sig["kwargs"] or {}), **kwargs}


def _merged(own: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call above the signature's; callbacks and stamps of both."""
    merged = {**(own or {}), **given}
    if not own or not given:
        return merged
    for name in ("link", "link_error", "stamped_headers"):
        if own.get(name) and given.get(name):
            both = listed(own[name])
            merged[name] = both + [one for one in listed(given[name]) if one not in both]
    return merged


#: Options of Celery's chords that mean nothing without a task that polls.
_OF_CHORDS = frozenset(["interval", "max_retries", "task_id"])
