"""`celeriac report`."""

import json

import click

from celeriac.app.report import facts
from celeriac.app.report import report as text_of
from celeriac.cli.root import Given, main


@main.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def report(given: Given, as_json: bool) -> None:
    """Print versions and changed settings, for a bug report. Secrets are left out."""
    app = given.app()
    if as_json:
        click.echo(json.dumps({**facts(app), "notes": app.conf.remarks()}, indent=2))
    else:
        click.echo(text_of(app))
        for remark in app.conf.remarks():
            click.echo(f"note: {remark}", err=True)
    app.check_settings()
