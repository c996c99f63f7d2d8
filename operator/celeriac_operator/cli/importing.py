"""`celeriac-operator import keda`: manifests of another autoscaler as WorkerPools."""

import json
from typing import Any, TextIO

import click

from celeriac_operator.cli.root import cli
from celeriac_operator.errors import OperatorError
from celeriac_operator.resources.keda import Imported, imported


@cli.group("import")
def import_() -> None:
    """Make WorkerPools out of another autoscaler's manifests."""


@import_.command()
@click.argument("files", type=click.File(), nargs=-1, required=True)
@click.option("--active", is_flag=True, help="Let the pools act. [mode: DryRun, so that KEDA may go on meanwhile]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the pools and the notes on each.")
def keda(files: tuple[TextIO, ...], active: bool, as_json: bool) -> None:
    """Turn KEDA's ScaledObjects into WorkerPools, on standard output.

    FILES hold YAML (- for standard input), e.g. of `kubectl get scaledobject,triggerauthentication,deployment -o yaml`. The
    TriggerAuthentications and Deployments tell where the broker's URL is; nothing else is read of them. What has no counterpart is
    said in comments above each pool.
    """
    import yaml

    documents: list[Any] = []
    for file in files:
        try:
            documents += yaml.safe_load_all(file.read())
        except yaml.YAMLError as error:
            raise click.ClickException(f"{file.name} is not YAML: {error}") from error
    try:
        pools = imported(documents, mode="Active" if active else "DryRun")
    except OperatorError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([{"pool": one.pool, "notes": list(one.notes)} for one in pools], indent=2))
    else:
        click.echo("\n---\n".join(_text(one) for one in pools))


def _text(one: Imported) -> str:
    import yaml

    notes = [f"# - {note}" for note in one.notes]
    return "\n".join([*notes, yaml.safe_dump(dict(one.pool), sort_keys=False).rstrip()])
