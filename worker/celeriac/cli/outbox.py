"""`celeriac outbox`."""

import json
import signal
import threading

import click

from celeriac.cli.root import Given, main
from celeriac.telemetry.logs import set_up


@main.command()
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Messages published in one go."
)
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.01),
    default=1.0,
    show_default=True,
    help="Seconds between two looks at an empty table.",
)
@click.option("--once", is_flag=True, help="Publish what waits, and end.")
@click.option("--status", is_flag=True, help="Only say how many wait, and for how long.")
@click.option("-l", "--loglevel", default="warning", show_default=True, help="debug, info, warning, error or critical.")
@click.pass_obj
def outbox(given: Given, batch: int, poll_s: float, once: bool, status: bool, loglevel: str) -> None:
    """Publish what transactions have left in the app's outbox. Runs until SIGTERM; any number may run.

    The setting outbox_http_port (CELERIAC_OUTBOX_HTTP_PORT) is the port of its /livez, /readyz and /metrics.
    """
    from celeriac.contrib.outbox import Relay, outbox_of  # only for who has one

    set_up(loglevel)
    app = given.app(needed=True)
    app.import_tasks()
    rows = outbox_of(app)
    if status:
        count, oldest_s = rows.waiting()
        click.echo(json.dumps({"waiting": count, "oldest_s": oldest_s}))
        return
    relay = Relay(app, rows, batch=batch, poll_s=poll_s)
    if once:
        sent = 0
        while more := relay.once():
            sent += more
        click.echo(f"{sent} published")
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    probes = None
    if app.conf.outbox_http_port:
        from celeriac.contrib.outbox_probes import endpoint  # an HTTP server, only where it is served

        probes = endpoint(app, relay, poll_s=poll_s)
        probes.start()
    try:
        relay.run(stop)
    finally:
        if probes is not None:
            probes.stop()
        app.close()
