"""`celeriac call` and `celeriac result`."""

import json
import sys
from datetime import datetime
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


class _Moment(click.ParamType[float | datetime]):
    """A time in ISO 8601; with `seconds`, also a number of them from now."""

    name = "time"

    def __init__(self, *, seconds: bool = False) -> None:
        self._seconds = seconds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        if self._seconds:
            try:
                return float(value)
            except ValueError:
                pass  # then it is a time
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            also = "a number of seconds or " if self._seconds else ""
            self.fail(f"{value!r} is not {also}a time in ISO 8601, for example 2030-01-31T12:00:00Z", param, ctx)


@main.command()
@click.argument("name")
@click.option("-a", "--args", "args_", default="[]", help="Positional arguments as a JSON list.")
@click.option("-k", "--kwargs", default="{}", help="Named arguments as a JSON object.")
@click.option("--countdown", type=float, help="Seconds to wait before it runs.")
@click.option(
    "--eta", type=_Moment(), metavar="TIME", help="When it is to run, in ISO 8601, e.g. 2030-01-31T12:00:00Z."
)
@click.option(
    "--expires",
    type=_Moment(seconds=True),
    metavar="S|TIME",
    help="Seconds, or the time, after which it is not run any more.",
)
@click.option("-Q", "--queue", help="The queue to use.")
@click.option("--exchange", help="The exchange to use, in place of a queue.")
@click.option("--routing-key", help="The routing key to use, in place of a queue.")
@click.option("--serializer", help="How its arguments are written. [task_serializer]")
@click.option("--priority", type=int, help="The message's priority.")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for the result and print it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def call(
    given: Given,
    /,
    name: str,
    args_: str,
    kwargs: str,
    wait_s: float | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Send the task NAME; print its id."""
    app = given.app()
    handle = app.send_task(
        name,
        _json_argument(args_, list, "--args"),
        _json_argument(kwargs, dict, "--kwargs"),
        **{option: value for option, value in how.items() if value is not None},
    )
    if wait_s is None:
        click.echo(json.dumps({"id": handle.id}) if as_json else handle.id)
    else:
        _print_result(handle, wait_s, as_json)


@main.command()
@click.argument("task_id")
@click.option("-t", "--task", help="The task that it is a result of, when it has a result store of its own.")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for it.")
@click.option("--traceback", is_flag=True, help="Print the traceback instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def result(given: Given, task_id: str, task: str | None, wait_s: float | None, traceback: bool, as_json: bool) -> None:
    """Print the result of TASK_ID. Exit 1 when it is not ready or has failed."""
    app = given.app(needed=task is not None)
    if task is not None:
        app.import_tasks()
        if task not in app.tasks:
            raise click.BadParameter(f"the app has no task {task!r}", param_hint="--task")
    handle = app.tasks[task].AsyncResult(task_id) if task is not None else app.AsyncResult(task_id)
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
