"""`celeriac beat`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from celeriac.cli.root import Given, main
from celeriac.telemetry.logs import set_up


@main.command()
@click.option("-s", "--schedule", metavar="PATH", help="File of beat's state when there is no coordination store. [celeriac-beat.json]")  # fmt: skip
@click.option("-S", "--scheduler", hidden=True)
@click.option(
    "--max-interval", type=click.FloatRange(0, min_open=True), metavar="S", help="Longest sleep between two looks."
)
@click.option("-l", "--loglevel", default="warning", show_default=True, help="debug, info, warning, error or critical.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option(
    "--pidfile", metavar="PATH", help="Write the process id here; refuse to start where one lives. Empty: none."
)
@click.option("--detach", is_flag=True, hidden=True)
@click.pass_obj
def beat(
    given: Given,
    /,
    schedule: str | None,
    scheduler: str | None,
    max_interval: float | None,
    loglevel: str,
    log_json: bool,
    pidfile: str | None,
    detach: bool,
) -> None:
    """Send periodic tasks at their times, until SIGTERM. With Redis several may run: each run of each entry is sent once."""
    from celeriac.beat.process import run_beat  # clients of this command need no beat

    if scheduler and not scheduler.endswith("PersistentScheduler"):
        raise click.UsageError(
            f"-S {scheduler}: there is one scheduler, of beat_schedule; its state is kept in the coordination store, or in a file (-s)"
        )
    if detach:
        raise click.UsageError("--detach: run it under what supervises your services (systemd, a Deployment), or add &")
    try:
        set_up(loglevel, as_json=log_json)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    app = given.app(needed=True)
    with _written(Path(pidfile) if pidfile else None):
        sys.exit(run_beat(app, max_interval_s=max_interval, filename=schedule))


@contextmanager
def _written(pidfile: Path | None) -> Iterator[None]:
    """The process id in the file, while this runs. Raises click.ClickException where another process lives."""
    if pidfile is None:
        yield
        return
    if pidfile.exists():
        content = pidfile.read_text().strip()
        if content.isdecimal() and int(content) != os.getpid() and _lives(int(content)):
            raise click.ClickException(f"--pidfile {pidfile}: the process {content} that it names is running")
    try:
        pidfile.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise click.ClickException(f"--pidfile {pidfile} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        pidfile.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # only whether it could be
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
