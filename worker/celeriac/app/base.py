"""Celeriac, the app: settings, the registry of tasks, and the way to the broker and the result store."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from functools import cached_property
from types import new_class
from typing import Any

from celeriac import config, signals
from celeriac.app import addresses, bulk, calls, configuration, modules, periodic, security
from celeriac.app.addresses import DEFAULT_BROKER
from celeriac.app.calls import no_waiting
from celeriac.app.context import current
from celeriac.app.modules import imported, main_module
from celeriac.app.options import CALL_OPTIONS, check_options
from celeriac.app.registry import Registry
from celeriac.app.stores import open_store
from celeriac.app.task import Task as BaseTask
from celeriac.app.typed import TaskDecorator
from celeriac.backends.base import ResultBackend
from celeriac.backends.custom import check_methods
from celeriac.backends.watching import stop_watching
from celeriac.broker.connection import BrokerAddress, unopened
from celeriac.broker.coordination import Coordination, coordination_address
from celeriac.broker.plan import QueuePlan
from celeriac.broker.producer import Producer, open_producer
from celeriac.canvas.signature import signature
from celeriac.exceptions import ImproperlyConfigured, NotRegistered
from celeriac.policy.routing import Router
from celeriac.result import AsyncResult, GroupResult, ResultSet
from celeriac.wire.message import TaskMessage, Terms
from celeriac.wire.result import ResultMeta

#: Runs calls where they are made: the worker's own executor, which stands above this floor. Set where the package is put together.
runners: list[Callable[..., Any]] = []

#: Runs the `celeriac` command for an app, with these arguments; its exit code. Set there, too.
commands: list[Callable[["Celeriac", list[str]], int]] = []

#: Told of each app made: `compat` keeps the current one.
created: list[Callable[["Celeriac"], None]] = []


class Celeriac:
    """A task queue's client and definition. `Celery` is an alias.

    main      the module that tasks of `__main__` are named after. broker, backend: URLs.
    profile   celery or kubernetes: which defaults hold; CELERIAC_PROFILE stands above it.

    Settings, strongest first: the command line, CELERIAC_* variables (a deployment's word, the same for clients and workers), what is
    set on `conf`, those given here, config_from_object, the profile's defaults.
    """

    #: The base of all tasks of this app: a class, or the dotted path of one. `app.Task` is it, bound to the app.
    task_cls: type[BaseTask] | str = BaseTask

    def __init__(
        self, main: str | None = None, *, broker: str | None = None, backend: str | None = None, include: Sequence[str] | None = None,
        profile: str | None = None, config_source: Any = None, namespace: str | None = None, task_cls: type[BaseTask] | str | None = None,
        set_as_current: bool = True, changes: Mapping[str, Any] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.main = main
        chosen = os.environ.get("CELERIAC_PROFILE") or profile or "celery"
        self._settings = config.Settings(profile=chosen)
        self._settings.pin(config.from_environment(os.environ))
        given = {"broker_url": broker, "result_backend": backend, "include": include}
        self._given = (
            {name: value for name, value in given.items() if value is not None} | dict(changes or {}) | settings
        )
        self._settings.update(self._given)
        self._settings.tell("task_annotations", self._look_again)
        self._settings.tell("beat_schedule", self._look_again)
        #: Entries of the schedule that code has added, whatever the settings say of others.
        self._entries: dict[str, Mapping[str, Any]] = {}
        #: Sources of settings that nobody has asked yet: their modules may import this app's.
        self._sources: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        #: Held while sources are read: their modules may define tasks, and so may a thread that imports them now and wants the lock above.
        self._reading = threading.RLock()
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        if task_cls is not None:
            self.task_cls = task_cls
        self._registry = Registry(self)
        self._producer: Producer | None = None
        self._backend: ResultBackend | None = None
        #: Stores that tasks have for themselves, by URL; and whether any task has one.
        self._stores: dict[str, ResultBackend] = {}
        self.has_own_stores = False
        self._coordination: Coordination | None = None
        self._control: Any = None
        self._sending: Any = None
        self._origin = ""
        self._announced = False
        #: Whether calls, and commands to workers, are signed.
        self.signs = False
        #: Of modules with tasks in each app of a Django project.
        self.related_names: list[str] = []
        #: Told once, in this order, when the modules with tasks are imported: by a worker, beat, or import_tasks().
        self.on_configure = signals.Signal("app.on_configure")
        self.on_after_configure = signals.Signal("app.on_after_configure")
        self.on_after_finalize = signals.Signal("app.on_after_finalize")
        #: Where monitors are told of calls, if they are to be; made with the producer.
        self._sent_events: Any = None
        #: Queue -> its way, of messages that name no routing key.
        self._ways: dict[str, tuple[str, str, str, str]] = {}
        #: task_routes as they were set, and as `route` wants them.
        self._prepared: tuple[Any, Sequence[Router]] = (None, ())
        if set_as_current:
            for tell in created:
                tell(self)

    # -- defining

    @property
    def task(self) -> TaskDecorator:
        """Makes a function a task: `@app.task` or `@app.task(bind=True, max_retries=5, …)`. Options become attributes."""
        return self._task_decorator

    def _task_decorator(self, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and callable(args[0]):
            return self._registry.define(args[0], options)
        if args:
            raise TypeError("@app.task takes named options only, for example @app.task(name='add')")
        return lambda function: self._registry.define(function, options)

    @cached_property
    def Task(self) -> type[BaseTask]:  # noqa: N802 - Celery's name
        """The base of this app's tasks: a subclass with a `run` is registered here."""
        base = self.task_cls
        if isinstance(base, str):
            base = imported(base)
        if not (isinstance(base, type) and issubclass(base, BaseTask)):
            raise ImproperlyConfigured(f"task_cls {base!r} is no subclass of celeriac.Task")
        return new_class(
            "Task", (base,), exec_body=lambda own: own.update(app=self, abstract=True, __module__=base.__module__)
        )

    def register_task(self, task: BaseTask | type[BaseTask], **options: Any) -> BaseTask:
        """Register a task class or instance under its name, with options as attributes; what is registered under that name already stays."""
        return self._registry.register(task, **options)

    def adopt(self, kind: type[BaseTask]) -> None:
        """A class that is a task of this app: named now, made and registered when the registry is first looked at."""
        if kind.name is None:
            kind.name = self.gen_task_name(kind.__name__, kind.__module__)
        self._registry.adopted.append(kind)

    def finalize(self, auto: bool = False) -> None:
        """Register what was defined as a class and what is built in. Done by itself when the registry is looked at."""
        with self._lock:
            self._registry.finalize()

    def begin_process(self) -> None:
        """In a process that will run tasks and was forked from one that has made them: call `__init__` of each once here, too."""
        self._registry.begin_process()

    def gen_task_name(self, name: str, module: str) -> str:
        """module.name; tasks of __main__ take the app's `main`."""
        if module == "__main__":
            module = self.main or main_module()
        return f"{module}.{name}" if module else name

    @property
    def tasks(self) -> Mapping[str, BaseTask]:
        """The registry: names to tasks, those included that are built in (`celery.…`)."""
        _ = self.conf  # what it says of tasks holds now
        if self._registry.adopted or not self._registry.built_in:
            self.finalize(auto=True)
        return self._registry.tasks

    def misplaced_decorators(self) -> list[str]:
        """Tasks whose name in their module is bound to something that another decorator made of them, each as a sentence."""
        return self._registry.misplaced_decorators()

    def find(self, name: str) -> BaseTask:
        """A task by name. Raises NotRegistered."""
        try:
            return self.tasks[name]
        except KeyError:
            raise NotRegistered(name) from None

    def import_tasks(self, more: Iterable[str] = ()) -> None:
        """Import the modules of `imports` and `include`, and more, so that their tasks register."""
        modules.import_tasks(self, more)

    def autodiscover_tasks(
        self, packages: Iterable[str] | Callable[[], Iterable[str]] | None = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:  # fmt: skip
        """Also import `<package>.<related_name>` of each package when a worker starts, where there is one; force: now, too.

        Without packages: of each app of the Django project (contrib/django/fixup.py); nothing elsewhere.
        """
        modules.discover(self, packages, related_name, force)

    # -- where it stands

    def set_current(self) -> None:
        """Make it the current app: that of shared tasks' calls, and of handles that name none."""
        for tell in created:
            tell(self)

    set_default = set_current

    @property
    def current_task(self) -> Any:
        """The task that runs here, None outside of one."""
        request = current.get()
        return request._task if request is not None else None

    @property
    def current_worker_task(self) -> Any:
        """The same, passing over tasks that were called as functions."""
        request = current.get()
        while request is not None and request.called_directly:
            request = request._outer
        return request._task if request is not None else None

    def now(self) -> datetime:
        """The time, in the app's time zone."""
        return datetime.now(self.timezone)

    @property
    def configured(self) -> bool:
        """Whether its settings have been read."""
        return "conf" in self.__dict__

    @property
    def finalized(self) -> bool:
        """Whether its registry has been looked at, and holds what is built in."""
        return self._registry.built_in

    def start(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line for this app: `app.start(["worker", "-l", "info"])`; without arguments, this program's. The exit code."""
        return commands[-1](self, list(sys.argv[1:] if argv is None else argv))

    def worker_main(self, argv: Sequence[str] | None = None) -> int:
        """The same, for a worker."""
        argv = list(sys.argv[1:] if argv is None else argv)
        if "worker" not in argv:
            raise ValueError(f"worker_main({argv!r}): name the command, such as worker_main(['worker', '-l', 'info'])")
        return self.start(argv)

    # -- settings

    # Methods as they stand there. `conf` is made anew after `_look_again`.

    conf = cached_property(configuration.read_settings)
    config_from_object = configuration.config_from_object
    config_from_envvar = configuration.config_from_envvar
    add_defaults = configuration.add_defaults
    check_settings = configuration.check_settings

    def _look_again(self) -> None:
        """What hangs on the settings is worked out when they are read the next time."""
        self.__dict__.pop("conf", None)

    def bugreport(self) -> str:
        """Versions, the platform, and the settings that were changed, without secrets: what `celeriac report` prints."""
        from celeriac.app.report import report  # only for who asks

        return report(self)

    def setup_security(
        self, allowed_serializers: Iterable[str] | None = None, key: str | None = None, key_password: str | bytes | None = None,
        cert: str | None = None, store: str | None = None, digest: str | None = None, serializer: str = "json",
    ) -> None:  # fmt: skip
        """Sign every call, and run only what was signed by the holder of a certificate in `store`; see docs/security.md.

        key, cert   files in PEM. store: a folder, or a glob, of certificates. Unset: the settings security_key and so on.
        serializer  of what is signed; allowed_serializers: others that may be read out of a signed message.

        Raises ImproperlyConfigured, also unless task_serializer is "auth" and accept_content ["auth"].
        """
        security.set_up(
            self.conf, allowed=allowed_serializers, key=key, password=key_password, certificate=cert, store=store, digest=digest,
            serializer=serializer,
        )  # fmt: skip
        self.signs = True

    @property
    def timezone(self) -> tzinfo:
        """Whose clock crontabs go by: the setting `timezone`; without one UTC, or with enable_utc=False this machine's zone."""
        return periodic.zone(self.conf.timezone, utc=self.conf.enable_utc)

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, name: str | None = None, **options: Any
    ) -> str:  # fmt: skip
        """Have beat send a task or signature by a schedule: seconds, a timedelta, schedule(), crontab() or solar(). Its entry's name.

        name      of the entry; without one it is made of the call, and adding the same call again replaces it.
        options   those of apply_async; relative=True and catch_up="latest"|"all"|"skip" belong to the entry.

        Raises TypeError or ValueError for what is no schedule, no task, or does not fit the task's arguments.
        """
        key, entry = periodic.entry(self, schedule, sig, args, kwargs or {}, name, options)
        self.add_entry(key, entry)
        return key

    def add_entry(self, name: str, entry: Mapping[str, Any]) -> None:
        """Put an entry on the schedule, where it stays whatever the settings say later of the others."""
        self._entries[name] = entry
        self._settings.beat_schedule = {**self._settings.beat_schedule, name: entry}

    def broker_address(self) -> BrokerAddress:
        """Where the broker is, from the settings."""
        return addresses.broker_address(self.conf, self._plan)

    def connection(self, url: str | None = None) -> Any:
        """A kombu connection to the broker, or to `url`, for uses of your own; it connects when it is used, and is yours to release."""
        address = self.broker_address()
        return unopened(address if url is None else replace(address, url=url))

    connection_for_read = connection_for_write = connection

    # -- calling

    # Methods as they stand there: nothing lies between a call and its message.

    send_task = calls.send_task
    asend_task = calls.asend_task
    message = calls.message
    send_many = bulk.send_many
    publish_many = bulk.publish_many

    def _sending_thread(self) -> Any:
        """Publishes what coroutines ask for: an `app.sending.Sending`."""
        with self._lock:
            if self._sending is None or self._sending.pid != os.getpid():
                from celeriac.app.sending import Sending  # asyncio, only for who has a loop

                self._sending = Sending(
                    lambda: self.producer, self._tell_monitors
                )  # both do I/O: not in a coroutine's thread
            return self._sending

    def _tell_monitors(self, message: TaskMessage) -> None:
        if self._sent_events is not None:
            self._sent_events.tell(message)

    def run_here(self, task: BaseTask, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Any:
        """The EagerResult of a call that runs here; see Task.apply."""
        return runners[-1](self, task, args, kwargs, **options)

    def _monitors(self, address: BrokerAddress) -> Any:
        from celeriac.broker.eventbus import SentEvents  # only for who tells monitors of calls

        return SentEvents(address, self._origin or self._name_origin())

    @cached_property
    def _plan(self) -> QueuePlan:
        return addresses.plan_of(self.conf)

    @cached_property
    def _usual_terms(self) -> Terms | None:
        return addresses.usual_terms(self.conf)

    def _name_origin(self) -> str:
        self._origin = f"gen{os.getpid()}@{socket.gethostname()}"
        return self._origin

    def AsyncResult(self, task_id: str, backend: ResultBackend | None = None) -> AsyncResult:  # noqa: N802 - Celery's name
        """The handle of a call made before, by its id."""
        return AsyncResult(task_id, backend or self.backend, app=self, guard=no_waiting)

    def guard(self) -> None:
        """What a handle asks before it waits. Raises RuntimeError inside a task."""
        no_waiting()

    @cached_property
    def GroupResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of group handles, with `restore(id)` from this app's result store."""
        return type("GroupResult", (GroupResult,), {"bound": self})

    def ResultSet(self, results: Iterable[Any]) -> Any:  # noqa: N802 - Celery's name
        """Several handles, read together."""
        return ResultSet(results, app=self)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """A call as a value: see canvas."""
        return signature(*args, app=self, **kwargs)

    #: Options that a call knows; those of other clients' signatures that are none of these are left out.
    call_options = CALL_OPTIONS

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise TypeError for options of a part of a workflow that nobody knows: who sends it later, a worker, could not ask."""
        check_options(name, options)

    def store_state(self, task_id: str, state: str, meta: Any) -> None:
        """Write a state of the user's own."""
        request = current.get()
        store = self.store_of(request._task if request is not None and request.id == task_id else None)
        reply_to = request.reply_to if request is not None and request.id == task_id else None
        error = store.store([(ResultMeta(task_id, state, meta, reply_to=reply_to or ""), None)])[0]
        if error is not None:
            raise error

    @property
    def producer(self) -> Producer:
        """The way to the broker; connects at the first publish."""
        if self._producer is None:
            with self._lock:
                if self._producer is None:
                    self.check_settings()
                    conf = self.conf
                    if conf.task_send_sent_event:
                        self._sent_events = self._monitors(addresses.publish_address(conf, self._plan))
                    self._producer = open_producer(
                        addresses.publish_address(conf, self._plan),
                        timeout_s=conf.task_publish_timeout,
                        park=conf.profile == "kubernetes",
                    )
        return self._producer

    @property
    def backend(self) -> ResultBackend:
        """The result store; connects at the first use."""
        if self._backend is None:
            with self._lock:
                if self._backend is None:
                    self._backend = open_store(self.conf)
        return self._backend

    def store_of(self, task: Any) -> ResultBackend:
        """Where a task's results are: where its `backend` says, else in the app's store. None: the latter."""
        own = task._own_backend if task is not None else None
        if own is None:
            return self.backend
        if not isinstance(own, str):
            found: ResultBackend = own
            return found
        if own in self._stores:
            return self._stores[own]
        with self._lock:
            if own not in self._stores:
                self._stores[own] = open_store(self.conf, own)
            return self._stores[own]

    def every_store(self) -> list[ResultBackend]:
        """The app's store, and those that its tasks have for themselves, each once."""
        own = (self.store_of(task) for task in self._registry.tasks.values() if task._own_backend is not None)
        return list({id(store): store for store in (self.backend, *own)}.values())

    def check_store(self, kind: type[BaseTask]) -> None:
        """Note that a task has a store of its own. Raises ImproperlyConfigured for what is none."""
        own = kind._own_backend
        if own is None:
            return
        if not isinstance(own, str):
            check_methods(own, f"task {kind.name}: backend")
        self.has_own_stores = True

    @property
    def control(self) -> Any:
        """Remote control of workers: an `app.control.Control`."""
        if self._control is None:
            from celeriac.app.control import Control  # kombu's mailbox, only for who asks

            self._control = Control(self)
        return self._control

    @property
    def coordination(self) -> Coordination | None:
        """What all workers share besides messages: see broker/coordination.py. None where there is no Redis; connects at the first use."""
        conf = self.conf
        address = coordination_address(
            self.broker_address(), url=conf.coordination_url, result_backend=addresses.result_url(conf),
            result_options=addresses.result_options(conf),
        )  # fmt: skip
        with self._lock:
            if self._coordination is None and address is not None:
                self._coordination = Coordination(
                    address, lease_s=conf.task_lease, revoke_ttl_s=conf.task_revoke_expires
                )
            return self._coordination

    def close(self) -> None:
        """Disconnect from broker and result store; the next call connects again."""
        if self._sending is not None and self._sending.pid == os.getpid():
            self._sending.close()
        self._sending = None
        if self._backend is not None:
            stop_watching(self._backend)
        for store in self._stores.values():
            stop_watching(store)
            store.close()
        self._stores = {}
        with self._lock:
            if self._coordination is not None:
                self._coordination.close()
            self._coordination = None
            if self._control is not None:
                self._control.close()
            if self._producer is not None:
                self._producer.close()
            if self._sent_events is not None:
                self._sent_events.close()
                self._sent_events = None
            if self._backend is not None:
                self._backend.close()
            self._producer = self._backend = None

    def forked(self) -> None:
        """In a process just forked: leave the connections of the process it came from to that one, and open others when asked for."""
        self._lock, self._reading = threading.RLock(), threading.RLock()
        self._producer = self._backend = self._coordination = self._control = self._sending = self._sent_events = None
        self._stores = {}
        self._origin = ""

    def __enter__(self) -> "Celeriac":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Celeriac {self.main or '__main__'}>"


__all__ = ["DEFAULT_BROKER", "Celeriac", "created"]
