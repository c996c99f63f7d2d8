"""Signatures: a call and its options as a dict, in Celery's form on the wire, and what combines them.

    add.s(2, 2) | add.s(4)                          a chain: 8
    group(add.s(i, i) for i in range(3))            at once: [0, 2, 4]
    chord([add.s(1, 1), add.s(2, 2)], total.s())    total([2, 4])

Nothing here is changed by being sent: ids are given out on copies (`canvas/freeze.py`), messages are composed of those
(`canvas/plan.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

#: The app of signatures that were made without one, as a function; `compat` sets it.
default_app: list[Any] = []

Wire = Mapping[str, Any]


class Signature(dict[str, Any]):
    """One call: {task, args, kwargs, options, subtask_type, immutable}.

    task       a task or its name; or all of it, as a mapping. options: of apply_async, `ex` among them.
    immutable  what comes before it passes nothing on to it.
    """

    #: Signatures by their subtask_type, filled by the classes below.
    TYPES: ClassVar[dict[str, type["Signature"]]] = {}
    _app: Any = None

    def __init__(
        self, task: Any = None, args: Any = None, kwargs: Any = None, options: Any = None, type: Any = None, subtask_type: str | None = None,
        immutable: bool = False, app: Any = None, **ex: Any,
    ) -> None:  # fmt: skip
        if isinstance(task, Mapping):
            super().__init__(_EMPTY | {name: value for name, value in task.items() if name in _EMPTY})
            self["kwargs"] = dict(self["kwargs"] or {})
            self["options"] = {**(self["options"] or {}), **ex}
        else:
            known = type if type is not None else task
            app = app if app is not None else getattr(known, "app", None)
            super().__init__(
                task=getattr(known, "name", None) or (task if isinstance(task, str) else None),
                args=tuple(args or ()),
                kwargs=dict(kwargs or {}),
                options={**(options or {}), **ex},
                subtask_type=subtask_type,
                immutable=immutable,
            )
        if app is not None:
            self._app = app

    @classmethod
    def from_dict(cls, d: Wire, app: Any = None) -> "Signature":
        """The signature that a mapping describes."""
        kind = cls.TYPES.get(d.get("subtask_type") or "")
        return Signature(d, app=app) if kind is None else kind._from_wire(d, app)

    @classmethod
    def _from_wire(cls, d: Wire, app: Any) -> "Signature":
        made = dict.__new__(cls)
        Signature.__init__(made, d, app=app)
        return made

    # -- parts

    @property
    def app(self) -> Any:
        """The app it is sent by."""
        found = _app_of(self)
        return found if found is not None else default_app[-1]()

    @property
    def type(self) -> Any:
        """The task. Raises NotRegistered when its name is not known here."""
        return self.app.find(self["task"])

    @property
    def task(self) -> Any:
        """The task's name."""
        return self["task"]

    @property
    def name(self) -> Any:
        """The task's name."""
        return self["task"]

    @property
    def args(self) -> Any:
        """Positional arguments."""
        return self["args"]

    @args.setter
    def args(self, value: Any) -> None:
        self["args"] = value

    @property
    def kwargs(self) -> Any:
        """Named arguments; of a chain, group or chord: its parts."""
        return self["kwargs"]

    @kwargs.setter
    def kwargs(self, value: Any) -> None:
        self["kwargs"] = value

    @property
    def options(self) -> Any:
        """Options of apply_async."""
        return self["options"]

    @options.setter
    def options(self, value: Any) -> None:
        self["options"] = value

    @property
    def subtask_type(self) -> Any:
        """chain, group, chord, map, starmap, chunks; None for a call of one task."""
        return self["subtask_type"]

    @property
    def immutable(self) -> bool:
        """Whether it takes nothing from what comes before it."""
        return bool(self["immutable"])

    @immutable.setter
    def immutable(self, value: bool) -> None:
        self["immutable"] = value

    @property
    def id(self) -> Any:
        """The id it was given, None until it is frozen."""
        return self["options"].get("task_id")

    # -- making others of it

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> "Signature":
        """A copy with arguments put before its own, named ones and options merged; an immutable one keeps its own arguments."""
        made = self.__class__._from_wire(self, self._app)
        made["args"] = tuple(self["args"] or ())
        if not self["immutable"]:
            made["args"] = (*(args or ()), *made["args"])
            made["kwargs"] = {**(self["kwargs"] or {}), **(kwargs or {})}
        else:
            made["kwargs"] = dict(self["kwargs"] or {})
        made["options"] = {**_copied_links(self["options"]), **options}
        return made

    partial = clone

    def __deepcopy__(self, memo: Any) -> "Signature":
        return self.clone()

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> "Signature":
        """A copy with these instead of its own."""
        made = self.clone()
        if args is not None:
            made["args"] = tuple(args)
        if kwargs is not None:
            made["kwargs"] = dict(kwargs)
        if options is not None:
            made["options"] = dict(options)
        return made

    def set(self, immutable: bool | None = None, **options: Any) -> "Signature":
        """Set options of apply_async; itself."""
        if immutable is not None:
            self["immutable"] = immutable
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether it takes what comes before it."""
        self["immutable"] = immutable

    def link(self, callback: Any) -> Any:
        """Call this when it has succeeded, with its value; the callback."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call this when it has failed; the callback."""
        return self._append("link_error", errback)

    def on_error(self, errback: Any) -> "Signature":
        """As link_error; itself."""
        self.link_error(errback)
        return self

    def _append(self, option: str, value: Any) -> Any:
        linked = listed(self["options"].get(option))
        if value not in linked:
            linked.append(value)
        self["options"][option] = linked
        return value

    def flatten_links(self) -> list[Any]:
        """Itself and all that is linked to it, however deep."""
        found: list[Any] = [self]
        for linked in listed(self["options"].get("link")):
            found += maybe_signature(linked, self._app).flatten_links()
        return found

    def __or__(self, other: Any) -> Any:
        """This, then that. A group followed by something becomes a chord."""
        return _joined(self, other)

    __ior__ = __or__

    def unchain_tasks(self) -> list["Signature"]:
        """Its steps, as copies with its error callbacks, the last one with its callbacks."""
        return [self.clone()]

    # -- stamps

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> "Signature":
        """Mark it and all within it; see canvas/stamping.py."""
        from celeriac.canvas.stamping import stamp

        stamp(self, visitor, headers, append=append_stamps)
        return self

    # -- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body here and now, with these arguments before its own."""
        called = self.clone(args, kwargs)
        return called.type(*called["args"], **called["kwargs"])

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it, and all that follows from it; the handle. Raises as Task.apply_async does, before anything is sent."""
        from celeriac.canvas.plan import send

        return send(self.app, self, args or (), kwargs or {}, options)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run it here, as workers would; an EagerResult, or a GroupResult of them."""
        from celeriac.canvas.eager import run

        return run(self.app, self, args or (), kwargs or {}, options)

    def freeze(
        self, _id: str | None = None, group_id: str | None = None, chord: Any = None, root_id: str | None = None, parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:  # fmt: skip
        """Give it, and all within it, ids now; the handle that sending it will return."""
        from celeriac.canvas.freeze import frozen

        given = {
            "group_id": group_id,
            "chord": chord,
            "root_id": root_id,
            "parent_id": parent_id,
            "group_index": group_index,
        }
        copy, result = frozen(self.app, self, own_id=_id)
        self.update(copy)
        self["options"].update({name: value for name, value in given.items() if value is not None})
        return result

    _freeze = freeze

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text."""
        shown = [repr(value) for value in (*args, *(self["args"] or ()))]
        shown += [f"{name}={value!r}" for name, value in {**(self["kwargs"] or {}), **kwargs}.items()]
        return f"{self['task']}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __json__(self) -> Any:
        return dict(self)


_EMPTY: dict[str, Any] = {
    "task": None,
    "args": (),
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}


class chain(Signature):  # noqa: N801 - Celery's name
    """One after the other, each with the value of the one before. A group that something follows becomes the header of a chord."""

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        given = _given(tasks)
        steps = linked(given)
        if not options and len(steps) == 1 and isinstance(steps[0], chord) and len(given) > 1:
            return steps[0]
        made: Any = super().__new__(cls)
        made._steps = steps  # read here and not again: an iterator gives its items once
        return made

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        steps = self.__dict__.pop("_steps")
        super().__init__("celery.chain", (), {"tasks": steps}, options, subtask_type="chain", app=app)

    @property
    def tasks(self) -> list[Signature]:
        """The steps."""
        steps = signatures(self["kwargs"]["tasks"], self._app)
        self["kwargs"]["tasks"] = steps
        return steps

    @tasks.setter
    def tasks(self, value: Any) -> None:
        self["kwargs"]["tasks"] = list(value)

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> "Signature":
        """A copy; arguments go before those of its first step."""
        made = self.__class__._from_wire(self, self._app)
        steps = [step.clone() for step in self.tasks]
        if steps and (args or kwargs):
            steps[0] = steps[0].clone(args, kwargs)
        made["kwargs"] = {**self["kwargs"], "tasks": steps}
        made["options"] = {**_copied_links(self["options"]), **options}
        return made

    def unchain_tasks(self) -> list[Signature]:
        steps = [step.clone() for step in self.tasks]
        for errback in listed(self["options"].get("link_error")):
            for step in steps:
                step.link_error(errback)
        for callback in listed(self["options"].get("link")) if steps else ():
            steps[-1].link(callback)
        return steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it."""
        return self.apply_async(args, kwargs)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks)) if self.tasks else "<empty chain>"


_chain = chain


class group(Signature):  # noqa: N801 - Celery's name
    """All at once. tasks: signatures, or one iterable of them."""

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        given = _given(tasks)
        members = signatures(given[0].tasks if len(given) == 1 and isinstance(given[0], group) else given, app)
        super().__init__("celery.group", (), {"tasks": members}, options, subtask_type="group", app=app)

    @property
    def tasks(self) -> list[Signature]:
        """The members."""
        members = signatures(self["kwargs"]["tasks"], self._app)
        self["kwargs"]["tasks"] = members
        return members

    @tasks.setter
    def tasks(self, value: Any) -> None:
        self["kwargs"]["tasks"] = list(value)

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> "Signature":
        """A copy; arguments go before those of each member."""
        made = self.__class__._from_wire(self, self._app)
        made["kwargs"] = {**self["kwargs"], "tasks": [member.clone(args, kwargs) for member in self.tasks]}
        made["options"] = {**_copied_links(self["options"]), **options}
        return made

    def link(self, callback: Any) -> Any:
        """Call this when the first member has succeeded: as Celery does. For when all have, use a chord."""
        return self.tasks[0].link(maybe_signature(callback, self._app).clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Call this for each member that fails."""
        for member in self.tasks:
            member.link_error(maybe_signature(errback, self._app).clone())
        return errback

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> "group":
        """Let members start so many seconds apart; itself."""
        countdown = start
        for member in self.tasks:
            member.set(countdown=countdown)
            countdown += step
            if stop is not None and countdown >= stop:
                countdown = start
        return self

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(args, **options)

    def __repr__(self) -> str:
        return f"group({self.tasks!r})"


class chord(Signature):  # noqa: N801 - Celery's name
    """A header of calls that run at once, and a body that is called with the list of their values."""

    def __init__(self, header: Any = None, body: Any = None, app: Any = None, **options: Any) -> None:
        parts = {"header": _header(header, app), "body": maybe_signature(body, app), "kwargs": {}}
        super().__init__("celery.chord", (), parts, options, subtask_type="chord", app=app)

    @property
    def header(self) -> Any:
        """The header, a group."""
        header = _header(self["kwargs"]["header"], self._app)
        self["kwargs"]["header"] = header
        return header

    @property
    def tasks(self) -> list[Signature]:
        """The header's members."""
        members: list[Signature] = self.header.tasks
        return members

    @tasks.setter
    def tasks(self, value: Any) -> None:
        self["kwargs"]["header"] = value

    @property
    def body(self) -> Any:
        """The body; None until it has one."""
        body = maybe_signature(self["kwargs"].get("body"), self._app)
        self["kwargs"]["body"] = body
        return body

    @body.setter
    def body(self, value: Any) -> None:
        self["kwargs"]["body"] = value

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> "Signature":
        """A copy; arguments go before those of each member of the header."""
        made = self.__class__._from_wire(self, self._app)
        body = self.body
        made["kwargs"] = {
            **self["kwargs"],
            "header": self.header.clone(args, kwargs),
            "body": body.clone() if body is not None else None,
        }
        made["options"] = {**_copied_links(self["options"]), **options}
        return made

    def link(self, callback: Any) -> Any:
        """Call this with the body's value."""
        return self._of_body().link(callback)

    def link_error(self, errback: Any) -> Any:
        """Call this when the body fails, or cannot run; with task_allow_error_cb_on_chord_header also for each failed member."""
        if self.app.conf.task_allow_error_cb_on_chord_header:
            self.header.link_error(errback)
        return self._of_body().link_error(errback)

    def _of_body(self) -> Any:
        body = self.body
        if body is None:
            raise ValueError(f"{self!r} has no body yet: give it one, chord(header, body), before you link to it")
        return body

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body."""
        sent = self.clone()
        if body is not None:
            sent["kwargs"]["body"] = maybe_signature(body, self._app)
        return sent.apply_async(**options)

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self.body!r})"


class _Mapped(Signature):
    """A call of one built-in task, with a signature among its arguments."""

    _name: ClassVar[str] = ""

    def __init__(self, task: Any = None, it: Any = (), app: Any = None, **options: Any) -> None:
        task = (
            maybe_signature(task, app)
            if isinstance(task, Mapping)
            else task.s()
            if hasattr(task, "s")
            else Signature(task)
        )
        super().__init__(
            f"celery.{self._name}", (), {"task": task, "it": list(it)}, options,
            subtask_type=self._name, immutable=True, app=app if app is not None else task._app,
        )  # fmt: skip


class xmap(_Mapped):  # noqa: N801 - Celery's name
    """One call that runs the task for each item: [task(item) for item in it]."""

    _name = "map"

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}(x) for x in {self['kwargs']['it']!r:.100}]"


class xstarmap(_Mapped):  # noqa: N801 - Celery's name
    """One call that runs the task for each tuple: [task(*args) for args in it]."""

    _name = "starmap"

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}(*x) for x in {self['kwargs']['it']!r:.100}]"


class chunks(Signature):  # noqa: N801 - Celery's name
    """A group of calls, each of which runs the task for `n` tuples."""

    def __init__(self, task: Any = None, it: Any = (), n: int = 1, app: Any = None, **options: Any) -> None:
        if n < 1:
            raise ValueError(f"chunks of {n}: at least 1 call must be in each")
        task = (
            maybe_signature(task, app)
            if isinstance(task, Mapping)
            else task.s()
            if hasattr(task, "s")
            else Signature(task)
        )
        super().__init__(
            "celery.chunks", (), {"task": task, "it": list(it), "n": n}, options,
            subtask_type="chunks", immutable=True, app=app if app is not None else task._app,
        )  # fmt: skip

    def group(self) -> Signature:
        """The group that is sent for it."""
        parts, task = iter(self["kwargs"]["it"]), self["kwargs"]["task"]
        members = []
        while part := list(islice(parts, self["kwargs"]["n"])):
            members.append(xstarmap(task, part, app=self._app))
        return group(members, app=self._app, **self["options"])

    def __call__(self, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(**options)


Signature.TYPES.update(
    {"chain": chain, "group": group, "chord": chord, "map": xmap, "starmap": xstarmap, "chunks": chunks}
)


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature:
    """The signature of a task's name, a task, or a mapping that describes one. Also the guide's `subtask`."""
    if isinstance(varies, Signature):
        app = kwargs.pop("app", None)
        made = varies.clone(*args, **kwargs)
        if made._app is None and app is not None:
            made._app = app
        return made
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(value: Any, app: Any = None) -> Any:
    """A mapping as a signature; anything else, None above all, as it is."""
    if isinstance(value, Signature):
        if app is not None and value._app is None:
            value._app = app
        return value
    return Signature.from_dict(value, app=app) if isinstance(value, Mapping) else value


def signatures(values: Iterable[Any], app: Any = None) -> list[Signature]:
    """Each as a signature; a task is its call without arguments. Raises TypeError for what is none, naming the way out."""
    found = [
        value.s() if hasattr(value, "apply_async") and not isinstance(value, Signature) else maybe_signature(value, app)
        for value in values
    ]
    for one in found:
        if not isinstance(one, Signature):
            raise TypeError(f"{one!r:.200} is no signature: pass task.s(…) or task.si(…), not a result or a value")
    return found


def linked(tasks: Iterable[Any], app: Any = None) -> list[Signature]:
    """The steps of a chain: chains within it spliced, groups that something follows made headers of chords.

    As in Celery a group of one is that one, and an empty group between others is left out.
    """
    steps: list[Signature] = []
    for step in _spliced(signatures(tasks, app)):
        if isinstance(step, group) and len(step.tasks) == 1:
            step = _with_options(step)
            for inner in _spliced([step]):
                _add(steps, inner)
        elif steps and isinstance(step, group) and not step.tasks:
            continue
        else:
            _add(steps, step)
    return steps


def _with_options(one: "group") -> Signature:
    """The only member of a group, with the group's options under its own."""
    [member] = one.tasks
    if not one["options"]:
        return member
    return member.clone().set(**{**{k: v for k, v in one["options"].items() if k != "task_id"}, **member["options"]})


def _spliced(tasks: Iterable[Signature]) -> Iterator[Signature]:
    for task in tasks:
        if isinstance(task, chain):
            yield from _spliced(task.unchain_tasks() if task["options"] else task.tasks)
        elif isinstance(task, chunks):
            yield task.group()
        else:
            yield task


def _add(steps: list[Signature], step: Signature) -> None:
    """Put a step at the end. What ends in a group waits for all of its members, so it becomes, or gets, a chord."""
    last = steps[-1] if steps else None
    if isinstance(last, group):
        steps[-1] = chord(last, step, app=last._app) if last.tasks else step
    elif isinstance(last, chord) and last.body is not None and ends_in_group(last.body):
        made = last.clone()
        made["kwargs"]["body"] = _one(linked([last.body, step]), last._app)
        steps[-1] = made
    else:
        steps.append(step)


def ends_in_group(step: Signature) -> bool:
    """Whether its value is that of a group: several."""
    match step:
        case group():
            return True
        case chain():
            return bool(step.tasks) and ends_in_group(step.tasks[-1])
        case chord():
            return step.body is not None and ends_in_group(step.body)
        case _:
            return False


def _one(steps: list[Signature], app: Any) -> Signature:
    return steps[0] if len(steps) == 1 else chain(steps, app=app)


def _joined(first: Signature, then: Any) -> Any:
    if not isinstance(then, Signature):
        return NotImplemented
    if isinstance(first, group):  # also of one: who writes group(…) | body wants a list
        return chord(first, then, app=first._app)
    if isinstance(first, chord) and first.body is not None and not isinstance(then, group):
        made = first.clone()
        made["kwargs"]["body"] = made["kwargs"]["body"] | then
        return made
    app = first._app if first._app is not None else then._app
    made_of = [*first.unchain_tasks()] if isinstance(first, chain) else [first.clone()]
    steps = linked([*made_of, then])
    if len(steps) == 1:
        return steps[0]
    made = chain(steps, app=app)
    if isinstance(first, chain) and isinstance(made, chain):
        made["options"] = {k: v for k, v in first["options"].items() if k not in {"link", "link_error"}}
    return made


def _given(tasks: Sequence[Any]) -> list[Any]:
    """Members given one by one, or as one iterable."""
    if len(tasks) == 1:
        only = tasks[0]
        if isinstance(only, group | chunks) and not isinstance(only, chord):
            return [only]
        if not isinstance(only, Mapping):
            try:
                return list(only)
            except TypeError:
                raise TypeError(
                    f"{only!r:.200} is no signature: pass task.s(…) or task.si(…), or a list of them"
                ) from None
    return list(tasks)


def _header(value: Any, app: Any) -> Any:
    """A chord's header as a group."""
    if isinstance(value, group):
        return value
    if isinstance(value, Mapping):
        made = maybe_signature(value, app)
        return made if isinstance(made, group) else made.group() if isinstance(made, chunks) else group([made], app=app)
    return group(list(value or ()), app=app)


def _app_of(sig: Signature) -> Any:
    """Its own app, or that of the first within it that has one, however deep."""
    if sig._app is not None:
        return sig._app
    return next(filter(None, (_app_of(inner) for inner in _inner(sig) if isinstance(inner, Signature))), None)


def _inner(sig: Signature) -> Iterable[Any]:
    """The signatures right within one."""
    match sig:
        case chain() | group():
            return list(sig["kwargs"].get("tasks") or ())
        case chord():
            return [sig["kwargs"].get("header"), sig["kwargs"].get("body")]
        case _:
            return ()


def _copied_links(options: Any) -> dict[str, Any]:
    """Options of which the lists of callbacks are copies: linking to a clone links to that alone."""
    copied = dict(options or {})
    for name in ("link", "link_error"):
        if name in copied:
            copied[name] = listed(copied[name])
    return copied


def listed(value: Any) -> list[Any]:
    """One, several or none, as a list of its own."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
