"""Settings: one table of every setting, and the object that holds their values.

Opens nothing and reads no environment of its own: a mapping is passed in. Celery's names of today and the guide's upper-case
names are both accepted.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

PROFILES = ("celery", "kubernetes")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. kubernetes: its default in that profile, when it differs. old: names it had in Celery."""

    name: str
    type: Callable[[Any], Any]
    default: Any
    help: str
    kubernetes: Any = ...
    old: tuple[str, ...] = ()

    def default_in(self, profile: str) -> Any:
        """The value when nobody sets it."""
        return self.default if profile == "celery" or self.kubernetes is ... else self.kubernetes


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in {"1", "true", "yes", "on"}:
            return True
        if value.lower() in {"0", "false", "no", "off", ""}:
            return False
        raise ValueError("expected true or false")
    return bool(value)


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value == "" else convert(value)


def _concurrency(value: Any) -> int | None:
    return None if value in (None, "", "auto") else int(value)


def _multiplier(value: Any) -> int | None:
    """None for 0, too: Celery's 0 claims all there is, and keeps it from workers that are free."""
    return None if value in (None, "") else int(value) or None


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value)


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)  # from an environment variable
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a mapping, got {value!r}")
    return dict(value)


def _urls(value: Any) -> str:
    return value if isinstance(value, str) else ";".join(value)


def _seconds(value: Any) -> float:
    return float(value.total_seconds() if hasattr(value, "total_seconds") else value)


def _any(value: Any) -> Any:
    return value


_S = Setting
#: Every setting, in the order of the reference page.
SETTINGS: tuple[Setting, ...] = (
    _S("broker_url", _optional(_urls), None, "Where messages wait, e.g. redis://host:6379/0; unset: amqp://guest@localhost:5672//, with a warning.", old=("BROKER_URL",)),
    _S("broker_transport_options", _mapping, {}, "Options of kombu's transport, e.g. global_keyprefix.", old=("BROKER_TRANSPORT_OPTIONS",)),
    _S("broker_use_ssl", _any, None, "TLS options for the broker, or True.", old=("BROKER_USE_SSL",)),
    _S("broker_connection_timeout", _seconds, 4.0, "Seconds to wait for one connection to the broker.", old=("BROKER_CONNECTION_TIMEOUT",)),
    _S("broker_native_delayed_delivery_queue_type", str, "quorum", "Type of the queues in which RabbitMQ keeps what is not due, when they have to be declared: quorum or classic."),
    _S("broker_heartbeat", _seconds, 120.0, "AMQP heartbeat interval in seconds.", kubernetes=10.0, old=("BROKER_HEARTBEAT",)),
    _S("result_backend", _optional(str), None, "Where results are stored, e.g. redis://host:6379/1; unset: results are not kept.", old=("CELERY_RESULT_BACKEND",)),
    _S("result_backend_transport_options", _mapping, {}, "Options of the result store, e.g. global_keyprefix.", old=("CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",)),
    _S("result_expires", _optional(_seconds), 86400.0, "Seconds until a stored result is forgotten.", old=("CELERY_TASK_RESULT_EXPIRES", "CELERY_AMQP_TASK_RESULT_EXPIRES")),
    _S("result_serializer", str, "json", "How results are written.", old=("CELERY_RESULT_SERIALIZER",)),
    _S("result_extended", _bool, False, "Store name, args, kwargs, worker, retries and queue with a result.", old=()),
    _S("accept_content", _list, ["json"], "Content types that are read; anything else becomes a dead letter.", old=("CELERY_ACCEPT_CONTENT",)),
    _S("task_serializer", str, "json", "How task messages are written.", old=("CELERY_TASK_SERIALIZER",)),
    _S("task_default_queue", str, "celery", "The queue of tasks that name none.", old=("CELERY_DEFAULT_QUEUE",)),
    _S("task_routes", _any, None, "Which task goes to which queue: a mapping of names or globs, a function, or a list of them.", old=("CELERY_ROUTES",)),
    _S("task_default_priority", _optional(int), None, "The priority of messages that name none.", old=()),
    _S("task_acks_late", _bool, False, "Acknowledge after the task has run instead of just before.", kubernetes=True, old=("CELERY_ACKS_LATE",)),
    _S("task_reject_on_worker_lost", _bool, False, "Run a late-acknowledged task again when its process is lost, up to task_max_deliveries starts; else it has failed.", kubernetes=True, old=("CELERY_REJECT_ON_WORKER_LOST",)),
    _S("task_track_started", _bool, False, "Store STARTED when a task begins.", kubernetes=True, old=("CELERY_TRACK_STARTED",)),
    _S("task_ignore_result", _bool, False, "Do not store results unless a task says otherwise.", old=("CELERY_IGNORE_RESULT",)),
    _S("task_store_errors_even_if_ignored", _bool, False, "Store failures of tasks whose results are ignored.", old=("CELERY_STORE_ERRORS_EVEN_IF_IGNORED",)),
    _S("task_always_eager", _bool, False, "Run tasks where they are called.", old=("CELERY_ALWAYS_EAGER",)),
    _S("task_eager_propagates", _bool, False, "Eager calls raise what the task raised.", old=("CELERY_EAGER_PROPAGATES_EXCEPTIONS",)),
    _S("task_default_rate_limit", _any, None, "The rate limit of tasks that set none, e.g. 10/s.", old=("CELERY_DEFAULT_RATE_LIMIT",)),
    _S("task_rate_limit_scope", str, "worker", "Whether a rate limit holds for each worker or for the cluster.", kubernetes="cluster"),
    _S("task_time_limit", _optional(_seconds), None, "Seconds a task may run before it has failed; the call and the task may say otherwise. Only prefork kills the body.", old=("CELERYD_TASK_TIME_LIMIT",)),
    _S("task_soft_time_limit", _optional(_seconds), None, "Seconds a task may run before SoftTimeLimitExceeded is raised inside it; the call and the task may say otherwise.", old=("CELERYD_TASK_SOFT_TIME_LIMIT",)),
    _S("task_revoke_expires", _seconds, 10_800.0, "Seconds for which a revoked id is kept.", kubernetes=86_400.0),
    _S("coordination_url", _optional(str), None, "A Redis or Valkey for what all workers share, with a broker that is none; unset: the Redis result store, if there is one."),
    _S("task_publish_timeout", _seconds, 5.0, "Seconds a publish may take, retries included, before it raises."),
    _S("task_max_deliveries", int, 5, "Starts a message may have before it becomes a dead letter."),
    _S("task_lease", _seconds, 30.0, "Seconds without a sign of life after which a worker's messages come back."),
    _S("imports", _list, [], "Modules a worker imports at start.", old=("CELERY_IMPORTS",)),
    _S("include", _list, [], "More modules a worker imports at start.", old=("CELERY_INCLUDE",)),
    _S("worker_pool", str, "prefork", "How bodies run: prefork, threads, asyncio or solo.", kubernetes="threads", old=("CELERYD_POOL",)),
    _S("worker_concurrency", _concurrency, None, "Tasks run at once; unset or auto: the CPUs this worker may use.", old=("CELERYD_CONCURRENCY",)),
    _S("worker_max_tasks_per_child", _optional(int), None, "Tasks after which a prefork child is replaced.", old=("CELERYD_MAX_TASKS_PER_CHILD",)),
    _S("worker_max_memory_per_child", _optional(int), None, "Kibibytes of resident memory after which a prefork child is replaced, once its task has ended.", old=("CELERYD_MAX_MEMORY_PER_CHILD",)),
    _S("worker_prefetch_multiplier", _multiplier, None, "Messages claimed ahead for each slot; unset or 0: what will start within 20 ms.", old=("CELERYD_PREFETCH_MULTIPLIER",)),
    _S("worker_disable_rate_limits", _bool, False, "Ignore all rate limits.", old=("CELERY_DISABLE_RATE_LIMITS",)),
    _S("worker_send_task_events", _bool, False, "Send task events for monitors.", old=("CELERY_SEND_EVENTS",)),
    _S("worker_enable_remote_control", _bool, True, "Answer remote control commands.", old=("CELERY_ENABLE_REMOTE_CONTROL",)),
    _S("worker_heartbeat_interval", _seconds, 2.0, "Seconds between two worker heartbeats."),
    _S("worker_shutdown_grace_s", _seconds, 25.0, "Seconds running tasks may take after SIGTERM before their messages go back."),
    _S("worker_http_host", str, "0.0.0.0", "Where /livez, /readyz and /metrics listen."),
    _S("worker_http_port", int, 0, "Port of /livez, /readyz and /metrics; 0: off.", kubernetes=8080),
    _S("worker_max_task_names", int, 200, "Task names kept apart in metrics; more are counted as 'other'."),
)  # fmt: skip

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
_OLD: dict[str, str] = {old: setting.name for setting in SETTINGS for old in setting.old}


class Settings:
    """The values in force: what was set, else the profile's default. Attributes and items are the same.

    Names outside the table are kept as they are: projects keep their own values here too. `unknown()` lists them with the
    nearest right name, for the log.
    """

    __slots__ = ("_known", "_own", "_pinned", "profile")

    def __init__(self, values: Mapping[str, Any] | None = None, *, profile: str = "celery") -> None:
        if profile not in PROFILES:
            raise ImproperlyConfigured(f"profile {profile!r} does not exist; choose one of: {', '.join(PROFILES)}")
        object.__setattr__(self, "profile", profile)
        object.__setattr__(self, "_known", {s.name: s.default_in(profile) for s in SETTINGS})
        object.__setattr__(self, "_own", {})
        object.__setattr__(self, "_pinned", {})
        self.update(values or {})

    def pin(self, values: Mapping[str, Any]) -> None:
        """Set what no later assignment changes: the environment, and the command line above it."""
        for name, value in values.items():
            self._pinned.pop(name, None)
            self[name] = value
            self._pinned[name] = self._known[name]

    def update(self, values: Mapping[str, Any] | None = None, **named: Any) -> None:
        """Set several at once; old names are translated."""
        for name, value in {**(values or {}), **named}.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        today = _OLD.get(name, name)
        setting = BY_NAME.get(today) or BY_NAME.get(today.lower())
        if setting is None:
            self._own[name] = value
            return
        try:
            self._known[setting.name] = setting.type(value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"setting {name}={value!r} cannot be used: {error}. {setting.help}") from error

    def __getitem__(self, name: str) -> Any:
        name = _OLD.get(name, name)
        if name in self._pinned:
            return self._pinned[name]
        if name in self._known:
            return self._known[name]
        if name.lower() in self._known:
            return self._known[name.lower()]
        return self._own[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` when there is no such setting."""
        try:
            return self[name]
        except KeyError:
            return default

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}{_nearest(name)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._known or name in self._own or name in _OLD

    def __iter__(self) -> Iterator[str]:
        yield from self._known
        yield from self._own

    def unknown(self) -> list[str]:
        """Settings that the table does not have, each with the nearest right name."""
        return [f"{name}{_nearest(name)}" for name in self._own]


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), [*BY_NAME, *(old.lower() for old in _OLD)], n=1, cutoff=0.75)
    return f" (did you mean {near[0]}?)" if near else ""


#: Celery's own variables, which a deployment may still set.
_CELERY_VARIABLES = {"CELERY_BROKER_URL": "broker_url", "CELERY_RESULT_BACKEND": "result_backend"}


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that `CELERIAC_<SETTING>` variables name, and CELERY_BROKER_URL and CELERY_RESULT_BACKEND; others are passed over."""
    found: dict[str, Any] = {
        name: environ[variable] for variable, name in _CELERY_VARIABLES.items() if environ.get(variable)
    }
    for setting in SETTINGS:
        value = environ.get(f"CELERIAC_{setting.name.upper()}")
        if value is not None:
            found[setting.name] = value
    return found


def from_object(source: Any, namespace: str | None = None) -> dict[str, Any]:
    """Settings out of a mapping, module or object; with a namespace, `CELERY_BROKER_URL` means broker_url."""
    items = source.items() if isinstance(source, Mapping) else ((n, getattr(source, n)) for n in dir(source))
    prefix = f"{namespace}_".upper() if namespace else ""
    found: dict[str, Any] = {}
    for name, value in items:
        if prefix:
            if name.upper().startswith(prefix):
                found[name[len(prefix) :].lower()] = value
        elif name in _OLD or name.lower() in BY_NAME or (isinstance(source, Mapping) and not name.startswith("_")):
            found[name] = value
    return found
