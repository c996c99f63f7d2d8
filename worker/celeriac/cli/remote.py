"""`celeriac inspect`, `control` and `status`: remote control of workers."""

import json
import sys
from typing import Any

import click

from celeriac.cli.root import EXIT_UNAVAILABLE, Given, main

INSPECT = (
    "ping",
    "stats",
    "active",
    "reserved",
    "scheduled",
    "registered",
    "active_queues",
    "revoked",
    "conf",
    "report",
    "clock",
)


def _ask(
    given: Given, method: str, destination: str | None, timeout_s: float, arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    from celeriac.broker.mailbox import Mailbox
    from celeriac.wire.control import Command

    address = given.app().broker_address()
    box = Mailbox(address.url, transport_options=address.transport_options, ssl=address.ssl)
    try:
        names = [part.strip() for part in destination.split(",")] if destination else None
        return box.ask(Command(method=method, arguments=arguments or {}, destination=names), timeout_s=timeout_s)
    finally:
        box.close()


def _show(answers: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answers, indent=2, default=str))
    elif not answers:
        click.echo("no worker answered", err=True)
    else:
        for node, answer in sorted(answers.items()):
            text = (
                answer["ok"]
                if isinstance(answer, dict) and set(answer) == {"ok"}
                else json.dumps(answer, indent=2, default=str)
            )
            click.echo(f"{node}: {text}")
    if not answers:
        sys.exit(EXIT_UNAVAILABLE)


@main.command()
@click.argument("method", type=click.Choice(INSPECT))
@click.option("-d", "--destination", metavar="A,B", help="Only these nodes.")
@click.option("-t", "--timeout", "timeout_s", default=1.0, show_default=True, help="Seconds to wait for answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def inspect(given: Given, method: str, destination: str | None, timeout_s: float, as_json: bool) -> None:
    """Ask workers how they are."""
    _show(_ask(given, method, destination, timeout_s), as_json)


@main.command()
@click.option("-t", "--timeout", "timeout_s", default=1.0, show_default=True, help="Seconds to wait for answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(given: Given, timeout_s: float, as_json: bool) -> None:
    """List the workers that answer."""
    answers = _ask(given, "ping", None, timeout_s)
    _show({node: {"ok": "OK"} for node in answers}, as_json)
