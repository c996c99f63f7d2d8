"""What combines signatures: chain, group, chord, map, starmap, chunks.

add.s(2, 2) | add.s(4)                          a chain: 8
group(add.s(i, i) for i in range(3))            at once: [0, 2, 4]
chord([add.s(1, 1), add.s(2, 2)], total.s())    total([2, 4])
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from celeriac.canvas.signature import Signature, copied_links, listed, maybe_signature, signatures


class chain(Signature):  # noqa: N801 - Celery's name
    """One after the other, each with the value of the one before. A group that something follows becomes the header of a chord."""

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        given = _given(tasks)
        from celeriac.canvas.joining import linked  # it stands above

        steps = linked(given)
        if not options and len(steps) == 1 and isinstance(steps[0], chord) and len(given) > 1:
            return steps[0]
        made: Any = super().__new__(cls)
        made._steps = steps  # read here and not again: an iterator gives its items once
        return made

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        steps = self.__dict__.pop("_steps")
        super().__init__("celery.chain", (), {"tasks": steps}, options, subtask_type="chain", app=app)

    def _inner(self) -> Iterable[Any]:
        return list(self["kwargs"].get("tasks") or ())

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
        made["options"] = {**copied_links(self["options"]), **options}
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


class group(Signature):  # noqa: N801 - Celery's name
    """All at once. tasks: signatures, or one iterable of them."""

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        given = _given(tasks)
        members = signatures(given[0].tasks if len(given) == 1 and isinstance(given[0], group) else given, app)
        super().__init__("celery.group", (), {"tasks": members}, options, subtask_type="group", app=app)

    def _inner(self) -> Iterable[Any]:
        return list(self["kwargs"].get("tasks") or ())

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
        made["options"] = {**copied_links(self["options"]), **options}
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

    def _inner(self) -> Iterable[Any]:
        return [self["kwargs"].get("header"), self["kwargs"].get("body")]

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
        made["options"] = {**copied_links(self["options"]), **options}
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
        task = _without_arguments(task, app)
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
        task = _without_arguments(task, app)
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


def _without_arguments(task: Any, app: Any) -> Any:
    """What map and chunks call: a signature, or a task or its name as one."""
    if isinstance(task, Mapping):
        return maybe_signature(task, app)
    return task.s() if hasattr(task, "s") else Signature(task)


Signature.TYPES.update(
    {"chain": chain, "group": group, "chord": chord, "map": xmap, "starmap": xstarmap, "chunks": chunks}
)
