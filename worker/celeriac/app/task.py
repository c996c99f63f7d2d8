"""Task: a function and its execution options; how it is called, and what it may ask and say while it runs."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

from celeriac import states
from celeriac.app import definition, retrying, workflow
from celeriac.app.context import IDLE, REQUEST_FIELDS, Request, current, task_logger
from celeriac.app.derived import OwnStore, derived
from celeriac.app.models import Models
from celeriac.canvas.forms import chunks, xmap, xstarmap
from celeriac.canvas.signature import Signature
from celeriac.exceptions import MaxRetriesExceededError
from celeriac.policy import errormail, throttle
from celeriac.policy.throttle import KeySpec
from celeriac.policy.unique import Unique
from celeriac.result import AsyncResult, EagerResult, R

if TYPE_CHECKING:  # as in celeriac.result: `Task` alone means any arguments
    from typing_extensions import ParamSpec

    P = ParamSpec("P", default=...)
else:
    from typing import ParamSpec

    P = ParamSpec("P")


class Sender(Protocol):
    """What a task needs of its app."""

    conf: Any

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult: ...
    def send_many(self, name: str, calls: Any, **options: Any) -> list[AsyncResult]: ...
    async def asend_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult: ...
    def run_here(self, task: Any, args: Any, kwargs: Any, **options: Any) -> Any: ...
    def store_state(self, task_id: str, state: str, meta: Any) -> None: ...


#: Told of each class that may be a task and names no app: `compat` finds it one.
defined: list[Callable[[type["Task"]], None]] = []


class Task(Generic[P, R]):
    """A registered task. One instance for each name and process; calling it runs the body here.

    Class attributes are the task's options, under Celery's names; None means: as the settings say.

    A subclass with a `run` is a task itself, registered when its app's registry is first looked at, unless it says `abstract = True`
    or its `__init__` wants arguments (then: `app.register_task(Add(5))`). `abstract` and `name` are not inherited. The app is that of
    `app.Task`, if it derives from it; else the current one, or the next one made.
    """

    app: ClassVar[Any] = None
    name: str | None = None
    abstract: bool = True
    typing: bool = True

    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True
    throws: tuple[type[BaseException], ...] = ()

    rate_limit: Any = derived(attrgetter("task_default_rate_limit"))
    rate_limit_scope: str | None = derived(attrgetter("task_rate_limit_scope"))
    rate_limit_key: KeySpec | None = None
    max_concurrency: int | None = None
    concurrency_key: KeySpec | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = derived(attrgetter("task_ignore_result"))
    store_errors_even_if_ignored: bool | None = derived(attrgetter("task_store_errors_even_if_ignored"))
    acks_late: bool | None = derived(attrgetter("task_acks_late"))
    acks_on_failure: bool | None = derived(
        lambda conf: _first_set(conf.task_acks_on_failure, conf.task_acks_on_failure_or_timeout)
    )
    acks_on_timeout: bool | None = derived(
        lambda conf: _first_set(conf.task_acks_on_timeout, conf.task_acks_on_failure_or_timeout)
    )
    acks_on_failure_or_timeout: bool | None = None
    reject_on_worker_lost: bool | None = derived(attrgetter("task_reject_on_worker_lost"))
    retry_on_worker_lost: bool | None = derived(attrgetter("task_retry_on_worker_lost"))
    track_started: bool | None = derived(attrgetter("task_track_started"))
    send_error_emails: bool | None = derived(attrgetter("task_send_error_emails"))
    error_whitelist: Any = derived(lambda conf: errormail.listed(conf.task_error_whitelist))
    backend: Any = OwnStore()
    serializer: str | None = derived(attrgetter("task_serializer"))
    compression: str | None = derived(attrgetter("task_compression"))
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    urgency: str | None = None
    mandatory: bool = False
    immediate: bool = False
    require_consumer: bool = False
    delivery_mode: int | str | None = None
    unique_for: float | timedelta | None = None
    unique_key: KeySpec | None = None
    unique_until: str | None = None
    expires: Any = None
    send_events: bool = True

    MaxRetriesExceededError = MaxRetriesExceededError
    _signature: inspect.Signature | None = None
    #: What `backend` was declared as; None: the app's.
    _own_backend: Any = None

    run: Callable[P, R]

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        own = vars(cls)
        if "abstract" not in own:
            cls.abstract = False
        if "name" not in own:
            cls.name = None
        if "__wrapped__" in own or not definition.registers_itself(cls):  # what a decorator makes, it registers
            return
        if cls.app is not None:
            cls.app.adopt(cls)
        else:
            for tell in defined:
                tell(cls)

    # -- calling

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body here and now."""
        outer = current.get()
        if outer is not None and outer.awaits_call and outer._task is self:
            outer.awaits_call = False
            value: R = self.run(*args, **kwargs)
            return value
        token = current.set(Request(self, args=args, kwargs=kwargs, called_directly=True, outer=outer))
        try:
            return self.run(*args, **kwargs)
        finally:
            current.reset(token)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task with these arguments; the handle of the call."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, task_id: str | None = None, producer: Any = None,
        link: Any = None, link_error: Any = None, shadow: str | None = None, **options: Any,
    ) -> AsyncResult[R]:  # fmt: skip
        """Send the task.

        options: countdown (s), eta (datetime), expires (s or datetime), task_id, queue, exchange, routing_key, priority, urgency,
        serializer, compression, headers, shadow, time_limit, soft_time_limit, ignore_result, mandatory, require_consumer,
        delivery_mode, retry, retry_policy, timeout and confirm_timeout (s), connection, retries, root_id, parent_id, group_id.
        See docs/calling.md.

        Raises TypeError when the arguments do not fit the function or an option is unknown, ValueError for an option that means nothing,
        BrokerUnavailable when the broker cannot be reached in time, NotRoutable for a mandatory message without a queue.
        """
        if task_id is not None:
            options["task_id"] = task_id
        if producer is not None:
            options["producer"] = producer
        if link is not None:
            options["link"] = link
        if link_error is not None:
            options["link_error"] = link_error
        if shadow is not None:
            options["shadow"] = shadow
        if args.__class__ is not tuple or kwargs.__class__ is not dict:
            args, kwargs = self._packed(args, kwargs)
        else:
            kwargs = kwargs.copy()
        self.check_arguments(args, kwargs)
        if self.app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        if self._shadows and options.get("shadow") is None:
            options["shadow"] = self.shadow_name(args, kwargs, options)
        return self._sender().send_task(self.name or "", args, kwargs, task_type=self, **options)

    def send_many(
        self, calls: Iterable[Sequence[Any] | Mapping[str, Any]], kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> list[AsyncResult[R]]:  # fmt: skip
        """Send the task once for each of the calls, many at once; the handles in their order.

        calls    of each its positional arguments, `[(1, "a"), (2, "b")]`, or its named ones, `[{"number": 1}, {"number": 2}]`.
        kwargs   named arguments that all of them share. options: as apply_async's, for all of them; not task_id.

        All arguments are checked before anything is sent: TypeError says which call does not fit. They are sent by the thousand.
        EncodeError and BrokerUnavailable say how many were sent; the latter's `published` holds the places of those in `calls`.
        """
        shared = dict(kwargs) if kwargs else {}
        checked = [self._call_of(place, call, shared) for place, call in enumerate(calls)]
        if "task_id" in options:
            raise TypeError(f"{self.name}.send_many() takes no task_id: each call gets an id of its own")
        if self.app.conf.task_always_eager:
            return [self.apply(args, named, **options) for args, named in checked]
        if type(self).apply_async is not Task.apply_async:  # a way of the user's own, which each call takes
            return [self.apply_async(args, named, **options) for args, named in checked]
        return self._sender().send_many(self.name or "", checked, task_type=self, **options)

    def _packed(self, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as a tuple and a dict. Raises TypeError for text, sets and what else has no places or names."""
        if args is not None and not isinstance(args, (tuple, list)):
            raise TypeError(
                f"{self.name}: args must be a list or a tuple, such as ({args!r:.100},), not {type(args).__name__}"
            )
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError(f"{self.name}: kwargs must be a mapping of names to values, not {type(kwargs).__name__}")
        return tuple(args or ()), dict(kwargs or {})

    def _call_of(self, place: int, call: Any, shared: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """(args, kwargs) of one of many calls. Raises TypeError."""
        if isinstance(call, Mapping):
            args, kwargs = (), {**shared, **call}
        elif isinstance(call, (tuple, list)):
            args, kwargs = tuple(call), shared
        else:
            raise TypeError(
                f"{self.name}.send_many(): call {place} is {call!r:.100}; give its arguments as a tuple, such as (1,), or its named"
                " arguments as a mapping"
            )
        try:
            self.check_arguments(args, kwargs)
        except TypeError as error:
            raise TypeError(f"call {place} of send_many: {error}") from None
        return args, kwargs

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for coroutines: `result = await task.adelay(…)`, and the loop runs on meanwhile."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines. Calls made at the same time go to the broker together."""
        args, kwargs = self._packed(args, kwargs)
        self.check_arguments(args, kwargs)
        if self.app.conf.task_always_eager:
            import asyncio  # only for who has a loop

            return await asyncio.to_thread(self.apply, args, kwargs, **options)
        if self._shadows and options.get("shadow") is None:
            options["shadow"] = self.shadow_name(args, kwargs, options)
        return await self._sender().asend_task(self.name or "", args, kwargs, task_type=self, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        throw: bool | None = None,
        retries: int = 0,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task here, as a worker would; its result. Retries run at once, and so does what is linked to it: see worker/eager.py.

        throw   whether the task's error is raised here, instead of by `get`; task_eager_propagates, unless given.
        options: as apply_async's. Those of time mean nothing: countdown, eta, expires, time limits.

        Raises EncodeError for arguments that could not be sent.
        """
        result: EagerResult[R] = self._sender().run_here(
            self, tuple(args or ()), dict(kwargs or {}), throw=throw, task_id=task_id, retries=retries, **options
        )
        return result

    # -- as a signature: a call as a value, see canvas

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """The call with these arguments."""
        return Signature(self, args, kwargs, app=self.app)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """The same, taking nothing from what comes before it."""
        return Signature(self, args, kwargs, immutable=True, app=self.app)

    def signature(
        self, args: Any = None, kwargs: Any = None, options: Any = None, immutable: bool = False, **more: Any
    ) -> Signature:
        """The call with these arguments and options of apply_async."""
        return Signature(self, args, kwargs, options, immutable=immutable, app=self.app, **more)

    subtask = signature

    def map(self, it: Any) -> Signature:
        """One call of all: [task(item) for item in it]."""
        return xmap(self, it, app=self.app)

    def starmap(self, it: Any) -> Signature:
        """One call of all: [task(*args) for args in it]."""
        return xstarmap(self, it, app=self.app)

    def chunks(self, it: Any, n: int) -> Signature:
        """Calls of n each, at once."""
        return chunks(self, it, n, app=self.app)

    # -- what its arguments must be

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, naming the task, when the body could not be called with these."""
        if self._signature is None or (not kwargs and len(args) in self._fitting):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self._signature}: {error}") from None

    def limit_keys(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
        """Headers that say by which keys this call's rate and concurrency are counted. Raises ValueError for a call without such a key."""
        try:
            return {
                header: throttle.key_of(spec, args, kwargs, self._key_signature) for header, spec in self._keys.items()
            }
        except ValueError as error:
            raise ValueError(f"task {self.name}: {error}") from error

    # -- while it runs

    @property
    def request(self) -> Request:
        """The call that is running in this thread or asyncio task."""
        request = current.get()
        while request is not None and request._task is not self:
            request = request._outer
        return request if request is not None else IDLE

    def push_request(self, *args: Any, **attributes: Any) -> None:
        """Have `request` say so here until `pop_request`: for tests of a body. attributes: as Celery's Context has them: id, retries, args …"""
        own = {name: attributes.pop(name) for name in REQUEST_FIELDS if name in attributes}
        given = args[0] if args else {}
        own.setdefault("called_directly", True)
        current.set(Request(self, {**given, **attributes}, **own, outer=current.get()))

    def pop_request(self) -> None:
        """Undo the last `push_request` of this thread or coroutine."""
        request = current.get()
        current.set(request._outer if request is not None else None)

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Store a state of your own, e.g. PROGRESS with `meta={"current": 3, "total": 9}`."""
        task_id = task_id or self.request.id
        if task_id is None:
            logging.getLogger(__name__).warning(
                "%s.update_state(%s): no task runs here, nothing was stored", self.name, state
            )
            return
        self._sender().store_state(task_id, state or states.PENDING, meta)

    # What it may ask for: methods as they stand in those files.

    retry = retrying.retry
    autoretry = retrying.autoretry
    replace = workflow.replace
    on_replace = workflow.on_replace
    add_to_chord = workflow.add_to_chord
    signature_from_request = subtask_from_request = workflow.signature_from_request

    # -- hooks

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker before the body. What it raises (Ignore, Reject, Retry, any error) is as if the body had, which does not run."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker when the body has returned."""

    def on_retry(self, exc: BaseException | None, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when it will run again."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when it has failed."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when it has ended, one way or another."""

    def execute(self, request: Any, pool: Any, loglevel: int, logfile: str | None, **kw: Any) -> None:
        """Hand a call to the pool. Override it to look at calls first, in the worker's main process: it is called once a message.

        request   a `celeriac.worker.request.TaskRequest`: id, name, args, kwargs, … pool: the worker's. kw: consumer.

        Whoever overrides it calls `super().execute(…)` for the ordinary run, or raises Ignore (the message is acknowledged, nothing
        else happens) or Reject. Any other exception is the task's failure. While it runs, the worker does nothing else.
        """
        request.execute_using_pool(pool, loglevel, logfile, **kw)

    # -- definition

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called when the class is bound to its app, once."""

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Another name of this call for logs and monitors; called at each call that names none."""

    @classmethod
    def bind(cls, app: Any) -> None:
        """Make it a task of this app: once, when it is registered. What the settings decide is looked up later, see app/derived.py."""
        cls.app = app
        cls.prepare()
        cls.on_bound(app)

    @classmethod
    def prepare(cls) -> None:
        """Check its options, and work out of them what each call needs. Again, when they have changed. Raises ImproperlyConfigured."""
        definition.prepare(cls, Task)

    #: Its models (pydantic=True).
    _models: ClassVar[Models | None] = None
    #: How its calls are unique; None: they are not.
    _unique: ClassVar[Unique | None] = None
    _hooked: ClassVar[frozenset[str]] = frozenset()
    _overrides_call: ClassVar[bool] = False
    _overrides_execute: ClassVar[bool] = False
    _shadows: ClassVar[bool] = False
    #: Header -> what it is worked out from, for each call, by the client.
    _keys: ClassVar[Mapping[str, KeySpec]] = {}
    #: How many arguments a call may have that names none.
    _fitting: ClassVar[range] = range(0)
    _key_signature: ClassVar[inspect.Signature | None] = None
    #: Whether calling it gives a coroutine, and runs nothing yet.
    _is_async: ClassVar[bool] = False

    def get_logger(self, **_: Any) -> logging.Logger:
        """A logger named after the task, whose records know the call they were made in (the guide's way)."""
        return task_logger(self.name or type(self).__name__)

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """The handle of a call made before."""
        handle: AsyncResult[R] = self.app.AsyncResult(task_id, backend=self.backend)
        return handle

    def _sender(self) -> Sender:
        sender: Sender = self.app
        return sender

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {getattr(self.app, 'main', None)}>"


def _first_set(value: bool | None, otherwise: bool | None) -> bool:
    return (value if value is not None else otherwise) is not False


__all__ = ["P", "Sender", "Task", "defined"]
