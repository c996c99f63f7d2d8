"""Signals: a function is told when something happens. Names and arguments are Celery's.

A receiver that raises is logged and never hurts the task. A signal without receivers costs one attribute check.
A receiver that calls exit() raises, too: only where a process begins (worker_init, worker_process_init) does it end that process.
"""

import logging
import weakref
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

Receiver = Callable[..., Any]


class Signal:
    """Something that happens, and who wants to hear of it. may_exit: a receiver that calls exit() ends the process."""

    __slots__ = ("_may_exit", "name", "receivers")

    def __init__(self, name: str, *, may_exit: bool = False) -> None:
        self.name = name
        self._may_exit = may_exit
        self.receivers: list[tuple[Any, Any, Callable[[], Receiver | None]]] = []

    def connect(self, fun: Any = None, *, sender: Any = None, weak: bool = True, dispatch_uid: Any = None) -> Any:
        """Call `fun(signal=…, sender=…, **named)` at each send; usable as a decorator. sender: only from that one."""
        if fun is None:
            return lambda later: self.connect(later, sender=sender, weak=weak, dispatch_uid=dispatch_uid)
        key = _key(fun, sender, dispatch_uid)
        reference: Callable[[], Receiver | None]
        if not weak:
            reference = lambda: fun  # noqa: E731
        elif hasattr(fun, "__self__"):
            reference = weakref.WeakMethod(fun)
        else:
            reference = weakref.ref(fun)
        kept = [entry for entry in self.receivers if entry[0] != key]
        self.receivers = [*kept, (key, sender, reference)]
        return fun

    def disconnect(self, fun: Any = None, *, sender: Any = None, dispatch_uid: Any = None) -> bool:
        """Stop calling `fun` (for that sender); whether it was connected."""
        key = _key(fun, sender, dispatch_uid)
        kept = [entry for entry in self.receivers if entry[0] != key]
        gone = len(kept) != len(self.receivers)
        self.receivers = kept
        return gone

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver; what each returned, or the exception it raised."""
        answers = []
        for _, wanted, reference in self.receivers:
            if wanted is not None and wanted is not sender and wanted != sender:  # a task by its name, too
                continue
            receiver = reference()
            if receiver is None:
                continue
            try:
                answers.append((receiver, receiver(signal=self, sender=sender, **named)))
            except (Exception, SystemExit) as error:
                if self._may_exit and isinstance(error, SystemExit):
                    raise
                log.exception("signal %s: receiver %r raised", self.name, receiver)
                answers.append((receiver, error))
        return answers

    def __repr__(self) -> str:
        return f"<Signal {self.name}>"


def _key(fun: Any, sender: Any, dispatch_uid: Any) -> Any:
    """What tells one connection from another: the same function may listen to several senders."""
    function = (id(getattr(fun, "__self__", None)), id(getattr(fun, "__func__", fun)))
    return dispatch_uid or function, sender if isinstance(sender, str) else id(sender)


# Clients: body, headers, properties, exchange, routing_key, declare, retry_policy; sender: the task's name.
before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
#: Celery's old one: never sent, `after_task_publish` is.
task_sent = Signal("task_sent")
# The worker's main process; sender: the consumer (`.hostname`, `.app`), for task_revoked the task.
task_received = Signal("task_received")  # request
task_revoked = Signal("task_revoked")  # request, terminated, signum, expired
task_rejected = Signal("task_rejected")  # message, exc
task_unknown = Signal("task_unknown")  # message, exc, name, id
# Where the body runs; sender: the task.
task_prerun = Signal("task_prerun")  # task_id, task, args, kwargs
task_postrun = Signal("task_postrun")  # task_id, task, args, kwargs, retval, state
task_success = Signal("task_success")  # result, runtime
task_retry = Signal("task_retry")  # request, reason, einfo
#: task_id, exception, args, kwargs, traceback, einfo. Of a hard time limit and of a lost process: in the worker's main process.
task_failure = Signal("task_failure")
#: task_id, args, kwargs, request, exception, traceback, einfo: something beside the body has raised.
task_internal_error = Signal("task_internal_error")
# The life of a worker.
import_modules = Signal("import_modules")  # sender: the app; before `imports` and `include`
celeryd_init = Signal("celeryd_init")  # sender: the node name; instance, conf, options; before settings are read
celeryd_after_setup = Signal(
    "celeryd_after_setup"
)  # sender: the node name; instance, conf; queues may still be changed
worker_init = Signal("worker_init", may_exit=True)  # sender: the worker
worker_before_create_process = Signal("worker_before_create_process")  # sender: the pool; in the main process
worker_process_init = Signal("worker_process_init", may_exit=True)  # sender: the node name
worker_process_shutdown = Signal("worker_process_shutdown")  # pid, exitcode
worker_ready = Signal("worker_ready")  # sender: the consumer
worker_shutting_down = Signal("worker_shutting_down")  # sender: the node name; sig, how, exitcode
worker_shutdown = Signal("worker_shutdown")  # sender: the worker
heartbeat_sent = Signal("heartbeat_sent")
# Logging: loglevel, logfile, format, colorize. A receiver of setup_logging sets logging up itself, and nothing else does.
setup_logging = Signal("setup_logging")
after_setup_logger = Signal("after_setup_logger")  # and logger
after_setup_task_logger = Signal("after_setup_task_logger")  # and logger
# Beat.
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")
#: Celery's, for options that users add to its command: ours takes none, so nobody sends it.
user_preload_options = Signal("user_preload_options")
# Celery's, of a pool that we have not: nobody sends them.
eventlet_pool_started = Signal("eventlet_pool_started")
eventlet_pool_preshutdown = Signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = Signal("eventlet_pool_postshutdown")
eventlet_pool_apply = Signal("eventlet_pool_apply")
