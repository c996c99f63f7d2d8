"""`celeriac report`."""

import click

from celeriac.app.report import report as text_of
from celeriac.cli.root import Given, main


@main.command()
@click.pass_obj
def report(given: Given) -> None:
    """Print versions and changed settings, for a bug report. Secrets are left out."""
    app = given.app()
    click.echo(text_of(app))
    for remark in app.conf.remarks():
        click.echo(f"note: {remark}", err=True)
    app.check_settings()
