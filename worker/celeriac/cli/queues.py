"""`celeriac purge` and `celeriac dead-letter`."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from celeriac.cli.root import Given, main, names_in


@main.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", metavar="A,B", help="Queues to empty. [task_queues, else the app's default queue]")
@click.option("-X", "--exclude-queues", metavar="A,B", help="Queues of these to leave as they are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def purge(given: Given, force: bool, queues: str | None, exclude_queues: str | None, as_json: bool) -> None:
    """Delete all waiting messages. They cannot be brought back."""
    from celeriac.broker.purge import purge as empty

    app = given.app()
    left_out = set(names_in(exclude_queues))
    names = [name for name in names_in(queues) or app.broker_address().plan.named if name not in left_out]
    if not names:
        raise click.UsageError("no queue is left to empty: -X leaves out all that -Q or task_queues name")
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
    """Show, replay or delete messages that could not be done."""


_queue = click.option("-Q", "--queue", help="The queue they died in. [the app's default queue]")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _dead(given: Given, queue: str | None) -> tuple[Any, str]:
    app = given.app()
    return app.broker_address(), queue or app.conf.task_default_queue


@dead_letter.command("list")
@_queue
@click.option(
    "-n", "--limit", default=100, show_default=True, type=click.IntRange(1), help="At most so many, oldest first."
)
@_as_json
@click.pass_obj
def dead_letter_list(given: Given, queue: str | None, limit: int, as_json: bool) -> None:
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
def dead_letter_show(given: Given, task_id: str, queue: str | None) -> None:
    """Print all that is known of a dead letter, as JSON. Exit 1 when there is none of TASK_ID."""
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
    given: Given, /, task_ids: tuple[str, ...], everything: bool, task: str | None, reason: str | None, queue: str | None, as_json: bool
) -> None:  # fmt: skip
    """Send dead letters back to their queue, as if never started."""
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
def dead_letter_purge(given: Given, force: bool, queue: str | None, as_json: bool) -> None:
    """Delete all dead letters of a queue. They cannot be brought back."""
    from celeriac.broker.purge import purge as empty
    from celeriac.broker.topology import dead_queue_name

    address, name = _dead(given, queue)
    if not force:
        click.confirm(f"Delete every dead letter of {name}?", abort=True)
    [count] = empty(address, [dead_queue_name(name)]).values()
    click.echo(json.dumps({name: count}) if as_json else f"{name}: {count} dead letter(s) deleted")
