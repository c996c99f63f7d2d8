"""`celeriac check-tasks`: whether clients and workers know the same tasks."""

import json
import sys
from typing import Any

import click

from celeriac.app.builtins import is_built_in
from celeriac.cli.root import EXIT_UNAVAILABLE, Given, main


@main.command("check-tasks")
@click.option("-t", "--timeout", "timeout_s", default=1.0, show_default=True, help="Seconds to wait for answers.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check_tasks(given: Given, timeout_s: float, as_json: bool) -> None:
    """Compare this app's tasks with those that live workers know.

    A call of a task that no worker knows becomes a dead letter; one that only workers know cannot be called from here by name with its
    arguments checked. Exits with 1 when either is found, with 69 when no worker answers.
    """
    app = given.app(needed=True)
    app.import_tasks()
    here = {name for name in app.tasks if not is_built_in(name)}
    answers: dict[str, Any] = app.control.inspect(timeout=timeout_s).registered() or {}
    if not answers:
        click.echo("no worker answered", err=True)
        sys.exit(EXIT_UNAVAILABLE)
    known = {node: {name for name in names if not is_built_in(name)} for node, names in answers.items()}
    found = compared(here, known)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for name in found["only_here"]:
            click.echo(f"{name}: no worker knows it")
        for name, nodes in found["only_there"].items():
            click.echo(f"{name}: not in this app, known to {', '.join(nodes)}")
        for name, nodes in found["unknown_to_some"].items():
            click.echo(f"{name}: unknown to {', '.join(nodes)} (no matter, if they read other queues)")
        click.echo(f"{len(here)} tasks here, {len(known)} workers", err=True)
    if found["only_here"] or found["only_there"]:
        sys.exit(1)


def compared(here: set[str], known: dict[str, set[str]]) -> dict[str, Any]:
    """only_here: names that no worker knows. only_there: name -> workers that know it. unknown_to_some: name -> workers that do not."""
    anywhere = set().union(*known.values())
    return {
        "only_here": sorted(here - anywhere),
        "only_there": {
            name: sorted(node for node, names in known.items() if name in names) for name in sorted(anywhere - here)
        },
        "unknown_to_some": {
            name: missing
            for name in sorted(here & anywhere)
            if (missing := sorted(node for node, names in known.items() if name not in names))
        },
    }
