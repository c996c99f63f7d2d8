"""Task: a function and its execution options; how it is called, and how it asks to run again."""

import inspect
import logging
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol
from uuid import NAMESPACE_OID, uuid5

from celeriac import signals, states
from celeriac.app.context import IDLE, REQUEST_FIELDS, Request, current, task_logger
from celeriac.app.derived import derived, explicit, let_settings_decide
from celeriac.app.models import Models
from celeriac.canvas.forms import chunks, xmap, xstarmap
from celeriac.canvas.joining import ends_in_group
from celeriac.canvas.signature import Signature, signature
from celeriac.exceptions import Ignore, ImproperlyConfigured, MaxRetriesExceededError, Retry
from celeriac.policy import errormail, throttle
from celeriac.policy.calling import URGENCIES, check_priority, type_terms
from celeriac.policy.retry import backoff_s, exhausted
from celeriac.policy.throttle import KeySpec
from celeriac.policy.unique import Unique, unique_of
from celeriac.result import AsyncResult, EagerResult, R
from celeriac.wire.message import CONCURRENCY_KEY, RATE_KEY

if TYPE_CHECKING:  # as in celeriac.result: `Task` alone means any arguments
    from typing_extensions import ParamSpec

    P = ParamSpec("P", default=...)
else:
    from typing import ParamSpec

    P = ParamSpec("P")

#: What a retry may change besides its arguments and its time.
RETRY_OPTIONS = frozenset(
    [
        "queue",
        "priority",
        "expires",
        "serializer",
        "compression",
        "headers",
        "time_limit",
        "soft_time_limit",
        "reply_to",
        "routing_key",
        "shadow",
        "ignore_result",
        "link",
        "link_error",
    ]
)
#: What Celery's clients say of the publish itself: a worker publishes a retry together with its acknowledgement, and gives up neither.
_OF_PUBLISHING = frozenset(["retry", "retry_policy", "connection", "producer", "timeout", "add_to_parent"])


class Replaced(Ignore):
    """Raised by Task.replace: `sig` runs instead, under the same id."""

    def __init__(self, sig: Signature) -> None:
        super().__init__("replaced by another task")
        self.sig = sig


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


class _Backend:
    """`task.backend`: the store where the task's results are. A class says another one than the app's by a URL, or a store, of this name."""

    def __get__(self, task: Any, kind: Any = None) -> Any:
        return None if task is None else task.app.store_of(task)


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
    backend: Any = _Backend()
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
        if "__wrapped__" in own or not registers_itself(cls):  # what a decorator makes, it registers
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

    def retry(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, exc: BaseException | None = None, throw: bool = True,
        eta: datetime | None = None, countdown: float | None = None, max_retries: int | None = None, **options: Any,
    ) -> Retry:  # fmt: skip
        """Ask to run again: the same id, `retries` one higher. `raise self.retry(exc=error)`.

        countdown   seconds, default_retry_delay unless given. max_retries: this task's, for this time. throw=False returns the
                    exception instead of raising it; the retry happens all the same.

        options: queue (or routing_key), priority, expires, serializer, compression, headers, time_limit, soft_time_limit, reply_to, shadow,
        ignore_result, link, link_error. args without kwargs, or the other way round: what they leave open stays as it was.

        Raises Retry; or, when the retries are used up, `exc` if given, else MaxRetriesExceededError. TypeError for an unknown option.
        """
        unknown = options.keys() - RETRY_OPTIONS - _OF_PUBLISHING
        if unknown:
            raise TypeError(
                f"{self.name}.retry() does not know {', '.join(sorted(unknown))}; it takes {', '.join(sorted(RETRY_OPTIONS))}"
            )
        request = self.request
        limit = self.max_retries if max_retries is None else max_retries
        if exc is None:
            active = sys.exc_info()[1]
            exc = active if isinstance(active, Exception) else None
        if request.called_directly:
            raise exc if exc is not None else Retry("Task can be retried", None)
        if exhausted(request.retries, limit):
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{request.args} kwargs:{request.kwargs}",
                task_args=request.args,
                task_kwargs=request.kwargs,
            )
        wait_s = self.default_retry_delay if countdown is None and eta is None else countdown
        now = datetime.now(UTC)
        due = moment(eta if eta is not None else wait_s or 0.0, now) or now
        options = {name: value for name, value in options.items() if name not in _OF_PUBLISHING}
        if options.get("expires") is not None:
            options["expires"] = moment(options["expires"], now)
        key = options.pop("routing_key", None)
        if key and not options.get("queue"):
            options["queue"] = key
        linked = {
            field: listed(options.pop(option))
            for option, field in (("link", "callbacks"), ("link_error", "errbacks"))
            if option in options
        }
        if linked:
            options["embed"] = {**request.embed, **linked}
        if (args is None) != (kwargs is None):
            args, kwargs = again_with(self.run, request.args, request.kwargs, args, kwargs)
        if self._models is not None:
            args, kwargs = self._models.dumped(
                request.args if args is None else args, request.kwargs if kwargs is None else kwargs, self.serializer
            )
        again = (
            tuple(request.args) if args is None else tuple(args),
            dict(request.kwargs) if kwargs is None else dict(kwargs),
            due.timestamp(),
            options,
        )
        asked = Retry(exc=exc, when=eta if eta is not None else wait_s, is_eager=request.is_eager, sig=again)
        request.retry_asked = asked
        if throw:
            raise asked from exc
        return asked

    def replace(self, sig: Any) -> Any:
        """Run this signature instead: `return self.replace(other.s(1))`. It has this call's id, group, chord and successors.

        Does not return but where it runs eagerly: then what the other returned. Raises ImproperlyConfigured for a signature that
        cannot take its place.
        """
        sig = signature(sig, app=self.app)
        if sig["options"].get("chord"):
            raise ImproperlyConfigured(f"task {self.name}: a signature that is in a chord already cannot replace it")
        if sig["subtask_type"] == "chain" and not sig["kwargs"].get("tasks"):
            raise ImproperlyConfigured(f"task {self.name}: an empty chain cannot replace it")
        return self.on_replace(sig)

    def on_replace(self, sig: Any) -> Any:
        """What `replace` does. Raises Ignore, for the worker to send the signature together with its acknowledgement."""
        if self.request.is_eager or self.request.called_directly:
            return sig.apply().get()
        raise Replaced(sig)

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Send one more member of the chord whose header this call is in; its handle. lazy: return the signature, to be sent later.

        Delivered again after a crash, the call adds the same members under the same ids, and they count once.

        Raises ValueError where this call is in no chord, or for a group, which is not one member.
        """
        request = self.request
        if not request.chord:
            raise ValueError(f"task {self.name}: this call is a member of no chord, nothing can be added to it")
        sig = signature(sig, app=self.app)
        if ends_in_group(sig):
            raise ValueError(f"task {self.name}: {sig!r:.200} is not one member: add those of a group one by one")
        own_id = sig["options"].get("task_id") or str(
            uuid5(NAMESPACE_OID, f"{request.id}/{request.retries}/{request.added}")
        )
        request.added += 1
        self.app.backend.widen_chord(request.group, own_id)
        sig.freeze(own_id, group_id=request.group, chord=request.chord, root_id=request.root_id)
        sig["options"].setdefault("group_index", request.group_index)
        return sig if lazy else sig.delay()

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Signature:
        """The call that is running, as a signature, with other arguments or options."""
        request = self.request if request is None else request
        own = {
            "task_id": request.id, "link": request.callbacks, "link_error": request.errbacks, "group_id": request.group,
            "group_index": request.group_index, "chord": request.chord, "chain": request.chain, "reply_to": request.reply_to,
            "queue": request.delivery_info.get("queue"),
        }  # fmt: skip
        kept = {name: value for name, value in own.items() if value}
        return self.signature(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, {**kept, **options}
        )

    subtask_from_request = signature_from_request

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Store a state of your own, e.g. PROGRESS with `meta={"current": 3, "total": 9}`."""
        task_id = task_id or self.request.id
        if task_id is None:
            logging.getLogger(__name__).warning(
                "%s.update_state(%s): no task runs here, nothing was stored", self.name, state
            )
            return
        self._sender().store_state(task_id, state or states.PENDING, meta)

    def autoretry(self, error: BaseException) -> None:
        """Turn an error of `autoretry_for` into a retry; called by the worker. Raises Retry, or the error itself."""
        if (
            not self.autoretry_for
            or not isinstance(error, self.autoretry_for)
            or isinstance(error, self.dont_autoretry_for)
        ):
            return
        named = dict(self.retry_kwargs)
        if self.retry_backoff:
            dice = random.randrange if self.retry_jitter else None
            named["countdown"] = backoff_s(
                float(self.retry_backoff), self.request.retries, self.retry_backoff_max, dice
            )
        self.retry(exc=error, **named)

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
        let_settings_decide(cls, Task)
        declared = inspect.getattr_static(cls, "backend")
        if not isinstance(declared, _Backend):
            cls._own_backend, cls.backend = declared, _Backend()
            cls.app.check_store(cls)
        for name in ("default_retry_delay", "retry_backoff_max", "time_limit", "soft_time_limit"):
            value = getattr(cls, name)
            if isinstance(value, timedelta):
                setattr(cls, name, value.total_seconds())
        if cls.acks_on_failure_or_timeout is not None:
            for name in ("acks_on_failure", "acks_on_timeout"):
                if explicit(cls, name) is None:
                    setattr(cls, name, cls.acks_on_failure_or_timeout)
        for name in (
            "autoretry_for",
            "dont_autoretry_for",
            "throws",
        ):  # one class or a list will do; `except` wants a tuple
            kinds = getattr(cls, name) or ()
            setattr(cls, name, (kinds,) if isinstance(kinds, type) else tuple(kinds))
        try:
            whitelist = explicit(cls, "error_whitelist")
            if whitelist is not None:
                cls.error_whitelist = errormail.listed(whitelist)
            throttle.check({name: explicit(cls, name) for name in throttle.OPTIONS})
            cls._unique = unique_of(cls)
        except ValueError as error:
            raise ImproperlyConfigured(f"task {cls.name}: {error}") from None
        cls._check_terms()
        #: Whether the worker must call hooks: looked up once a type, never once a task.
        hooks = ("before_start", "on_success", "on_retry", "on_failure", "after_return")
        cls._hooked = frozenset(hook for hook in hooks if getattr(cls, hook) is not getattr(Task, hook))
        cls._overrides_call = cls.__call__ is not Task.__call__
        cls._overrides_execute = cls.execute is not Task.execute
        cls._shadows = cls.shadow_name is not Task.shadow_name
        body = cls.__call__ if cls._overrides_call else getattr(cls, "run", None)
        cls._is_async = inspect.iscoroutinefunction(body)
        keys = {RATE_KEY: cls.rate_limit_key, CONCURRENCY_KEY: cls.concurrency_key}
        cls._keys = {header: spec for header, spec in keys.items() if spec is not None}
        if (cls.typing or cls._keys or cls._unique) and hasattr(cls, "run"):
            try:
                signature = inspect.signature(cls.run)
            except ValueError:  # some builtins tell nothing of their arguments: then they are not checked
                return
            if not isinstance(inspect.getattr_static(cls, "run"), staticmethod):  # without `self`
                signature = signature.replace(parameters=list(signature.parameters.values())[1:])
            if cls.typing:
                cls._signature = signature
                cls._fitting = _fitting(signature)
            cls._key_signature = signature

    @classmethod
    def _check_terms(cls) -> None:
        """What its calls ask of their publish means something. Raises ImproperlyConfigured, NotSupported for `immediate`."""
        name = cls.name or ""
        try:
            type_terms(name, cls)
            if cls.priority is not None:
                check_priority(name, cls.priority)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(str(error)) from None
        if cls.urgency is not None and cls.urgency not in URGENCIES:
            raise ImproperlyConfigured(
                f"task {name}: urgency {cls.urgency!r} is none of {', '.join(map(repr, URGENCIES))}"
            )
        if cls.urgency is not None and cls.priority is not None:
            raise ImproperlyConfigured(
                f"task {name}: set priority (the broker's own number) or urgency (a word), not both"
            )

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


def registers_itself(kind: type[Task]) -> bool:
    """Whether a class is a task by itself: it has a body, is not abstract, and is made without arguments."""
    if vars(kind).get("abstract") or not callable(getattr(kind, "run", None)):
        return False
    if kind.__init__ is object.__init__:
        return True
    wanted = list(inspect.signature(kind.__init__).parameters.values())[1:]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(each.default is not inspect.Parameter.empty or each.kind in optional for each in wanted)


def task_class(
    app: Any, base: type[Task], function: Callable[..., Any], name: str, *, bind: bool, options: Mapping[str, Any],
    body: Callable[..., Any] | None = None,
) -> type[Task]:  # fmt: skip
    """The class of a decorated function: made once a task type. body: what runs in its place."""
    body = body or function
    run = body if bind else staticmethod(body)
    return type(
        function.__name__,
        (base,),
        {
            "name": name, "run": run, "abstract": False, "__name__": function.__name__,
            "__module__": function.__module__, "__doc__": function.__doc__,
            "__wrapped__": staticmethod(function), "__qualname__": getattr(function, "__qualname__", function.__name__), **options,
        },
    )  # fmt: skip


def awaited(coroutine: Any) -> Any:
    """What a coroutine returns, when there is nobody to await it: in a loop of its own, beside one that runs here."""
    import asyncio  # only for who has coroutines: a client is light
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, asyncio.run, coroutine).result()


def _fitting(signature: inspect.Signature) -> range:
    """How many arguments a call may have that names none: what `bind` would accept, known beforehand."""
    least = most = 0
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty:
            return range(0)
        if each.kind is each.VAR_POSITIONAL:
            most = sys.maxsize - 1
        elif each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            most += 1
            least += each.default is each.empty
    return range(least, most + 1)


def again_with(
    body: Callable[..., Any], own_args: Sequence[Any], own_kwargs: Mapping[str, Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:  # fmt: skip
    """The arguments of a next run that is given either args or kwargs: no argument twice, and those not given as they were."""
    try:
        positional = [  # a place that has no name is left as it is
            each.name if each.kind is each.POSITIONAL_OR_KEYWORD else ""
            for each in inspect.signature(body).parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
    except ValueError:  # a builtin that tells nothing of its arguments
        positional = []
    if args is not None:
        given = set(positional[: len(args)])
        return args, {name: value for name, value in own_kwargs.items() if name not in given}
    kwargs = dict(kwargs or {})
    places = {name: place for place, name in enumerate(positional[: len(own_args)])}
    args = [*own_args]
    for name in places.keys() & kwargs.keys():
        args[places[name]] = kwargs.pop(name)
    return args, kwargs


def listed(value: Any) -> list[Any] | None:
    """Signatures, one or several, as a message holds them; None for none."""
    return None if not value else list(value) if isinstance(value, list | tuple) else [value]


def moment(value: Any, now: datetime) -> datetime | None:
    """An aware datetime out of one (naive means UTC), its ISO 8601 text, a timedelta, or seconds from now. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if isinstance(value, timedelta):
        return now + value
    try:
        return now + timedelta(seconds=float(value))
    except OverflowError as error:
        raise ValueError(f"{value!r} seconds from now is beyond the year 9999") from error


__all__ = [
    "Sender",
    "Task",
    "again_with",
    "awaited",
    "defined",
    "listed",
    "moment",
    "registers_itself",
    "signals",
    "task_class",
]
