"""Celeriac, the app: settings, the registry of tasks, and the way to the broker and the result store."""

import difflib
import importlib
import importlib.util
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property, partial
from itertools import islice
from types import new_class
from typing import Any

from celeriac import config, signals
from celeriac.app import addresses, periodic, security
from celeriac.app.addresses import DEFAULT_BROKER
from celeriac.app.annotations import annotate, put_back
from celeriac.app.builtins import define_builtins
from celeriac.app.context import current
from celeriac.app.models import models_into
from celeriac.app.once import check_alone, check_many, publish_once
from celeriac.app.stores import open_store
from celeriac.app.task import Task as BaseTask
from celeriac.app.task import listed, moment, task_class
from celeriac.app.typed import TaskDecorator
from celeriac.backends.base import ResultBackend
from celeriac.backends.custom import check_methods
from celeriac.backends.watching import stop_watching
from celeriac.broker.connection import BrokerAddress, unopened
from celeriac.broker.coordination import Coordination, coordination_address
from celeriac.broker.eventbus import SentEvents
from celeriac.broker.plan import QueuePlan
from celeriac.broker.producer import Producer, after_others, lent_producer, open_producer
from celeriac.canvas.signature import signature
from celeriac.exceptions import (
    DuplicateTaskNameWarning,
    EncodeError,
    ImproperlyConfigured,
    NotRegistered,
    NotRoutable,
    NotSupported,
    OperationalError,
)
from celeriac.ids import new_id
from celeriac.policy import errormail
from celeriac.policy.calling import OPTIONS, check_priority, priority_of, terms_of, type_terms
from celeriac.policy.ratelimit import parse_rate
from celeriac.policy.routing import Router, prepared, route
from celeriac.result import AsyncResult, GroupResult, ResultSet
from celeriac.wire.message import USUAL, TaskMessage, Terms, bound, compose
from celeriac.wire.result import ResultMeta

#: Calls of send_many whose messages are in memory at once.
_LOT = 1000

#: Runs calls where they are made: the worker's own executor, which stands above this floor. Set where the package is put together.
runners: list[Callable[..., Any]] = []

#: Runs the `celeriac` command for an app, with these arguments; its exit code. Set there, too.
commands: list[Callable[["Celeriac", list[str]], int]] = []

#: Told of each app made: `compat` keeps the current one.
created: list[Callable[["Celeriac"], None]] = []

#: What apply_async takes, for who has mistyped it.
_CALL_OPTIONS = (
    *OPTIONS, "countdown", "eta", "expires", "task_id", "queue", "exchange", "routing_key", "priority", "urgency", "serializer", "compression",
    "headers", "shadow", "argsrepr", "kwargsrepr",
    "time_limit", "soft_time_limit", "ignore_result", "link", "link_error", "reply_to", "require_consumer", "root_id",
    "parent_id", "group_id", "group_index", "retries", "connection", "producer",
)  # fmt: skip

#: Options of signatures that no call takes: stamps, how often a call was replaced, and what means nothing to us.
_OF_SIGNATURES = frozenset(["stamped_headers", "replaced_task_nesting", "add_to_parent", "interval", "max_retries"])


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
        self._tasks: dict[str, BaseTask] = {}
        #: Classes that are tasks and are not registered yet; and the tasks that this app has made itself.
        self._adopted: list[type[BaseTask]] = []
        self._made: list[BaseTask] = []
        self._built_in = False
        #: Task class -> the annotations it has, and what its attributes were without them.
        self._annotated: dict[type[BaseTask], tuple[Any, dict[str, Any]]] = {}
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
        self._sent_events: SentEvents | None = None
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
            return self._define(args[0], options)
        if args:
            raise TypeError("@app.task takes named options only, for example @app.task(name='add')")
        return lambda function: self._define(function, options)

    @cached_property
    def Task(self) -> type[BaseTask]:  # noqa: N802 - Celery's name
        """The base of this app's tasks: a subclass with a `run` is registered here."""
        base = self.task_cls
        if isinstance(base, str):
            base = _imported(base)
        if not (isinstance(base, type) and issubclass(base, BaseTask)):
            raise ImproperlyConfigured(f"task_cls {base!r} is no subclass of celeriac.Task")
        return new_class(
            "Task", (base,), exec_body=lambda own: own.update(app=self, abstract=True, __module__=base.__module__)
        )

    def _define(self, function: Callable[..., Any], options: Mapping[str, Any]) -> BaseTask:
        inner: Any = function
        while inner is not None and not isinstance(inner, BaseTask):
            inner = getattr(inner, "__wrapped__", None)
        if inner is not None:
            raise ImproperlyConfigured(f"{inner.name} is a task already: apply @task once, as the outermost decorator")
        options = dict(options)
        base = options.pop("base", None) or self.Task
        bind = options.pop("bind", False)
        name = options.pop("name", None) or self.gen_task_name(function.__name__, function.__module__)
        known = self._tasks.get(name)
        if known is not None:
            _warn_of_two(name, type(known).__module__, function.__module__)
            return known
        body = models_into(self, function, name, bind, options)
        return self.register_task(task_class(self, base, function, name, bind=bind, options=options, body=body))

    def register_task(self, task: BaseTask | type[BaseTask], **options: Any) -> BaseTask:
        """Register a task class or instance under its name, with options as attributes; what is registered under that name already stays."""
        kind = task if isinstance(task, type) else type(task)
        if not issubclass(kind, BaseTask):
            raise ImproperlyConfigured(f"{task!r} is no task: derive its class from celeriac.Task")
        if not callable(getattr(kind, "run", None)):
            raise ImproperlyConfigured(f"task {kind.__module__}.{kind.__name__} has no `run`: that is its body")
        for option, value in options.items():
            setattr(kind, option, value)
        if kind.name is None:
            kind.name = self.gen_task_name(kind.__name__, kind.__module__)
        with self._lock:
            known = self._tasks.get(kind.name)
            if known is None:
                kind.bind(self)
                if (
                    not self._sources
                ):  # else with the first look at the settings, see `conf`: that one may import the module we are in
                    self._annotations_of(kind)
                if isinstance(task, type):
                    known = task()
                    if kind.__init__ is not object.__init__:
                        self._made.append(known)
                else:
                    known = task
                self._tasks[kind.name] = known
            elif type(known) is not kind:
                _warn_of_two(kind.name, type(known).__module__, kind.__module__)
            return known

    def adopt(self, kind: type[BaseTask]) -> None:
        """A class that is a task of this app: named now, made and registered when the registry is first looked at."""
        if kind.name is None:
            kind.name = self.gen_task_name(kind.__name__, kind.__module__)
        self._adopted.append(kind)

    def finalize(self, auto: bool = False) -> None:
        """Register what was defined as a class and what is built in. Done by itself when the registry is looked at."""
        with self._lock:
            while self._adopted:
                kind = self._adopted.pop(0)  # first: its __init__ may look at the registry
                if vars(kind).get("app") in {None, self}:  # not registered on another app by hand
                    try:
                        self.register_task(kind)
                    except BaseException:
                        self._adopted.insert(0, kind)  # it raises again, for whoever looks next
                        raise
            if not self._built_in:
                self._built_in = True
                define_builtins(self)

    def begin_process(self) -> None:
        """In a process that will run tasks and was forked from one that has made them: call `__init__` of each once here, too."""
        for task in self._made:
            task.__init__()  # type: ignore[misc]  # the same object: everybody's name of it stays

    def gen_task_name(self, name: str, module: str) -> str:
        """module.name; tasks of __main__ take the app's `main`."""
        if module == "__main__":
            module = self.main or _main_module()
        return f"{module}.{name}" if module else name

    @property
    def tasks(self) -> Mapping[str, BaseTask]:
        """The registry: names to tasks, those included that are built in (`celery.…`)."""
        _ = self.conf  # what it says of tasks holds now
        if self._adopted or not self._built_in:
            self.finalize(auto=True)
        return self._tasks

    def misplaced_decorators(self) -> list[str]:
        """Tasks whose name in their module is bound to something that another decorator made of them, each as a sentence."""
        found = []
        for name, task in self.tasks.items():
            function = getattr(task, "__wrapped__", None)
            module = sys.modules.get(getattr(function, "__module__", ""))
            bound = getattr(module, getattr(function, "__name__", ""), None)
            inner = bound
            while inner is not None and inner is not function and not isinstance(inner, BaseTask):
                inner = getattr(inner, "__wrapped__", None)
            if inner is task and bound is not task:
                found.append(
                    f"task {name}: another decorator stands above @task, so workers run the body without it; put @task at the top"
                )
        return found

    def find(self, name: str) -> BaseTask:
        """A task by name. Raises NotRegistered."""
        try:
            return self.tasks[name]
        except KeyError:
            raise NotRegistered(name) from None

    def import_tasks(self) -> None:
        """Import the modules of `imports` and `include`, so that their tasks register."""
        for _, answer in signals.import_modules.send(sender=self):
            if isinstance(answer, Exception):  # say a Django project that cannot be set up: nothing good would follow
                raise answer
        for module in [*self.conf.imports, *self.conf.include]:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ImproperlyConfigured(
                    f"cannot import {module!r} (of the settings imports or include): {error}"
                ) from error
        self._announce()

    def _announce(self) -> None:
        """Tell the app's own signals, once. What a receiver raises is raised: an entry that cannot work must not go unseen."""
        if self._announced:
            return
        self._announced = True
        self.finalize(auto=True)
        for signal, named in (
            (self.on_configure, {}),
            (self.on_after_configure, {"source": self.conf}),
            (self.on_after_finalize, {}),
        ):
            for _, answer in signal.send(sender=self, **named):
                if isinstance(answer, Exception):
                    raise answer

    def autodiscover_tasks(
        self, packages: Iterable[str] | Callable[[], Iterable[str]] | None = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:  # fmt: skip
        """Also import `<package>.<related_name>` of each package when a worker starts, where there is one; force: now, too.

        Without packages: of each app of the Django project (contrib/django/fixup.py); nothing elsewhere.
        """
        if not packages:
            self.related_names = [*self.related_names, related_name or ""]
            return
        for package in packages() if callable(packages) else packages:
            module = f"{package}.{related_name}" if related_name else package
            if _is_there(module):
                self.conf.include = [*self.conf.include, module]
                if force:
                    importlib.import_module(module)

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
        return self._built_in

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

    @cached_property
    def conf(self) -> config.Settings:
        """The settings. Sources that config_from_object was given by name are read now. Raises ImproperlyConfigured."""
        with self._reading:  # two threads may ask first
            while self._sources:
                source = self._sources.pop(0)
                try:
                    source()
                except BaseException:
                    self._sources.insert(0, source)  # whoever asks next is told, too
                    raise
            with self._lock:
                for task in self._tasks.values():
                    self._annotations_of(type(task))
            schedule = self._settings.beat_schedule
            if (
                not self._entries.keys() <= schedule.keys()
            ):  # it was set anew: what tasks and code have added is no part of that
                self._settings.beat_schedule = {**self._entries, **schedule}
        return self._settings

    def _look_again(self) -> None:
        """What hangs on the settings is worked out when they are read the next time."""
        self.__dict__.pop("conf", None)

    def _annotations_of(self, kind: type[BaseTask]) -> None:
        """Have the annotations that are set now, and no others, hold for a task. Raises ImproperlyConfigured."""
        annotations = self._settings.task_annotations
        before, replaced = self._annotated.get(kind, (None, {}))
        if annotations is before:
            return
        put_back(kind, replaced)
        self._annotated.pop(kind, None)
        replaced = annotate(kind, annotations, _imported)
        try:
            kind.prepare()
        except ImproperlyConfigured:
            put_back(kind, replaced)
            raise
        self._annotated[kind] = (annotations, replaced)

    def config_from_object(
        self, source: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from a mapping, an object, or the dotted path of a module, an object in one (`proj.settings:Shop`) or a class.

        What is named by a path is imported when a setting is read for the first time, so it may import this app; force: now. silent: a
        path that cannot be imported is no error. namespace: only names that begin with it count, without it.
        """
        if not isinstance(source, str):
            self._take(source, silent, namespace)
            return
        self._later(partial(self._take, source, silent, namespace))
        if force:
            _ = self.conf

    def config_from_envvar(self, variable: str, silent: bool = False, force: bool = False) -> None:
        """Take settings from the module that an environment variable names."""
        module = os.environ.get(variable)
        if module:
            self.config_from_object(module, silent=silent, force=force)
        elif not silent:
            raise ImproperlyConfigured(
                f"the environment variable {variable} is not set; it should name the settings module"
            )

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Values that hold where nothing is set; a function is asked for them when a setting is read for the first time."""
        if callable(defaults):
            self._later(lambda: self._settings.add_defaults(defaults()))
        else:
            self._settings.add_defaults(defaults)

    def _later(self, source: Callable[[], None]) -> None:
        self._sources.append(source)
        self._look_again()

    def _take(self, source: Any, silent: bool, namespace: str | None) -> None:
        if isinstance(source, str):
            try:
                source = _settings_at(source)
            except (ImportError, AttributeError) as error:
                if silent:
                    return
                raise ImproperlyConfigured(f"cannot read settings from {source!r}: {error}") from error
        self._settings.update(config.from_object(source, namespace))
        self._settings.update(self._given)

    def bugreport(self) -> str:
        """Versions, the platform, and the settings that were changed, without secrets: what `celeriac report` prints."""
        from celeriac.app.report import report  # only for who asks

        return report(self)

    def check_settings(self) -> None:
        """Raise ImproperlyConfigured for settings, and CELERIAC_ variables, that do not exist; before the first message and at a worker's start."""
        conf = self.conf
        conf.check()
        try:
            parse_rate(conf.task_default_rate_limit)
            errormail.listed(conf.task_error_whitelist)
        except ValueError as error:
            raise ImproperlyConfigured(
                f"setting task_default_rate_limit or task_error_whitelist cannot be used: {error}"
            ) from None
        wrong = config.misspelt_variables(os.environ)
        if wrong:
            raise ImproperlyConfigured(f"the environment sets no setting with {', nor with '.join(wrong)}")
        security.check(conf, signs=self.signs)

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

    def send_task(
        self, name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *, task_type: BaseTask | None = None,
        countdown: float | None = None, eta: datetime | None = None, expires: Any = None, task_id: str | None = None, **options: Any,
    ) -> AsyncResult:  # fmt: skip
        """Send a task by name; see Task.apply_async for the options."""
        producer: Producer | None = None
        to_parent = True
        if options:
            to_parent = options.pop("add_to_parent", True)
            producer = self._lent(name, options.pop("connection", None), options.pop("producer", None))
            required = options.pop("require_consumer", None)
        else:
            required = None
        if required is None and task_type is not None:
            required = task_type.require_consumer
        unique = task_type._unique if task_type is not None else None
        if unique is not None:
            check_alone(name, options)
        message = self.message(
            name,
            args or (),
            kwargs or {},
            task_type,
            countdown=countdown,
            eta=eta,
            expires=expires,
            task_id=task_id,
            options=options,
        )
        if required:
            self._require_consumer(message)
        if signals.before_task_publish.receivers:
            _tell(signals.before_task_publish, message)
        if unique is not None and task_type is not None:
            holder = publish_once(self, message, unique, task_type._key_signature, producer)
            if holder is not None:
                return AsyncResult(
                    holder, self.store_of(task_type), name=name, guard=_no_waiting, app=self, deduplicated=True
                )
        else:
            (producer or self.producer).publish(message)
        if self._sent_events is not None:
            self._sent_events.tell(message)
        if signals.after_task_publish.receivers:
            _tell(signals.after_task_publish, message)
        running = current.get()
        if running is not None and to_parent:
            running.add_child(message.headers["id"])
        return self._handle(message)

    async def asend_task(
        self, name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *, task_type: BaseTask | None = None,
        countdown: float | None = None, eta: datetime | None = None, expires: Any = None, task_id: str | None = None, **options: Any,
    ) -> AsyncResult:  # fmt: skip
        """`send_task` for coroutines. Receivers of the publishing signals are called in the caller's context, and should not wait."""
        asks = bool(options.keys() & {"connection", "producer", "require_consumer"})
        if asks or (task_type is not None and (task_type.require_consumer or task_type._unique)):  # the broker, first
            import asyncio  # only for who has a loop

            send = partial(
                self.send_task,
                name,
                args,
                kwargs,
                task_type=task_type,
                countdown=countdown,
                eta=eta,
                expires=expires,
                task_id=task_id,
            )
            return await asyncio.to_thread(send, **options)
        to_parent = options.pop("add_to_parent", True)
        message = self.message(
            name,
            args or (),
            kwargs or {},
            task_type,
            countdown=countdown,
            eta=eta,
            expires=expires,
            task_id=task_id,
            options=options,
        )
        if signals.before_task_publish.receivers:
            _tell(signals.before_task_publish, message)
        await self._sending_thread().publish(message)
        if signals.after_task_publish.receivers:
            _tell(signals.after_task_publish, message)
        running = current.get()
        if running is not None and to_parent:
            running.add_child(message.headers["id"])
        return self._handle(message)

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

    def _handle(self, message: TaskMessage) -> AsyncResult:
        headers = message.headers
        backend = self.backend if not self.has_own_stores else self.store_of(self._tasks.get(headers["task"]))
        return AsyncResult(
            headers["id"], backend, headers["task"], self, guard=_no_waiting, ignored=headers["ignore_result"]
        )

    def run_here(self, task: BaseTask, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Any:
        """The EagerResult of a call that runs here; see Task.apply."""
        return runners[-1](self, task, args, kwargs, **options)

    def send_many(
        self, name: str, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], *, task_type: BaseTask | None = None,
        countdown: float | None = None, eta: datetime | None = None, expires: Any = None, **options: Any,
    ) -> list[AsyncResult]:  # fmt: skip
        """Send a task by name once for each (args, kwargs) of `calls`, by the thousand; see Task.send_many."""
        producer = self._lent(name, options.pop("connection", None), options.pop("producer", None))
        required = options.pop("require_consumer", None)
        running = current.get() if options.pop("add_to_parent", True) else None
        shadow = task_type.shadow_name if task_type is not None and task_type._shadows else None
        if options.get("shadow") is not None:
            shadow = None
        results: list[AsyncResult] = []
        remaining = iter(calls)
        while lot := list(islice(remaining, _LOT)):
            messages = [
                self.message(
                    name, args, kwargs, task_type, countdown=countdown, eta=eta, expires=expires, task_id=None,
                    options=options.copy() if shadow is None else options | {"shadow": shadow(args, kwargs, options)},
                )
                for args, kwargs in lot
            ]  # fmt: skip
            if required:
                for message in {message.queue: message for message in messages}.values():
                    self._require_consumer(message)
            try:
                self.publish_many(messages, producer)
            except (OperationalError, EncodeError) as error:
                if not results:
                    raise
                raise after_others(error, len(results)) from error
            if running is not None:
                for message in messages:
                    running.add_child(message.headers["id"])
            results += map(self._handle, messages)
        return results

    def publish_many(self, messages: Sequence[TaskMessage], producer: Producer | None = None) -> None:
        """Publish messages made by `message`, all in a few goes; see broker/producer.py: Producer.publish_many, for what it raises."""
        types = {name: self._tasks.get(name) for name in {message.headers["task"] for message in messages}}
        check_many(types.values())
        asking = {name for name, task in types.items() if task is not None and task.require_consumer}
        if asking:
            for message in {each.queue: each for each in messages if each.headers["task"] in asking}.values():
                self._require_consumer(message)
        if signals.before_task_publish.receivers:
            for message in messages:
                _tell(signals.before_task_publish, message)
        (producer or self.producer).publish_many(messages)
        if self._sent_events is not None:
            for message in messages:
                self._sent_events.tell(message)
        if signals.after_task_publish.receivers:
            for message in messages:
                _tell(signals.after_task_publish, message)

    def message(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], task_type: BaseTask | None, *, countdown: float | None,
        eta: datetime | None, expires: Any, task_id: str | None, options: dict[str, Any],
    ) -> TaskMessage:  # fmt: skip
        """The message of one call: routed, with ids and times. Everything that varies is rolled here."""
        conf = self.conf
        if task_type is not None and task_type._models is not None:
            args, kwargs = task_type._models.dumped(args, kwargs, options.get("serializer") or task_type.serializer)
        terms = self._usual_terms
        if task_type is not None and (task_type.mandatory or task_type.delivery_mode is not None):
            terms = type_terms(name, task_type, terms)
        urgency = None
        if options:
            terms = terms_of(name, options, terms)
            urgency = options.pop("urgency", None)
        wall = time.time()
        if expires is None and task_type is not None:
            expires = task_type.expires
        if countdown is not None or eta is not None or expires is not None:
            now = datetime.fromtimestamp(wall, UTC)
            eta = moment(countdown, now) if countdown is not None else moment(eta, now)
            expires = moment(expires, now)
        queue: Any = options.pop("queue", None)
        priority = options.pop("priority", None)
        if urgency is not None:
            if priority is not None:
                raise TypeError(f"task {name}: give priority (the broker's own number) or urgency (a word), not both")
            priority = self._priority(name, urgency)
        exchange, routing_key = options.pop("exchange", None), options.pop("routing_key", None)
        if task_type is not None:
            queue = queue or task_type.queue
            priority = task_type.priority if priority is None else priority
            if priority is None and task_type.urgency is not None:
                priority = self._priority(name, task_type.urgency)
            exchange, routing_key = exchange or task_type.exchange, routing_key or task_type.routing_key
        if conf.task_routes and queue is None:
            found = dict(route(name, self._routers(conf.task_routes), args, kwargs, options, task_type))
            queue = found.pop("queue", None)
            priority = found.pop("priority", None) if priority is None else priority
            exchange, routing_key = (
                exchange or found.pop("exchange", None),
                routing_key or found.pop("routing_key", None),
            )
            if found:
                options |= {option: value for option, value in found.items() if option not in options}
                terms = terms_of(name, options, terms)
        if priority is None and conf.task_inherit_parent_priority and (parent := current.get()) is not None:
            priority = (parent.delivery_info or {}).get("priority")
        if priority is not None:
            check_priority(name, priority)
        if exchange is not None and not isinstance(exchange, str):  # kombu's, which knows its type
            terms = (terms or USUAL)._replace(exchange_type=exchange.type or "")
            exchange = exchange.name
        if queue is None and not exchange:
            queue = conf.task_default_queue
            if routing_key and not self._plan.way(queue)[3]:  # by a direct exchange: the key is the queue's name
                queue = routing_key
        if queue is not None:
            if not isinstance(queue, str):
                queue = self._plan.adopt(queue)
            way = self._ways.get(queue) if routing_key is None else self._plan.way(queue, routing_key)
            if way is None:
                way = self._ways[queue] = self._plan.way(queue)
            queue, exchange, routing_key, kind = way
            if kind:
                terms = (terms or USUAL)._replace(exchange_type=kind)
        hard_s = options.pop("time_limit", task_type.time_limit if task_type else None)
        soft_s = options.pop("soft_time_limit", task_type.soft_time_limit if task_type else None)
        if isinstance(hard_s, timedelta):
            hard_s = hard_s.total_seconds()
        if isinstance(soft_s, timedelta):
            soft_s = soft_s.total_seconds()
        if hard_s and soft_s and soft_s > hard_s:
            raise ValueError(
                f"{name}: soft_time_limit {soft_s:g} s is above time_limit {hard_s:g} s; it would never be raised"
            )
        headers = options.pop("headers", None)
        if "argsrepr" in options or "kwargsrepr" in options:  # what monitors and logs may show of the arguments
            shown = {name: str(options.pop(name)) for name in ("argsrepr", "kwargsrepr") if name in options}
            headers = {**shown, **(headers or {})}
        if task_type is not None and task_type._keys:
            headers = {**task_type.limit_keys(args, kwargs), **(headers or {})}
        parent = current.get()
        ignore_result = options.pop("ignore_result", None)
        if ignore_result is None:
            ignore_result = task_type.ignore_result if task_type is not None else False
        reply_to = options.pop("reply_to", "")
        backend = self._backend or self.backend
        if task_type is not None and task_type._own_backend is not None:
            backend = self.store_of(task_type)
        if backend.answers and not reply_to and not ignore_result:
            reply_to = backend.expect()
        message = compose(
            id=task_id or new_id(),
            task=name,
            args=args,
            kwargs=kwargs,
            queue=queue or routing_key or conf.task_default_queue,
            exchange=exchange or "",
            routing_key=routing_key or "",
            origin=self._origin or self._name_origin(),
            sent_at=wall,
            priority=priority if priority is not None else conf.task_default_priority or 0,
            serializer=options.pop("serializer", None)
            or (task_type.serializer if task_type else None)
            or conf.task_serializer,
            compression=options.pop("compression", None)
            or (task_type.compression if task_type else None)
            or conf.task_compression,
            reply_to=reply_to,
            eta=eta,
            expires=expires,
            retries=options.pop("retries", 0),
            time_limit=hard_s,
            soft_time_limit=soft_s,
            root_id=options.pop("root_id", None) or (parent.root_id or parent.id if parent is not None else None),
            parent_id=options.pop("parent_id", None) or (parent.id if parent is not None else None),
            group=options.pop("group_id", None),
            group_index=options.pop("group_index", None),
            shadow=options.pop("shadow", None),
            ignore_result=bool(ignore_result),
            headers=headers,
            embed=_embed(name, options),
            terms=terms,
        )
        return message if message.serializer != "auth" else bound(message)

    def _monitors(self, address: BrokerAddress) -> SentEvents:
        return SentEvents(address, self._origin or self._name_origin())

    @cached_property
    def _plan(self) -> QueuePlan:
        return addresses.plan_of(self.conf)

    @cached_property
    def _usual_terms(self) -> Terms | None:
        return addresses.usual_terms(self.conf)

    def _routers(self, routes: Any) -> Sequence[Router]:
        """task_routes, prepared once. Raises ImproperlyConfigured."""
        if self._prepared[0] is not routes:
            try:
                self._prepared = (routes, prepared(routes, _imported))
            except ValueError as error:
                raise ImproperlyConfigured(f"setting task_routes cannot be used: {error}") from error
        return self._prepared[1]

    def _priority(self, name: str, urgency: str) -> int:
        address = self.broker_address()
        lowest_first = address.is_redis or address.is_memory
        return priority_of(name, urgency, lowest_first=lowest_first, most=self.conf.get("task_queue_max_priority"))

    def _lent(self, name: str, connection: Any, producer: Any) -> Producer | None:
        """A producer on a connection of the caller's; None when none is lent."""
        if connection is None and producer is None:
            return None
        if isinstance(producer, type(self.producer)):  # ours, from app.producer
            return producer
        lent = connection if connection is not None else getattr(producer, "connection", None)
        if not hasattr(lent, "channel"):
            raise TypeError(
                f"task {name}: connection and producer must be kombu's, got {producer if connection is None else connection!r};"
                " leave them out and the app's own connection, which is kept, is used"
            )
        return lent_producer(self.broker_address(), lent, timeout_s=self.conf.task_publish_timeout)

    def _require_consumer(self, message: TaskMessage) -> None:
        """Raise NotRoutable when nobody consumes the queue now. A worker may end, or come, just after."""
        if message.exchange:
            raise NotSupported(
                f"task {message.headers['task']}: require_consumer asks about one queue, and the message goes to the exchange"
                f" {message.exchange!r}; name a queue, or use mandatory=True"
            )
        count = self.producer.consumers(message.queue)
        if count is None:  # the broker cannot tell: the workers can
            queues = self.control.inspect().active_queues() or {}
            count = sum(entry["name"] == message.queue for entries in queues.values() for entry in entries)
        if not count:
            raise NotRoutable(
                f"no worker consumes the queue {message.queue!r} now (celeriac worker -Q {message.queue})"
            )

    def _name_origin(self) -> str:
        self._origin = f"gen{os.getpid()}@{socket.gethostname()}"
        return self._origin

    def AsyncResult(self, task_id: str, backend: ResultBackend | None = None) -> AsyncResult:  # noqa: N802 - Celery's name
        """The handle of a call made before, by its id."""
        return AsyncResult(task_id, backend or self.backend, app=self, guard=_no_waiting)

    def guard(self) -> None:
        """What a handle asks before it waits. Raises RuntimeError inside a task."""
        _no_waiting()

    @property
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
    call_options = frozenset([*_CALL_OPTIONS, "chain", "chord"])

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise TypeError for options of a part of a workflow that nobody knows: who sends it later, a worker, could not ask."""
        unknown = options.keys() - self.call_options - _OF_SIGNATURES - set(options.get("stamped_headers") or ())
        if unknown:
            raise TypeError(f"task {name}: apply_async does not know {', '.join(map(_with_nearest, sorted(unknown)))}")

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
        own = (self.store_of(task) for task in self._tasks.values() if task._own_backend is not None)
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


def _tell(signal: signals.Signal, message: TaskMessage) -> None:
    """What before_task_publish and after_task_publish say of a message. A receiver may change `headers` before it goes."""
    more: dict[str, Any] = {}
    if signal is signals.before_task_publish:
        properties = {
            "correlation_id": message.headers["id"],
            "reply_to": message.reply_to,
            "priority": message.priority,
        }
        more = {"properties": properties, "declare": [], "retry_policy": {}}
    signal.send(
        sender=message.headers["task"], body=message.body, headers=message.headers, exchange=message.exchange,
        routing_key=message.routing_key or message.queue, **more,
    )  # fmt: skip


def _embed(name: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """callbacks, errbacks, chain and chord of the options; anything left that we do not know is an error of the caller's."""
    if not options:
        return None
    link, link_error = options.pop("link", None), options.pop("link_error", None)
    chain, chord = options.pop("chain", None), options.pop("chord", None)
    if options:
        options.pop("add_to_parent", None)
        for own in (
            "require_consumer",
            "connection",
            "producer",
        ):  # of what is sent on its own; here it is sent with others
            if options.pop(own, None):
                raise NotSupported(
                    f"task {name}: {own} is not kept for a part of a chain, group or chord; set it on the task, or leave it out"
                )
    if options:
        raise TypeError(f"task {name}: apply_async does not know {', '.join(map(_with_nearest, sorted(options)))}")
    if not (link or link_error or chain or chord):
        return None
    return {"callbacks": listed(link), "errbacks": listed(link_error), "chain": chain, "chord": chord}


def _with_nearest(option: str) -> str:
    near = difflib.get_close_matches(option, _CALL_OPTIONS, n=1)
    return f"{option} (did you mean {near[0]}?)" if near else option


def _no_waiting() -> None:
    request = current.get()
    if request is not None and not request.called_directly and not request.is_eager:
        raise RuntimeError(
            "never call result.get() within a task: it can wait for ever; link the tasks, or pass disable_sync_subtasks=False"
        )


def _warn_of_two(name: str, first: str, second: str) -> None:
    """Two tasks of one name: the first one stays, and somebody should know. The same module twice is the same task; so are our own two pings."""
    ours = first.startswith("celeriac.") and second.startswith("celeriac.")
    if first != second and "__main__" not in {first, second} and not ours:
        warnings.warn(
            f"task {name} is defined in {first} and in {second}: that of {first} stays. Give one of them another name=, or import the"
            " module under one path only",
            DuplicateTaskNameWarning, stacklevel=4,
        )  # fmt: skip


def _is_there(module: str) -> bool:
    """Whether a module can be found. Raises ModuleNotFoundError for a package that cannot."""
    package = module.rpartition(".")[0]
    if package and not hasattr(importlib.import_module(package), "__path__"):  # a module, which has no modules in it
        return False
    return importlib.util.find_spec(module) is not None


def _settings_at(path: str) -> Any:
    """The module, `module:attribute` or `module.attribute` of that name. Raises ImportError, AttributeError."""
    module, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        above, _, attribute = path.rpartition(".")
        if error.name != path or not above:  # a module that it imports is missing
            raise
        found = importlib.import_module(above)
    return getattr(found, attribute) if attribute else found


def _imported(path: str) -> Any:
    """What a dotted path (`proj.tasks:Base` or `proj.tasks.Base`) names. Raises ImproperlyConfigured."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(f"cannot import {path!r}: {error}") from error


def _main_module() -> str:
    """The importable name of the module that runs as __main__."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else "__main__"


__all__ = ["DEFAULT_BROKER", "Celeriac", "created"]
