"""Flags and commands of Celery's that mean nothing here: known, left out of --help, and refused with what to do instead."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Celery's commands that are not here: name -> what to do instead.
COMMANDS = {
    "multi": "a command is one worker. Let what supervises your services run as many as you need: a unit a worker"
    " (celeriac@.service) under systemd, replicas of a Deployment, or a WorkerPool, which says how many by itself",
    "events": "watch with Flower (workers send task events with -E), or with the /metrics of workers and the dashboards of the chart;"
    " `celeriac status` and `celeriac inspect` ask the workers now",
    "shell": "import the app in a shell of Python's: python -i -c 'from proj.celery import app'",
    "graph": "`celeriac inspect stats` lists workers and pools; there are no bootsteps to draw",
    "list": "ask the broker for its bindings: rabbitmqctl list_bindings",
    "amqp": "ask the broker: rabbitmqadmin, rabbitmqctl, redis-cli. To empty a queue: `celeriac purge`",
    "logtool": "log JSON (--log-json) and ask what keeps your logs; counts and times are in the /metrics of each worker",
    "migrate": "let calls go to the new broker (broker_write_url) while workers finish what waits at the old one (broker_read_url)",
    "upgrade": "old names of settings are accepted as they are; `celeriac report` lists what is set under today's names",
}


class _Gone(click.ClickException):
    """Wrong use, of which no usage would tell more."""

    exit_code = 2


def command(name: str) -> click.Command | None:
    """The command of that name that says what to do instead, whatever it is given; None: no such command of Celery's."""
    if name not in COMMANDS:
        return None

    @click.command(name, hidden=True, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1)
    def gone(words: tuple[str, ...]) -> None:
        raise _Gone(f"there is no celeriac {name}: {COMMANDS[name]}")

    return gone


def refused(*flags: str, instead: str, is_flag: bool = False) -> Callable[[_Command], _Command]:
    """An option that ends the command with exit code 2 and `instead`."""

    def refuse(_: click.Context, __: click.Parameter, value: Any) -> None:
        if value:
            raise click.UsageError(f"{', '.join(flags)}: {instead}")

    return click.option(*flags, is_flag=is_flag, hidden=True, expose_value=False, callback=refuse)


def refused_daemon(*detach: str) -> Callable[[_Command], _Command]:
    """The options with which Celery's commands turn into daemons. detach: what asks for it."""

    def decorate(function: _Command) -> _Command:
        for option in (
            refused(*detach, is_flag=True, instead="run it under what supervises your services (systemd, a Deployment), or add &"),
            refused("--uid", instead="start it as that user: User= of a systemd unit, runAsUser of a pod, USER of an image"),
            refused("--gid", instead="start it in that group: Group= of a systemd unit, runAsGroup or fsGroup of a pod"),
            refused("--umask", instead="set it where it is started: UMask= of a systemd unit, or umask in the shell"),
            refused("--executable", instead="start that interpreter: /path/to/python -m celeriac …"),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


def check_scheduler(_: click.Context, param: click.Parameter, name: str | None) -> str | None:
    """The name, if it is that of the one scheduler. Raises click.UsageError."""
    if name and not name.endswith("PersistentScheduler"):
        raise click.UsageError(
            f"{param.opts[0]} {name}: there is one scheduler, of beat_schedule; its state is kept in the coordination store, or in a file (-s)"
        )
    return name
