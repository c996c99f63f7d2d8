"""`celeriac beat`."""

import sys

import click

from celeriac.cli import celerys, pidfile
from celeriac.cli.root import Given, main
from celeriac.telemetry.logs import set_up

_NO_CONTROL = "beat answers no remote control; whether it lives say /livez and /readyz (the setting beat_http_port)"


@main.command()
@click.option("-s", "--schedule", metavar="PATH", help="File of beat's state when there is no coordination store. [celeriac-beat.json]")  # fmt: skip
@click.option("-S", "--scheduler", hidden=True, expose_value=False, callback=celerys.check_scheduler)
@click.option(
    "--max-interval", type=click.FloatRange(0, min_open=True), metavar="S", help="Longest sleep between two looks."
)
@click.option("-l", "--loglevel", default="warning", show_default=True, help="debug, info, warning, error or critical.")
@click.option("-f", "--logfile", metavar="PATH", help="Log to this file, which may be moved meanwhile. [standard error]")  # fmt: skip
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option(
    "--pidfile",
    "pid_path",
    metavar="PATH",
    help="Write the process id here; refuse to start where one lives. Empty: none.",
)
@click.option("--no-enable-remote-control", is_flag=True, hidden=True, expose_value=False)
@celerys.refused("--enable-remote-control", is_flag=True, instead=_NO_CONTROL)
@celerys.refused("-n", "--hostname", instead=_NO_CONTROL)
@celerys.refused_daemon("--detach")
@click.pass_obj
def beat(
    given: Given,
    /,
    schedule: str | None,
    max_interval: float | None,
    loglevel: str,
    logfile: str | None,
    log_json: bool,
    pid_path: str | None,
) -> None:
    """Send periodic tasks at their times, until SIGTERM. With Redis several may run: each run of each entry is sent once."""
    from celeriac.beat.process import run_beat  # clients of this command need no beat

    try:
        set_up(loglevel, as_json=log_json, logfile=logfile)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error)) from error
    app = given.app(needed=True)
    with pidfile.written(pid_path):
        sys.exit(run_beat(app, max_interval_s=max_interval, filename=schedule))
