"""`celeriac inspect`, `control` and `status`: remote control of workers."""

import difflib
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from celeriac.cli.root import EXIT_UNAVAILABLE, Given, main
from celeriac.wire.control import COMMANDS, arguments_of


def _ask(
    given: Given, method: str, destination: str | None, timeout_s: float, arguments: dict[str, Any] | None = None, pattern: str | None = None
) -> dict[str, Any]:  # fmt: skip
    names = [part.strip() for part in destination.split(",")] if destination else None
    answers = given.app().control.broadcast(
        method, arguments, names, reply=True, timeout=timeout_s, pattern=pattern, matcher="glob" if pattern else None
    )
    return {node: answer for one in answers for node, answer in one.items()}


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


_destination = click.option("-d", "--destination", metavar="A,B", help="Only these nodes.")
_timeout = click.option(
    "-t", "--timeout", "timeout_s", default=1.0, show_default=True, help="Seconds to wait for answers."
)
_pattern = click.option("--pattern", metavar="GLOB", help="Only nodes whose names look like this.")
_as_json = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")


def _listing(kind: str) -> Callable[[Any], Any]:
    def show(ctx: click.Context, _: Any, wanted: bool) -> None:
        if not wanted:
            return
        rows = []
        for info in COMMANDS:
            if info.kind == kind:
                takes = [f"[{name}]" for name, _ in info.arguments] + (
                    [f"[{info.variadic}...]"] if info.variadic else []
                )
                rows.append((" ".join([info.name, *takes]), info.help + (" (ours)" if info.ours else "")))
        formatter = ctx.make_formatter()
        formatter.write_dl(rows)
        click.echo(formatter.getvalue(), nl=False)
        ctx.exit()

    return click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=show, help="List the commands."
    )


def _command(kind: str, method: str, words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The command's name and arguments. Raises click's UsageError saying what there is."""
    for info in COMMANDS:
        if info.kind == kind and method in (info.name, *info.aliases):
            try:
                return info.name, arguments_of(info, words)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
    names = [info.name for info in COMMANDS if info.kind == kind]
    near = difflib.get_close_matches(method, names, n=1)
    raise click.UsageError(
        f"there is no {kind} command {method!r}{f' (did you mean {near[0]}?)' if near else ''}; there are: {', '.join(names)}"
    )


@main.command()
@click.argument("method")
@click.argument("words", nargs=-1)
@_destination
@_pattern
@_timeout
@_as_json
@_listing("inspect")
@click.pass_obj
def inspect(
    given: Given, /, method: str, words: tuple[str, ...], destination: str | None, pattern: str | None, timeout_s: float, as_json: bool
) -> None:  # fmt: skip
    """Ask workers how they are. --list says what can be asked."""
    name, arguments = _command("inspect", method, words)
    _show(_ask(given, name, destination, timeout_s, arguments, pattern), as_json)


@main.command()
@click.argument("method")
@click.argument("words", nargs=-1)
@click.option("--terminate", is_flag=True, help="With revoke: end the tasks where they run.")
@_destination
@_pattern
@_timeout
@_as_json
@_listing("control")
@click.pass_obj
def control(
    given: Given, /, method: str, words: tuple[str, ...], terminate: bool, destination: str | None, pattern: str | None,
    timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Tell workers to do something. --list says what. Exit 1 when one of them could not."""
    name, arguments = _command("control", method, words)
    if terminate:
        arguments["terminate"] = True
    answers = _ask(given, name, destination, timeout_s, arguments, pattern)
    _show(answers, as_json)
    if any(isinstance(answer, dict) and "error" in answer for answer in answers.values()):
        sys.exit(1)


@main.command()
@_destination
@_timeout
@_as_json
@click.pass_obj
def status(given: Given, destination: str | None, timeout_s: float, as_json: bool) -> None:
    """List the workers that answer."""
    answers = _ask(given, "ping", destination, timeout_s)
    _show({node: {"ok": "OK"} for node in answers}, as_json)
