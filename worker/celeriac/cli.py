"""The `celeriac` command: Celery's words and flags. Arguments in, `assemble` or the app called; exit codes that mean something.

0 done; 1 the thing asked for failed; 2 wrong use; 69 the broker or the result store could not be reached.
"""

import importlib
import importlib.util
import json
import os
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import Any

import click

from celeriac import __version__
from celeriac.app.base import Celeriac
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, CeleriacError, TimeoutError  # noqa: A004 - ours is the builtin's child
from celeriac.telemetry.logs import set_up

EXIT_UNAVAILABLE = 69
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


class _Commands(click.Group):
    """Commands of our own, and those that other distributions add under `celeriac.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(point.name for point in entry_points(group="celeriac.commands"))})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        known = super().get_command(ctx, name)
        if known is not None:
            return known
        for point in entry_points(group="celeriac.commands", name=name):
            try:
                command: click.Command = point.load()
                return command
            except ImportError as error:
                missing = f"{name} needs more than is installed: {error}. Install it with: pip install 'celeriac[operator,embedded]'"
                raise click.ClickException(missing) from error
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokerUnavailable, BackendUnavailable) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(EXIT_UNAVAILABLE)
        except CeleriacError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-A",
    "--app",
    "app_path",
    envvar="CELERIAC_APP",
    metavar="MODULE[:NAME]",
    help="The app, e.g. proj, proj.celery or proj:app.",
)
@click.option("-b", "--broker", envvar="CELERIAC_BROKER_URL", metavar="URL", help="Broker URL, before the app's own.")
@click.option(
    "--result-backend", envvar="CELERIAC_RESULT_BACKEND", metavar="URL", help="Result store URL, before the app's own."
)
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.version_option(__version__, prog_name="celeriac")
@click.pass_context
def main(
    ctx: click.Context, app_path: str | None, broker: str | None, result_backend: str | None, workdir: str | None
) -> None:
    """A task queue that speaks Celery's protocol, made for Kubernetes."""
    if os.getpid() == 1:
        # A container's first process ignores a signal that it does not handle: a pod removed while its app is still being
        # imported would live on until SIGKILL. Nothing is claimed yet; the worker sets its own handler later.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if workdir:
        os.chdir(workdir)
    ctx.obj = _Given(app_path, broker, result_backend)


class _Given:
    """What the command line says of the app; the app is imported when a command asks for it."""

    def __init__(self, path: str | None, broker: str | None, backend: str | None) -> None:
        self._path, self._broker, self._backend = path, broker, backend

    def app(self, *, needed: bool = False) -> Celeriac:
        """The app; without -A a bare one, unless `needed`. Raises click's errors."""
        if self._path:
            app = find_app(self._path)
        elif needed:
            raise click.UsageError("name the app: celeriac -A MODULE[:NAME] … (or set CELERIAC_APP)")
        else:
            app = Celeriac("celeriac")
        given = {"broker_url": self._broker, "result_backend": self._backend}
        app.conf.pin({name: value for name, value in given.items() if value})
        return app


def find_app(path: str) -> Celeriac:
    """The app that `module` or `module:name` means: an attribute app, celery or celeriac, or the only app in the module.

    Raises click.BadParameter saying what was looked for.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise click.BadParameter(f"importing {module_name!r} failed: {error}", param_hint="-A") from error
        parent, _, attribute = module_name.rpartition(".")
        if not parent or name:
            raise click.BadParameter(
                f"there is no module {module_name!r} (looked in {os.getcwd()} and sys.path)", param_hint="-A"
            ) from error
        return find_app(f"{parent}:{attribute}")
    if name:
        found = getattr(module, name, None)
        if isinstance(found, Celeriac):
            return found
        raise click.BadParameter(
            f"{module_name}.{name} is {'missing' if found is None else 'no Celeriac app'}", param_hint="-A"
        )
    for attribute in ("app", "celery", "celeriac"):
        if isinstance(getattr(module, attribute, None), Celeriac):
            app: Celeriac = getattr(module, attribute)
            return app
    apps = {id(value): value for value in vars(module).values() if isinstance(value, Celeriac)}
    if len(apps) == 1:
        return next(iter(apps.values()))
    for below in ("celery", "celeriac"):
        if hasattr(module, "__path__") and importlib.util.find_spec(f"{module_name}.{below}"):
            return find_app(f"{module_name}.{below}")
    raise click.BadParameter(
        f"module {module_name!r} holds {len(apps)} Celeriac apps; name one as {module_name}:NAME", param_hint="-A"
    )


@main.command()
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    help="Node name; %h is the host, %n its short name, %d its domain. [celeriac@%h]",
)
@click.option("-Q", "--queues", metavar="A,B", help="Queues to consume. [the app's default queue]")
@click.option("-P", "--pool", metavar="POOL", help="How bodies run: solo or threads.")
@click.option("-c", "--concurrency", metavar="N", help="Bodies run at once; auto: the CPUs this worker may use.")
@click.option("-l", "--loglevel", default="warning", show_default=True, help="debug, info, warning, error or critical.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option("-E", "--task-events", is_flag=True, default=None, help="Send task events for monitors.")
@click.option(
    "--prefetch-multiplier",
    type=click.IntRange(0),
    help="Messages claimed ahead for each slot. [what will start within 20 ms]",
)
@click.option("--without-remote-control", is_flag=True, help="Answer no commands and send no heartbeats.")
@click.option("-O", "--optimization", hidden=True)
@click.option("--without-gossip", is_flag=True, hidden=True)
@click.option("--without-mingle", is_flag=True, hidden=True)
@click.option("--without-heartbeat", is_flag=True, hidden=True)
@click.pass_obj
def worker(
    given: _Given,
    /,
    hostname: str | None,
    queues: str | None,
    pool: str | None,
    concurrency: str | None,
    loglevel: str,
    log_json: bool,
    task_events: bool | None,
    prefetch_multiplier: int | None,
    without_remote_control: bool,
    **_: Any,
) -> None:
    """Run a worker: consume tasks until SIGTERM, then finish what runs."""
    from celeriac.worker.assemble import Options, run_worker  # clients of this command need no worker

    try:
        set_up(loglevel, as_json=log_json)
        slots = None if concurrency in (None, "auto") else int(concurrency or 0)
        if slots is not None and slots < 1:
            raise ValueError(f"concurrency {slots} is not at least 1")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    options = Options(
        hostname=hostname,
        queues=tuple(part.strip() for part in queues.split(",") if part.strip()) if queues else (),
        pool=pool,
        concurrency=slots,
        events=task_events,
        prefetch_multiplier=prefetch_multiplier,
        without_control=without_remote_control,
    )
    sys.exit(run_worker(given.app(needed=True), options))


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
    given: _Given,
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
def result(given: _Given, task_id: str, wait_s: float | None, traceback: bool, as_json: bool) -> None:
    """Print the result of TASK_ID; exit 1 when it is not ready or has failed."""
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


def _ask(
    given: _Given, method: str, destination: str | None, timeout_s: float, arguments: dict[str, Any] | None = None
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
def inspect(given: _Given, method: str, destination: str | None, timeout_s: float, as_json: bool) -> None:
    """Ask workers how they are."""
    _show(_ask(given, method, destination, timeout_s), as_json)


@main.command()
@click.option("-t", "--timeout", "timeout_s", default=1.0, show_default=True, help="Seconds to wait for answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(given: _Given, timeout_s: float, as_json: bool) -> None:
    """List the workers that answer."""
    answers = _ask(given, "ping", None, timeout_s)
    _show({node: {"ok": "OK"} for node in answers}, as_json)


@main.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", metavar="A,B", help="Queues to empty. [the app's default queue]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def purge(given: _Given, force: bool, queues: str | None, as_json: bool) -> None:
    """Delete all waiting messages. They cannot be brought back."""
    from celeriac.broker.purge import purge as empty

    app = given.app()
    names = [part.strip() for part in queues.split(",") if part.strip()] if queues else [app.conf.task_default_queue]
    if not force:
        click.confirm(f"Delete every message waiting in {', '.join(names)}?", abort=True)
    counts = empty(app.broker_address(), names)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        for name, count in counts.items():
            click.echo(f"{name}: {count} message(s) deleted")


@main.group("dead-letter")
def dead_letter() -> None:
    """Look at messages that could not be done, send them back to work, or delete them."""


_queue = click.option("-Q", "--queue", help="The queue they died in. [the app's default queue]")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _dead(given: _Given, queue: str | None) -> tuple[Any, str]:
    app = given.app()
    return app.broker_address(), queue or app.conf.task_default_queue


@dead_letter.command("list")
@_queue
@click.option(
    "-n", "--limit", default=100, show_default=True, type=click.IntRange(1), help="At most so many, oldest first."
)
@_as_json
@click.pass_obj
def dead_letter_list(given: _Given, queue: str | None, limit: int, as_json: bool) -> None:
    """List dead letters with their reasons, oldest first."""
    from celeriac.broker.deadletters import dead_letters

    address, name = _dead(given, queue)
    letters = dead_letters(address, name, limit)
    if as_json:
        click.echo(json.dumps([asdict(letter) for letter in letters], indent=2, default=str))
        return
    for letter in letters:
        when = datetime.fromtimestamp(letter.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        click.echo(f"{when}  {letter.id or '-'}  {letter.task or '-'}  {letter.reason}: {letter.detail}")
    click.echo(f"{len(letters)} dead letter(s) of queue {name}", err=True)


@dead_letter.command("show")
@click.argument("task_id")
@_queue
@click.pass_obj
def dead_letter_show(given: _Given, task_id: str, queue: str | None) -> None:
    """Print everything known of the dead letter of TASK_ID, as JSON; exit 1 when there is none."""
    from celeriac.broker.deadletters import dead_letters

    address, name = _dead(given, queue)
    letters = [letter for letter in dead_letters(address, name, 10_000) if letter.id == task_id]
    if not letters:
        raise click.ClickException(f"queue {name} has no dead letter with the id {task_id}")
    click.echo(json.dumps([asdict(letter) for letter in letters], indent=2, default=str))


@dead_letter.command("replay")
@click.argument("task_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--task", help="Those of this task.")
@click.option("--reason", help="Those that died for this reason, e.g. unknown_task.")
@_queue
@_as_json
@click.pass_obj
def dead_letter_replay(
    given: _Given, /, task_ids: tuple[str, ...], everything: bool, task: str | None, reason: str | None, queue: str | None, as_json: bool
) -> None:  # fmt: skip
    """Send dead letters back to their queue, as if they had never been started."""
    from celeriac.broker.deadletters import replay

    if not (task_ids or everything or task or reason):
        raise click.UsageError("say which: ids, --task, --reason, or --all")
    address, name = _dead(given, queue)
    sent = replay(
        address,
        name,
        lambda letter: (
            (not task_ids or letter.id in task_ids)
            and (task is None or letter.task == task)
            and (reason is None or letter.reason == reason)
        ),
    )
    if as_json:
        click.echo(json.dumps([letter.id for letter in sent]))
    else:
        click.echo(f"{len(sent)} dead letter(s) sent back to {name}")
    if not sent:
        sys.exit(1)


@dead_letter.command("purge")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@_queue
@_as_json
@click.pass_obj
def dead_letter_purge(given: _Given, force: bool, queue: str | None, as_json: bool) -> None:
    """Delete all dead letters of a queue. They cannot be brought back."""
    from celeriac.broker.purge import purge as empty
    from celeriac.broker.topology import dead_queue_name

    address, name = _dead(given, queue)
    if not force:
        click.confirm(f"Delete every dead letter of {name}?", abort=True)
    [count] = empty(address, [dead_queue_name(name)]).values()
    click.echo(json.dumps({name: count}) if as_json else f"{name}: {count} dead letter(s) deleted")


__all__ = ["find_app", "main"]
