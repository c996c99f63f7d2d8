"""Signatures: a call and its options as a dict, in Celery's form on the wire. What combines them is in `canvas/forms.py`.

Nothing here is changed by being sent: ids are given out on copies (`canvas/freeze.py`), messages are composed of those
(`canvas/plan.py`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

#: The app of signatures that were made without one, as a function; `compat` sets it.
default_app: list[Any] = []

Wire = Mapping[str, Any]


class Signature(dict[str, Any]):
    """One call: {task, args, kwargs, options, subtask_type, immutable}.

    task       a task or its name; or all of it, as a mapping. options: of apply_async, `ex` among them.
    immutable  what comes before it passes nothing on to it.
    """

    #: Signatures by their subtask_type, filled by `canvas/forms.py`.
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

    def _inner(self) -> Iterable[Any]:
        """The signatures right within it, some perhaps as plain mappings; None for a body that is missing."""
        return ()

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
        made["options"] = {**copied_links(self["options"]), **options}
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
        from celeriac.canvas.joining import joined  # it stands above

        return joined(self, other)

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


def _app_of(sig: Signature) -> Any:
    """Its own app, or that of the first within it that has one, however deep."""
    if sig._app is not None:
        return sig._app
    return next(filter(None, (_app_of(inner) for inner in sig._inner() if isinstance(inner, Signature))), None)


def copied_links(options: Any) -> dict[str, Any]:
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
