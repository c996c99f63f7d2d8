"""`celeriac worker`."""

import sys
from contextlib import nullcontext
from functools import partial
from typing import Any

import click

from celeriac.app.context import task_logger
from celeriac.cli import celerys, pidfile
from celeriac.cli.root import Given, main, names_in
from celeriac.telemetry.logs import set_up, style_of
from celeriac.telemetry.redirect import redirected


def _only_fork(_: click.Context, __: click.Parameter, method: str | None) -> None:
    if method == "spawn":
        raise click.UsageError(
            "--pool-start-method spawn: children are forked from a process that has one thread and holds your app, so threads do no harm;"
            " what is not to be shared is opened in a receiver of worker_process_init"
        )


@main.command()
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    help="Node name; %h is the host, %n its short name, %d its domain. [celeriac@%h]",
)
@click.option("-Q", "--queues", metavar="A,B", help="Queues to consume. [task_queues, else the app's default queue]")
@click.option("-X", "--exclude-queues", metavar="A,B", help="Queues of these to leave out.")
@click.option("-I", "--include", metavar="A,B", help="Modules with tasks to import, beside those of the settings.")
@click.option(
    "--purge", "--discard", is_flag=True, help="First delete what waits in these queues. It cannot be brought back."
)
@click.option("-P", "--pool", metavar="POOL", help="How bodies run: prefork, threads, asyncio or solo.")
@click.option("-c", "--concurrency", metavar="N", help="Bodies run at once; auto: the CPUs this worker may use.")
@click.option("-l", "--loglevel", default="warning", show_default=True, help="debug, info, warning, error or critical.")
@click.option(
    "-f",
    "--logfile",
    metavar="PATH",
    help="Log to this file, which may be moved meanwhile; %n and %h as in --pidfile. [standard error]",
)
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option(
    "--pidfile",
    "pid_path",
    metavar="PATH",
    help="Write the process id here; refuse to start where one lives. %n is the node's name before its @, %h its host.",
)
@click.option("-E", "--task-events", "--events", is_flag=True, default=None, help="Send task events for monitors.")
@click.option(
    "--prefetch-multiplier",
    type=click.IntRange(0),
    help="Messages claimed ahead for each slot; 0: what will start within 20 ms. [0]",
)
@click.option("--disable-prefetch", is_flag=True, help="Claim nothing ahead.")
@click.option(
    "--autoscale",
    metavar="MAX,MIN",
    help="Between so many slots: more while all are busy, fewer after 30 s without need.",
)
@click.option("--max-tasks-per-child", type=click.IntRange(1), help="Tasks after which a prefork child is replaced.")
@click.option(
    "--max-memory-per-child",
    type=click.IntRange(1),
    metavar="KIB",
    help="Resident memory after which a prefork child is replaced.",
)
@click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), help="Seconds a task may run before it has failed."
)
@click.option(
    "--soft-time-limit",
    type=click.FloatRange(0, min_open=True),
    help="Seconds a task may run before SoftTimeLimitExceeded is raised inside it.",
)
@click.option(
    "-B",
    "--beat",
    is_flag=True,
    help="Also send periodic tasks; with Redis any number of workers may, each run is sent once.",
)
@click.option(
    "-s",
    "--schedule",
    "--schedule-filename",
    metavar="PATH",
    help="With -B: file of beat's state when there is no coordination store. [celeriac-beat.json]",
)
@click.option("--scheduler", hidden=True, expose_value=False, callback=celerys.check_scheduler)
@click.option("--without-remote-control", is_flag=True, help="Answer no commands and send no heartbeats.")
@click.option(
    "-S", "--statedb", metavar="PATH", help="Accepted for Celery's sake: revokes are kept in the coordination store."
)
@click.option("-O", "--optimization", hidden=True)
@click.option("--without-gossip", is_flag=True, hidden=True)
@click.option("--without-mingle", is_flag=True, help="Do not ask the other workers what they have revoked.")
@click.option("--without-heartbeat", is_flag=True, hidden=True)
@click.option(
    "--heartbeat-interval",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Seconds between two heartbeats. [2]",
)
@click.option(
    "--pool-start-method", type=click.Choice(["fork", "spawn"]), hidden=True, expose_value=False, callback=_only_fork
)
@celerys.refused_daemon("-D", "--detach")
@click.pass_obj
def worker(
    given: Given,
    /,
    hostname: str | None,
    queues: str | None,
    exclude_queues: str | None,
    pool: str | None,
    concurrency: str | None,
    loglevel: str,
    logfile: str | None,
    log_json: bool,
    pid_path: str | None,
    include: str | None,
    purge: bool,
    task_events: bool | None,
    prefetch_multiplier: int | None,
    disable_prefetch: bool,
    autoscale: str | None,
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    beat: bool,
    schedule: str | None,
    without_remote_control: bool,
    statedb: str | None,
    without_mingle: bool,
    heartbeat_interval: float | None,
    **_: Any,
) -> None:
    """Run a worker until SIGTERM, then finish what runs."""
    from celeriac.worker.assemble import (
        Options,
        node_format,
        node_name,
        run_worker,
    )  # clients of this command need no worker

    app = given.app(needed=True)  # first: its module may hold receivers of setup_logging
    node = node_name(hostname)
    logfile = node_format(logfile, node) if logfile else None
    try:
        set_up(loglevel, as_json=log_json, logfile=logfile, style=style_of(app.conf))
        slots = None if concurrency in (None, "auto") else int(concurrency or 0)
        if slots is not None and slots < 1:
            raise ValueError(f"concurrency {slots} is not at least 1")
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error)) from error
    beside = None
    if beat:
        from celeriac.beat.process import EmbeddedBeat

        beside = partial(EmbeddedBeat, filename=schedule)
    bounds = _bounds(autoscale) if autoscale else None
    printed = redirected(task_logger("printed"), app.conf.worker_redirect_stdouts_level)
    with (
        pidfile.written(node_format(pid_path, node) if pid_path else None) as forget_pid,
        printed if app.conf.worker_redirect_stdouts else nullcontext(),
    ):
        options = Options(
            hostname=hostname,
            queues=names_in(queues),
            exclude_queues=names_in(exclude_queues),
            pool=pool,
            concurrency=slots,
            events=task_events,
            prefetch_multiplier=prefetch_multiplier,
            disable_prefetch=disable_prefetch,
            heartbeat_interval_s=heartbeat_interval,
            autoscale=bounds,
            max_tasks_per_child=max_tasks_per_child,
            max_memory_per_child_kib=max_memory_per_child,
            time_limit_s=time_limit,
            soft_time_limit_s=soft_time_limit,
            beside=beside,
            without_control=without_remote_control,
            statedb=statedb,
            without_mingle=without_mingle,
            include=names_in(include),
            purge=purge,
            leaving=forget_pid,
        )
        code = run_worker(app, options)
    sys.exit(code)


def _bounds(text: str) -> tuple[int, int]:
    """(most, least) of `MAX,MIN`; without MIN it is 1. Raises click.BadParameter."""
    most, _, least = text.partition(",")
    try:
        found = int(most), int(least or 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not MAX,MIN, for example 10,2", param_hint="--autoscale") from None
    if not 1 <= found[1] <= found[0]:
        raise click.BadParameter(f"{text!r}: MIN must be at least 1 and at most MAX", param_hint="--autoscale")
    return found
