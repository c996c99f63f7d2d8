"""A running worker out of an app and options: one straight function, read from top to bottom. It knows everybody; nobody knows it."""

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

from celeriac import __version__, signals
from celeriac.app.base import DEFAULT_BROKER, Celeriac
from celeriac.app.builtins import is_built_in
from celeriac.backends.base import ResultBackend
from celeriac.broker.codec import content_types
from celeriac.broker.connection import BrokerAddress, check_installed, redacted
from celeriac.broker.consumer import Consumer, open_consumer
from celeriac.broker.mailbox import ControlNode, logical_clock
from celeriac.broker.plan import worker_direct
from celeriac.broker.purge import purge
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, ImproperlyConfigured, NotSupported
from celeriac.policy.commands import REASONS
from celeriac.policy.throttle import throttle_of
from celeriac.telemetry.endpoint import Endpoint
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.metrics import WorkerState, families
from celeriac.telemetry.totals import Totals
from celeriac.wire.control import EITHER, PLAIN, SIGNED
from celeriac.worker.aio import AsyncioPool
from celeriac.worker.autoscale import Autoscaler
from celeriac.worker.cpus import usable_cpus
from celeriac.worker.errormail import error_mails
from celeriac.worker.executor import Executor
from celeriac.worker.heartbeat import Heart
from celeriac.worker.inspection import Inspection
from celeriac.worker.keeper import Keeper
from celeriac.worker.loop import Loop
from celeriac.worker.mingle import mingle
from celeriac.worker.pool import Pool, SoloPool, ThreadPool
from celeriac.worker.remote import Remote, handlers
from celeriac.worker.wake import Wake

log = logging.getLogger("celeriac.worker")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says beyond the settings. None: as the settings say."""

    hostname: str | None = None
    queues: tuple[str, ...] = ()
    exclude_queues: tuple[str, ...] = ()
    pool: str | None = None
    concurrency: int | None = None
    events: bool | None = None
    prefetch_multiplier: int | None = None
    #: (most, least) slots; then concurrency says nothing.
    autoscale: tuple[int, int] | None = None
    disable_prefetch: bool = False
    heartbeat_interval_s: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child_kib: int | None = None
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    without_control: bool = False
    without_mingle: bool = False
    statedb: str | None = None
    #: What runs in a thread beside the loop: beat. Made once the tasks are imported, started when the worker is ready.
    beside: Callable[[Celeriac], "Beside"] | None = None
    #: Modules to import beside those of the settings.
    include: tuple[str, ...] = ()
    #: Whether what waits in its queues is deleted before it starts.
    purge: bool = False
    #: Called before the process is left without coming back to who called, because bodies were cut off.
    leaving: Callable[[], None] | None = None


class Beside(Protocol):
    """A companion of the worker, in a thread of its own."""

    #: Whether it ended by an error.
    failed: bool

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Worker:
    """What signals of a worker's life name as the worker: Celery's WorkController, as far as receivers use it.

    queues  may be changed by receivers of celeryd_after_setup.
    """

    def __init__(self, app: Celeriac, hostname: str) -> None:
        self.app, self.hostname = app, hostname
        self.queues: list[str] = []

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname}>"


def run_worker(app: Celeriac, options: Options) -> int:
    """Run a worker until it is told to stop; the exit code. Raises ImproperlyConfigured for what cannot work."""
    # 1. What the settings and the command line say.
    conf = app.conf
    hostname = node_name(options.hostname)
    worker = Worker(app, hostname)
    asked = {field.name: getattr(options, field.name) for field in fields(options)}
    signals.celeryd_init.send(sender=hostname, instance=worker, conf=conf, options=asked)
    app.import_tasks(options.include)
    app.check_settings()
    for remark in conf.remarks():
        log.warning("%s", remark)
    if not (conf.broker_url or conf.broker_read_url or conf.broker_host or conf.broker_transport):
        log.warning(
            "no broker is configured: using %s (set broker_url, CELERIAC_BROKER_URL or -b)", redacted(DEFAULT_BROKER)
        )
    if options.prefetch_multiplier is not None:
        conf.pin({"worker_prefetch_multiplier": options.prefetch_multiplier or None})
    if conf.worker_disable_prefetch or options.disable_prefetch:
        conf.pin({"worker_prefetch_multiplier": None})
    for name, given in (
        ("worker_max_tasks_per_child", options.max_tasks_per_child),
        ("worker_max_memory_per_child", options.max_memory_per_child_kib),
        ("task_time_limit", options.time_limit_s),
        ("task_soft_time_limit", options.soft_time_limit_s),
        ("worker_heartbeat_interval", options.heartbeat_interval_s),
    ):
        if given is not None:
            conf.pin({name: given})
    worker.queues = _queues(app, options, hostname)
    signals.celeryd_after_setup.send(sender=hostname, instance=worker, conf=conf)
    queues = worker.queues
    slots = (
        options.autoscale[1] if options.autoscale else options.concurrency or conf.worker_concurrency or usable_cpus()
    )
    if slots < 1:
        raise ImproperlyConfigured(f"worker_concurrency is {slots}: a worker needs at least one slot")
    if conf.task_lease < 1.0:
        raise ImproperlyConfigured(
            f"task_lease is {conf.task_lease:g} s: leases are renewed three times in that time; use 1 s or more"
        )
    pool_name = options.pool or conf.worker_pool
    accept = content_types(conf.accept_content)
    address = replace(app.broker_address(), heartbeat_s=conf.broker_heartbeat)
    own = [name for name in app.tasks if not is_built_in(name)]
    for problem in app.misplaced_decorators():
        log.warning("%s", problem)
    if not own:
        log.warning("no task is registered: is -A right, and do `imports` and `include` name the modules with tasks?")

    check_installed("broker URL", address.url)
    check_installed("result_backend", conf.result_backend)  # here, and not in each child
    _check_coordination(app, address)
    if options.statedb is not None:
        log.warning(_NO_STATEDB, options.statedb)

    beside = options.beside(app) if options.beside is not None else None

    # 2. The road of a task: consumer, executor, pool, result store, loop.
    wake = Wake()
    stop: list[int] = []  # signals so far
    _until_stopped(stop, wake)
    signals.worker_init.send(sender=worker)
    pool: Pool | None = None
    if pool_name in ("prefork", "processes"):
        pool = _prefork(app, conf, slots, hostname, accept)  # before there are threads and connections
    attempts = 1 if conf.broker_connection_retry_on_startup is False else conf.broker_connection_max_retries or None
    try:
        if options.purge:
            _connected(lambda: _purge(address, queues), stop, wake, attempts)
        consumer = _connected(
            lambda: open_consumer(address, queues, node=hostname, lease_s=conf.task_lease, prefetch=slots), stop, wake, attempts
        )  # fmt: skip
    except BrokerUnavailable:
        if pool is not None:
            pool.stop()
        raise
    if consumer is None:  # told to stop before the broker was there
        if pool is not None:
            pool.stop()
        return 0
    backend = app.backend
    for store in app.every_store():
        _check_backend(store)
    if conf.worker_deduplicate_successful_tasks and (app.backend.answers or not app.backend.keeps_results):
        raise ImproperlyConfigured(
            "worker_deduplicate_successful_tasks looks for results, and this result_backend keeps none that a worker could read:"
            " use redis://, valkey:// or a database (db+postgresql+psycopg://…)"
        )
    totals = Totals(conf.worker_max_task_names)
    totals.known(queues, own)
    clock = logical_clock()
    events = TaskEvents(
        hostname,
        os.getpid(),
        clock.forward,
        enabled=conf.worker_send_task_events if options.events is None else options.events,
    )
    kept = backend.keeps_results
    executor = Executor(
        app,
        hostname=hostname,
        accept=accept,
        encode=backend.encode if kept else None,
        store=backend.store if kept else None,
    )
    pool = pool or _pool(pool_name, executor, slots, wake)
    _say_how_limits_hold(app, pool)
    loop = Loop(
        app=app, consumer=consumer, backend=backend, pool=pool, totals=totals, events=events, hostname=hostname, queues=queues,
        grace_s=conf.worker_shutdown_grace_s, wake=wake,
    )  # fmt: skip
    if options.autoscale is not None:
        loop.autoscaler = Autoscaler(pool, most=options.autoscale[0], least=options.autoscale[1])

    loop.mails = error_mails(app, hostname)

    try:
        loop.intake.keep(time.monotonic())  # nothing that was revoked before may run
    except BackendUnavailable as error:
        log.warning("%s; revokes of before are heard as soon as it is there", error)

    # 3. What goes on beside it: the keeper, remote control with heartbeats, the HTTP endpoint.
    keeper = Keeper(loop=loop, consumer=consumer, pool=pool, lease_s=conf.task_lease, leaving=options.leaving)
    heeds = _heeds(app)
    heart = Heart(
        loop,
        totals,
        events,
        clock=clock.forward,
        interval_s=conf.worker_heartbeat_interval,
        environ=os.environ,
        version=__version__,
        commands=heeds,
    )
    remote = Remote(
        loop, app=app, pool=pool, events=events, clock=clock, beat=heart.soon, incarnation=heart.incarnation
    )
    control = None
    if conf.worker_enable_remote_control and not options.without_control:
        answers = handlers(Inspection(loop, app=app, pool=pool, clock=clock), remote)
        control = ControlNode(address, hostname, answers, heart.tick, heart.bye, clock, heeds=heeds)
    endpoint = _endpoint(conf, loop, keeper, control, totals, beside)

    # 4. Run, and end.
    _on_signals(loop)
    keeper.start()
    if control is not None:
        control.start()
        if not options.without_mingle:
            mingle(address, hostname, heart.incarnation, loop.intake, clock, signed=app.signs)
    if endpoint is not None:
        endpoint.start()
    log.info(
        "%s ready: celeriac %s, profile %s, broker %s, queues %s, pool %s with %d slot(s), %d task type(s)%s", hostname, __version__, conf.profile,
        redacted(address.url), ",".join(queues), pool.name, pool.size, len(own), f", http on port {endpoint.port}" if endpoint else "",
    )  # fmt: skip
    if os.getpid() in pool.pids():  # bodies run in this process
        signals.worker_process_init.send(sender=hostname)
    signals.worker_ready.send(sender=loop)
    if stop:
        loop.stop()
    if beside is not None:
        beside.start()
    try:
        loop.run()
    finally:
        if beside is not None:
            beside.stop()
        code = _end(app, loop, keeper, control, consumer, pool, endpoint, worker, options.leaving)
    return code


def _end(
    app: Celeriac,
    loop: Loop,
    keeper: Keeper,
    control: ControlNode | None,
    consumer: Consumer,
    pool: Pool,
    endpoint: Endpoint | None,
    worker: "Worker",
    leaving: Callable[[], None] | None,
) -> int:
    """Let go of everything, in the order that loses nothing."""
    keeper.stop()
    loop.aftermath.stop()
    if loop.mails is not None:
        loop.mails.stop()
    if control is not None:
        control.stop()
    try:
        consumer.close()
        app.close()
    except (BrokerUnavailable, BackendUnavailable) as error:
        log.warning("while closing: %s", error)
    if endpoint is not None:
        endpoint.stop()
    if os.getpid() in pool.pids():
        signals.worker_process_shutdown.send(sender=worker.hostname, pid=os.getpid(), exitcode=0)
    signals.worker_shutdown.send(sender=worker)
    left = len(pool.running()) + pool.lost
    pool.stop()
    log.info("%s ended%s", worker.hostname, f"; {left} bodies were cut off" if left else "")
    if (
        left and threading.current_thread() is threading.main_thread()
    ):  # threads cannot be ended: leave without waiting for them
        failure = sys.exc_info()[1]
        if failure is not None:
            log.critical("the worker has failed", exc_info=failure)
        if leaving is not None:
            leaving()
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0 if failure is None else 1)
    return 0


def _queues(app: Celeriac, options: Options, hostname: str) -> list[str]:
    """The queues to read. Raises ImproperlyConfigured for one that may not be used, or when none is left."""
    address = app.broker_address()
    plan = address.plan
    queues = plan.select(options.queues or plan.named)
    left_out = set(plan.select(options.exclude_queues))
    queues = [name for name in queues if name not in left_out]
    if app.conf.worker_direct:
        queues.append(plan.adopt(worker_direct(hostname)))
    if not queues:
        raise ImproperlyConfigured("no queue is left to read: -X leaves out all that -Q or task_queues name")
    if address.is_redis:
        heard = [name for name in queues if plan.queue(name).exchange.type == "fanout"]
        if heard:
            raise NotSupported(
                f"the queue {heard[0]} is bound to a fanout exchange, which is PUB/SUB on Redis: what is said while no worker listens is lost,"
                " and workers here read lists. Use RabbitMQ for broadcasts, or remote control (a command reaches all workers)"
            )
    return queues


def _purge(address: BrokerAddress, queues: list[str]) -> None:
    """Delete what waits in these queues, and say how much. Raises BrokerUnavailable."""
    deleted = ", ".join(f"{name} {count}" for name, count in purge(address, queues).items())
    log.warning("--purge: messages that waited were deleted: %s", deleted)


def _connected(connect: Callable[[], T], stop: list[int], wake: Wake, attempts: int | None = None) -> T | None:
    """What `connect` gives once the broker is there; None when told to stop before. attempts: after so many raise BrokerUnavailable; None: never."""
    pause_s, made = 0.5, 0
    while not stop:
        try:
            return connect()
        except BrokerUnavailable as error:
            made += 1
            if made == attempts:
                raise
            log.error("%s; trying again in %.2g s", error, pause_s)
            wake.wait((), pause_s, lambda: bool(stop))
            pause_s = min(10.0, pause_s * 2)
    return None


def _prefork(app: Celeriac, conf: Any, slots: int, hostname: str, accept: frozenset[str]) -> Pool:
    if not sys.platform.startswith("linux"):
        raise NotSupported(f"-P prefork needs Linux, this is {sys.platform}: use -P threads")
    from celeriac.worker.board import Board
    from celeriac.worker.child import Child  # both import what only Linux has
    from celeriac.worker.prefork import PreforkPool

    child = Child(
        app=app, hostname=hostname, accept=accept, board=Board(max(MOST_CHILDREN, 2 * slots)),
        max_tasks=conf.worker_max_tasks_per_child or None, max_memory_kib=conf.worker_max_memory_per_child or None,
    )  # fmt: skip
    return PreforkPool(child, slots)


def _pool(name: str, executor: Executor, slots: int, wake: Wake) -> Pool:
    if name == "solo":
        return SoloPool(executor)
    if name == "threads":
        return ThreadPool(executor, slots, wake.done)
    if name == "asyncio":
        return AsyncioPool(executor, slots, wake.done)
    if name in {"gevent", "eventlet"}:
        raise NotSupported(
            f"-P {name} is not supported: write `async def` tasks for the asyncio pool, or use -P threads"
        )
    raise ImproperlyConfigured(f"pool {name!r} does not exist; choose prefork, threads, asyncio or solo")


#: What becomes of a time limit where bodies share the worker's process.
_LIMITS = {
    "solo": "a body is interrupted at its limits, but not inside C code that holds the interpreter",
    "threads": "an exception is raised in the body's thread, which sees it when a call it waits in, such as a sleep or a read, returns",
    "asyncio": "an exception is raised where a coroutine awaits; a plain function's thread sees it when a call it waits in returns",
}


def _say_how_limits_hold(app: Celeriac, pool: Pool) -> None:
    limits = (app.conf.task_time_limit, app.conf.task_soft_time_limit)
    limited = sorted(name for name, task in app.tasks.items() if task.time_limit or task.soft_time_limit)
    if pool.name in _LIMITS and (limited or any(limits)):
        log.warning(
            "the %s pool cannot kill: %s. A body that does not come back after its hard limit has failed all the same, and its slot is lost"
            " until it ends; only -P prefork kills. Limits: %s",
            pool.name, _LIMITS[pool.name], "of all tasks" if any(limits) else ", ".join(limited),
        )  # fmt: skip


def _check_backend(backend: ResultBackend) -> None:
    """Raise ImproperlyConfigured for a result store that can never work; one that is down now is waited for when it is needed."""
    if backend.keeps_results:
        try:
            backend.fetch("celeriac-start")
        except BackendUnavailable as error:
            log.warning("%s; results are kept until it is there", error)


_NO_STATEDB = (
    "--statedb %s: nothing is written there. Revokes are kept in the coordination store, for all workers, and outlast them;"
    " without a store (a broker and a result backend that are no Redis, no coordination_url) they are forgotten when the last worker ends"
)


def _check_coordination(app: Celeriac, broker: BrokerAddress) -> None:
    """Raise ImproperlyConfigured for tasks whose bounds nobody would keep; say what holds less than it says."""
    if app.coordination is not None or broker.is_memory:
        return
    remedy = "set coordination_url to a Redis or Valkey (redis://host:6379/0), or use one as the result backend"
    bounded = sorted(name for name, task in app.tasks.items() if task.max_concurrency)
    if bounded:
        raise ImproperlyConfigured(
            f"max_concurrency of {', '.join(bounded)} cannot be kept: the broker {redacted(broker.url)} counts nothing for all workers; {remedy}"
        )
    shared = sorted(
        name
        for name, task in app.tasks.items()
        if (throttle := throttle_of(name, task)) is not None and throttle.shared
    )
    if shared:
        log.warning(
            "the rate limits of %s hold for each worker, not for the cluster: the broker counts nothing for all workers; %s",
            ", ".join(shared), remedy,
        )  # fmt: skip


def _heeds(app: Celeriac) -> str:
    """Which commands this worker heeds."""
    if not app.signs:
        return PLAIN
    if app.conf.security_accept_unsigned_operator:
        log.warning(
            "security_accept_unsigned_operator is set: whoever may write to the broker may drain and end this worker and change its rates;"
            " give the operator a key, and take the setting away"
        )
        return EITHER
    return SIGNED


def _endpoint(
    conf: Any, loop: Loop, keeper: Keeper, control: ControlNode | None, totals: Totals, beside: Beside | None
) -> Endpoint | None:
    port = conf.worker_http_port
    if not port:
        return None

    def gauges() -> dict[str, float]:
        return {
            "celeriac_worker_slots": float(loop.slots),
            "celeriac_worker_slots_busy": float(len(loop.running())),
            "celeriac_worker_reserved": float(loop.intake.reserved()),
            "celeriac_worker_draining": float(loop.drain_state() is not None),
            "celeriac_worker_broker_up": float(loop.broker_up),
        }

    state = WorkerState(
        running=lambda: [(job.delivery.queue, seconds) for job, seconds in loop.running()],
        gauges=gauges,
        limits=lambda: {name: limit.per_s for name, limit in loop.intake.limits().items()},
        mails=lambda: loop.mails.counts() if loop.mails is not None else None,
        refused=lambda: control.refused if control is not None else dict.fromkeys(REASONS, 0),
    )

    def livez() -> tuple[bool, str]:
        if beside is not None and beside.failed:
            return False, "beat has failed"
        return liveness(loop, keeper, control, time.monotonic())

    return Endpoint(
        conf.worker_http_host, port, livez=livez, readyz=lambda: readiness(loop),
        metrics=lambda: families(totals, state, __version__),
    )  # fmt: skip


#: Places on the board of the prefork pool: how far it may be resized, and children that end while others begin.
MOST_CHILDREN = 1024
#: Without a turn of the loop for this long, and with no body that holds it, the worker is stuck.
STUCK_S = 60.0
#: Without a child process that is ready for this long, another pod may do better. Longer than a child has to become ready.
SLOTLESS_S = 90.0


def liveness(loop: Loop, keeper: Keeper, control: ControlNode | None, now: float) -> tuple[bool, str]:
    """Alive: the keeper runs, and the loop turns or a body holds it. The broker's health plays no part."""
    if not keeper.alive:
        return False, "the keeper thread has ended"
    if control is not None and not control.alive and loop.state != "stopping":
        return False, "the control thread has ended"
    slotless_s = loop.slotless_s(now)
    if loop.lost and slotless_s:
        return False, f"no slot is left: {loop.lost} bodies did not come back after their hard time limit"
    if slotless_s > SLOTLESS_S:
        return False, f"no child process was ready for {slotless_s:.0f} s: see what receivers of worker_process_init do"
    turned_s = now - loop.turned_at
    if turned_s > STUCK_S and not loop.running():
        return False, f"the loop has not turned for {turned_s:.0f} s"
    return True, "alive"


def readiness(loop: Loop) -> tuple[bool, str]:
    """Ready: started, not drained, not stopping. The broker's health plays no part."""
    state = loop.state
    if not loop.started:
        return False, "starting"
    return state in {"running", "draining"}, state


def node_name(given: str | None) -> str:
    """`celeriac@<host>` unless named; %h is the host, %n the name, %d the domain."""
    host = os.environ.get("CELERIAC_POD_NAME") or socket.gethostname()
    short, _, domain = host.partition(".")
    name = given or "celeriac@%h"
    if "@" not in name:
        name += "@%h"
    return name.replace("%h", host).replace("%n", short).replace("%d", domain)


def node_format(path: str, node: str) -> str:
    """The path with a node's name in it, as in Celery: %p is all of it, %n the part before @, %h the host, %d its domain, %% a %.

    %i is 0 and %I nothing: the number of a child, which logs where its worker does.
    """
    name, _, host = node.partition("@")
    signs = {"p": node, "n": name, "h": host, "d": host.partition(".")[2], "i": "0", "I": "", "%": "%"}
    return re.sub("%([pnhdiI%])", lambda match: signs[match[1]], path)


def _until_stopped(stop: list[int], wake: Wake) -> None:
    """While the broker is waited for, a signal ends the waiting. Its handler takes no lock: the main thread may hold it."""

    def heard(number: int, _frame: object) -> None:
        stop.append(number)
        wake.set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, heard)


def _on_signals(loop: Loop) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # a worker inside a test
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, lambda *_: loop.stop())
    signal.signal(signal.SIGQUIT, lambda *_: loop.stop(cold=True))
