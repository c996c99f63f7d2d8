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


before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
task_received = Signal("task_received")
task_prerun = Signal("task_prerun")
task_postrun = Signal("task_postrun")
task_success = Signal("task_success")
task_retry = Signal("task_retry")
task_failure = Signal("task_failure")
task_revoked = Signal("task_revoked")
task_rejected = Signal("task_rejected")
task_unknown = Signal("task_unknown")
worker_init = Signal("worker_init", may_exit=True)
worker_ready = Signal("worker_ready")
worker_process_init = Signal("worker_process_init", may_exit=True)
worker_process_shutdown = Signal("worker_process_shutdown")
worker_shutting_down = Signal("worker_shutting_down")
worker_shutdown = Signal("worker_shutdown")
heartbeat_sent = Signal("heartbeat_sent")
