"""`celeriac-operator crd` and `version`."""

import json
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from celeriac_operator.cli.root import cli, own_version

CRD_FILE = "workerpools.celeriac.dev.yaml"


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--rules/--no-rules", default=True, help="Leave out the CEL rules, which API servers before 1.25 refuse.")
def crd(*, as_json: bool, rules: bool) -> None:
    """Print the schema of WorkerPool, for `kubectl apply -f -`."""
    import yaml

    text = definition_text()
    if rules and not as_json:
        click.echo(text, nl=False)
        return
    document = yaml.safe_load(text)
    if not rules:
        _drop_rules(document)
    click.echo(json.dumps(document) if as_json else yaml.safe_dump(document, sort_keys=False), nl=as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(*, as_json: bool) -> None:
    """Print the versions of the operator and what it stands on, as far as it is installed."""
    versions = {"celeriac-operator": own_version()}
    for name in ("kopf", "kubernetes", "kombu"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    click.echo(json.dumps(versions) if as_json else "\n".join(f"{name} {value}" for name, value in versions.items()))


def definition_text() -> str:
    """The CustomResourceDefinition, YAML."""
    return _crd_file().read_text()


def _crd_file() -> Path:
    """The chart's own file: installed in this package, or in the checkout that this package runs from."""
    here = Path(__file__).resolve().parents[1]
    for path in (here / CRD_FILE, here.parents[1] / "charts/celeriac-operator/files/crds" / CRD_FILE):
        if path.is_file():
            return path
    raise click.ClickException(f"{CRD_FILE} is not part of this installation; it is in the chart, under files/crds")


def _drop_rules(node: Any) -> None:
    if isinstance(node, dict):
        node.pop("x-kubernetes-validations", None)
        for value in node.values():
            _drop_rules(value)
    elif isinstance(node, list):
        for value in node:
            _drop_rules(value)
