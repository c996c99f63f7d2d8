"""The `celeriac` command itself: its common options, the app that they mean, and exit codes that mean something.

0 done; 1 the thing asked for failed; 2 wrong use; 69 the broker or the result store could not be reached.
"""

import importlib
import importlib.util
import os
import signal
import sys
from importlib.metadata import entry_points
from typing import Any

import click
from click.core import ParameterSource

from celeriac import __version__
from celeriac.app.base import Celeriac
from celeriac.cli import celerys
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, CeleriacError

EXIT_UNAVAILABLE = 69
#: Options that Celery before 5 also took after the command.
_COMMON = frozenset({"-A", "--app", "-b", "--broker", "--result-backend", "--workdir"})


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
                return _missing(name, error)
        return celerys.command(name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name in _COMMON:
                name = error.ctx.info_name if error.ctx is not None else "COMMAND"
                said = f"{error.format_message()} It stands before the command: celeriac {error.option_name} … {name}"
                raise click.UsageError(said, error.ctx) from error
            raise
        except (BrokerUnavailable, BackendUnavailable) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(EXIT_UNAVAILABLE)
        except CeleriacError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(1)


def _missing(name: str, error: ImportError) -> click.Command:
    """A command whose extras are not installed: it is in the list, and says what to install whatever it is given."""
    advice = "pip install 'celeriac[operator,embedded]'"

    @click.command(
        name,
        short_help=f"Not installed: {advice}.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("words", nargs=-1)
    def missing(words: tuple[str, ...]) -> None:
        raise click.ClickException(f"{name} needs more than is installed: {error}. Install it with: {advice}")

    return missing


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
@click.option("-C", "--no-color", is_flag=True, help="Colour no lines of the log.")
@click.option("-q", "--quiet", is_flag=True, hidden=True, expose_value=False)
@celerys.refused("--config", instead="say it in the app's module: app.config_from_object('celeryconfig')")
@celerys.refused(
    "--loader", instead="there are no loaders: settings are read with app.config_from_object or app.config_from_envvar"
)
@celerys.refused("--skip-checks", is_flag=True, instead="Django's checks run; silence one with SILENCED_SYSTEM_CHECKS")
@click.version_option(__version__, prog_name="celeriac")
@click.pass_context
def main(
    ctx: click.Context, app_path: str | None, broker: str | None, result_backend: str | None, workdir: str | None, no_color: bool
) -> None:  # fmt: skip
    """A task queue that speaks Celery's protocol, made for Kubernetes."""
    if os.getpid() == 1:
        # A container's first process ignores a signal that it does not handle: a pod removed while its app is still being
        # imported would live on until SIGKILL. Nothing is claimed yet; the worker sets its own handler later.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if workdir:
        os.chdir(workdir)
    typed = broker is not None and ctx.get_parameter_source("broker") is ParameterSource.COMMANDLINE
    own = ctx.obj if isinstance(ctx.obj, Celeriac) else None  # app.start()
    ctx.obj = Given(app_path, broker, result_backend, only_broker=typed, own=own, no_color=no_color)


class Given:
    """What the command line says of the app; the app is imported when a command asks for it.

    only_broker  whether that broker is to be read and written, whatever broker_read_url and broker_write_url say.
    own          the app whose own program this is.
    no_color     whether lines of the log are not coloured, whatever worker_log_color says.
    """

    def __init__(
        self, path: str | None, broker: str | None, backend: str | None, *, only_broker: bool = False, own: Celeriac | None = None,
        no_color: bool = False,
    ) -> None:  # fmt: skip
        self._path, self._broker, self._backend = path, broker, backend
        self._only_broker, self._own, self._no_color = only_broker, own, no_color

    def app(self, *, needed: bool = False) -> Celeriac:
        """The app; without -A a bare one, unless `needed`. Raises click's errors."""
        if self._path:
            app = find_app(self._path)
        elif self._own is not None:
            app = self._own
        elif needed:
            raise click.UsageError("name the app: celeriac -A MODULE[:NAME] … (or set CELERIAC_APP)")
        else:
            app = Celeriac("celeriac")
        given = {"broker_url": self._broker, "result_backend": self._backend}
        app.conf.pin({name: value for name, value in given.items() if value})
        if self._only_broker:
            app.conf.pin({"broker_read_url": None, "broker_write_url": None})
        if self._no_color:
            app.conf.pin({"worker_log_color": False})
        return app


def names_in(text: str | None) -> tuple[str, ...]:
    """The names of `A,B`."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


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
