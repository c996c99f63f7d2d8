"""`celeriac call` and `celeriac result`."""

import json
import sys
from typing import Any

import click

from celeriac.cli.root import Given, main
from celeriac.exceptions import TimeoutError  # noqa: A004 - ours is the builtin's child


def _json_argument(text: str, kind: type, name: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{name} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise click.BadParameter(f"{name} must be a JSON {'list' if kind is list else 'object'}, got {text}")
    return value


@main.command()
@click.argument("name")
@click.option("-a", "--args", "args_", default="[]", help="Positional arguments as a JSON list.")
@click.option("-k", "--kwargs", default="{}", help="Named arguments as a JSON object.")
@click.option("--countdown", type=float, help="Seconds to wait before it runs.")
@click.option("--expires", type=float, help="Seconds after which it is not run any more.")
@click.option("-Q", "--queue", help="The queue to use.")
@click.option("--priority", type=int, help="The message's priority.")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for the result and print it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def call(
    given: Given,
    name: str,
    args_: str,
    kwargs: str,
    countdown: float | None,
    expires: float | None,
    queue: str | None,
    priority: int | None,
    wait_s: float | None,
    as_json: bool,
) -> None:
    """Send the task NAME; print its id."""
    app = given.app()
    options: dict[str, Any] = {
        key: value for key, value in (("queue", queue), ("priority", priority)) if value is not None
    }
    handle = app.send_task(
        name,
        _json_argument(args_, list, "--args"),
        _json_argument(kwargs, dict, "--kwargs"),
        countdown=countdown,
        expires=expires,
        **options,
    )
    if wait_s is None:
        click.echo(json.dumps({"id": handle.id}) if as_json else handle.id)
    else:
        _print_result(handle, wait_s, as_json)


@main.command()
@click.argument("task_id")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for it.")
@click.option("--traceback", is_flag=True, help="Print the traceback instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def result(given: Given, task_id: str, wait_s: float | None, traceback: bool, as_json: bool) -> None:
    """Print the result of TASK_ID. Exit 1 when it is not ready or has failed."""
    handle = given.app().AsyncResult(task_id)
    if traceback:
        click.echo(handle.traceback or "")
    else:
        _print_result(handle, wait_s, as_json)


def _print_result(handle: Any, wait_s: float | None, as_json: bool) -> None:
    try:
        value = handle.get(timeout=wait_s, propagate=False) if wait_s is not None else handle.result
    except TimeoutError:
        value = None
    state = handle.state
    if as_json:
        click.echo(json.dumps({"id": handle.id, "state": state, "result": value}, default=repr))
    else:
        click.echo(value if handle.ready() else f"{handle.id} is {state}")
    if state != "SUCCESS":
        sys.exit(1)
