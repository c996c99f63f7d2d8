"""The `celeriac-operator` command itself, and what its commands share."""

from importlib import metadata
from typing import Any

import click


class Commands(click.Group):
    """The commands; `up` and `simulate` are imported when they are asked for: only a laptop needs what they need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "simulate", "up"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "up":
            from celeriac_operator.local.command import up

            return up
        if cmd_name == "simulate":
            from celeriac_operator.simulate.command import simulate

            return simulate
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="celeriac", prog_name="celeriac-operator")
def cli() -> None:
    """The Kubernetes operator of Celeriac: scales workers from the work that waits."""


def kubeconfig_options(command: Any) -> Any:
    context = click.option("--context", help="The kubeconfig's context.  [default: its current one]")
    file = click.option(
        "--kubeconfig",
        type=click.Path(exists=True, dir_okay=False),
        help="A kubeconfig file.  [default: the pod's service account, else KUBECONFIG, else ~/.kube/config]",
    )
    return file(context(command))


def own_version() -> str:
    return metadata.version("celeriac")
