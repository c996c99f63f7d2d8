"""`celeriac-operator import keda`: manifests of another autoscaler as WorkerPools."""

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import click

from celeriac_operator.cli.root import cli
from celeriac_operator.documents import documents
from celeriac_operator.errors import OperatorError
from celeriac_operator.resources.keda import Imported, imported, left_out


@cli.group("import")
def import_() -> None:
    """Make WorkerPools out of another autoscaler's manifests."""


@import_.command()
@click.argument("files", type=click.File("rb"), nargs=-1, required=True)
@click.option("--active", is_flag=True, help="Let the pools act. [mode: DryRun, so that KEDA may go on meanwhile]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the pools, and the notes and problems of each.")
def keda(files: tuple[BinaryIO, ...], active: bool, as_json: bool) -> None:
    """Turn KEDA's ScaledObjects into WorkerPools, on standard output.

    FILES hold YAML (- for standard input), e.g. of `kubectl get scaledobject,triggerauthentication,deployment -o yaml`. The
    TriggerAuthentications and Deployments tell where the broker's URL is, and a Deployment its workers' slots and queues. What has
    no counterpart is said in comments above each pool. Exit code 1, and a summary on standard error, when there are pools that
    cannot be applied as they stand.
    """
    found: list[Any] = []
    try:
        for file in files:
            found += documents(file.read(), str(getattr(file, "name", "standard input")))
        pools = imported(found, mode="Active" if active else "DryRun")
    except OperatorError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        shown = [
            {"pool": one.pool, "of": one.of, "notes": list(one.notes), "problems": list(one.problems)} for one in pools
        ]
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo("\n---\n".join(_text(one) for one in pools))
    for sentence in left_out(found):
        click.echo(f"left out: {sentence}", err=True)
    broken = [one for one in pools if one.problems]
    if broken:
        raise click.ClickException(_summary(pools, broken))


def _summary(pools: Sequence[Imported], broken: Sequence[Imported]) -> str:
    lines = [f"  {one.of}: {problem}" for one in broken for problem in one.problems]
    return "\n".join([f"{len(broken)} of {len(pools)} pools cannot be applied as they stand; mend by hand:", *lines])


def _text(one: Imported) -> str:
    import yaml

    comments = [f"# {one.of}:", *(f"# - {' '.join(note.splitlines())}" for note in one.notes)]
    return "\n".join([*comments, yaml.safe_dump(dict(one.pool), sort_keys=False).rstrip()])
