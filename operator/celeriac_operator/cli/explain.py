"""`celeriac-operator explain`."""

import json
from typing import Any

import click

from celeriac_operator import clock
from celeriac_operator.cli.root import cli, kubeconfig_options
from celeriac_operator.errors import NotFound, OperatorError
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec
from celeriac_operator.scaling.whatif import GUARDS, alternatives


@cli.command()
@click.argument("pool", metavar="NAMESPACE/NAME")
@kubeconfig_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
def explain(*, pool: str, kubeconfig: str | None, context: str | None, as_json: bool) -> None:
    """Say in words why a WorkerPool has the replicas it has. Also what would change that. Reads its status and nothing else."""
    from celeriac_operator.cluster.client import KubeClient, load_configuration

    namespace, slash, name = pool.partition("/")
    if not slash or not name:
        raise click.BadParameter(f"{pool!r} is not NAMESPACE/NAME", param_hint="NAMESPACE/NAME")
    try:
        client = KubeClient(load_configuration(kubeconfig=kubeconfig, context=context))
        found = client.get(f"/apis/celeriac.dev/v1alpha1/namespaces/{namespace}/workerpools/{name}")
    except NotFound as error:
        raise click.ClickException(f"there is no WorkerPool {pool}, or the CRD is not installed ({error})") from error
    except OperatorError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found.get("status") or {}, indent=2))
        return
    for line in (*words(pool, found), *_change(found)):
        click.echo(line)


def _change(found: dict[str, Any]) -> list[str]:
    """What would change the number of replicas, as lines of text."""
    status = found.get("status") or {}
    limited_by = (status.get("decision") or {}).get("limitedBy")
    if not limited_by:
        return []
    lines = ["what would change it:", f"  limited by {limited_by}: {GUARDS.get(limited_by, 'see the conditions')}"]
    try:
        told = alternatives(WorkerPoolSpec.parse(found.get("spec") or {}), status, clock.now())
    except (SpecError, ValueError) as error:
        return [*lines, f"  more cannot be told: {error}"]
    if not told:
        return lines
    usual, *others = told
    lines.append(f"  demand alone asks for {usual.replicas} now, computed from the figures above; it would ask for")
    return [*lines, *(f"    {one.replicas} with {one.change}" for one in others)]


def words(pool: str, found: dict[str, Any]) -> list[str]:
    """A WorkerPool object's status as lines of text: the decision, its terms, what stands in the way."""
    status = found.get("status") or {}
    decision = status.get("decision") or {}
    noted = [c for c in status.get("conditions") or () if c["status"] != ("True" if c["type"] in _GOOD else "False")]
    wrong = [f"  {c['type']}={c['status']} {c.get('reason', '')}: {c.get('message', '')}" for c in noted]
    if not decision:
        why = "this is in the way:" if wrong else "Is an operator serving this namespace?"
        return [f"{pool}: no decision yet. {why}", *wrong]
    lines = [f"{pool}: {decision.get('summary') or 'no summary'}"]
    lines.append(f"  decided at {decision.get('time', '?')}, limited by {decision.get('limitedBy', 'none')}")
    counts = [f"{label} {status[field]}" for label, field in _COUNTS if field in status]
    if counts:
        lines.append(f"  replicas: {', '.join(counts)}")
    terms = decision.get("terms") or {}
    if terms:
        lines.append(f"  slots: {', '.join(f'{term} {value}' for term, value in terms.items())}")
    for queue in status.get("queues") or ():
        facts = ", ".join(f"{key} {value}" for key, value in queue.items() if key != "name")
        lines.append(f"  queue {queue.get('name')}: {facts}")
    if "predictedDrainSeconds" in status:
        lines.append(f"  what waits is done in about {status['predictedDrainSeconds']} s")
    return [*lines, *wrong]


#: Conditions that are True when all is well; the others then are False.
_GOOD = ("Ready", "BrokerReachable", "ScalingActive", "SignalsComplete")

_COUNTS = (
    ("now", "replicas"),
    ("ready", "readyReplicas"),
    ("desired", "desiredReplicas"),
    ("by demand alone", "unclampedReplicas"),
    ("starting", "startingReplicas"),
    ("draining", "drainingReplicas"),
    ("idle", "idleReplicas"),
)
