"""`celeriac-operator explain`."""

import json
from typing import Any

import click

from celeriac_operator import clock
from celeriac_operator.cli.root import cli, kubeconfig_options
from celeriac_operator.errors import NotFound, OperatorError
from celeriac_operator.resources.spec import ObjectiveType, SpecError, WorkerPoolSpec
from celeriac_operator.scaling.whatif import GUARDS, alternatives

#: In place of alternatives that would contradict the decision.
_YOUNG = (
    "the status's figures alone give another number than was decided, as in a pool's first minutes and after a burst"
)


@cli.command()
@click.argument("pool", metavar="NAMESPACE/NAME")
@kubeconfig_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
def explain(*, pool: str, kubeconfig: str | None, context: str | None, as_json: bool) -> None:
    """Say in words why a WorkerPool has the replicas it has. Also what would change that. Reads its status and nothing else."""
    from celeriac_operator.cluster.access import load_access
    from celeriac_operator.cluster.client import KubeClient

    namespace, slash, name = pool.partition("/")
    if not slash or not name:
        raise click.BadParameter(f"{pool!r} is not NAMESPACE/NAME", param_hint="NAMESPACE/NAME")
    try:
        client = KubeClient(load_access(kubeconfig=kubeconfig, context=context))
        found = client.get(f"/apis/celeriac.dev/v1alpha1/namespaces/{namespace}/workerpools/{name}")
    except NotFound as error:
        raise click.ClickException(f"there is no WorkerPool {pool}, or the CRD is not installed ({error})") from error
    except OperatorError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({**(found.get("status") or {}), "alternatives": _alternatives_of(found)}, indent=2))
        return
    for line in (*words(pool, found), *_change(found)):
        click.echo(line)


def _alternatives_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What demand alone asks for, as it is and with another spec; none where the status tells too little."""
    try:
        told = alternatives(WorkerPoolSpec.parse(found.get("spec") or {}), found.get("status") or {}, clock.now())
    except (SpecError, ValueError):
        return []
    return [one._asdict() for one in told]


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
    if not _as_decided(usual.replicas, status.get("unclampedReplicas")):
        return [*lines, f"  more cannot be told yet: {_YOUNG}"]
    now = f"  demand alone asks for {usual.replicas} now, computed from the figures above"
    if not others:
        return [*lines, f"{now}, and for as many with half or twice of what the spec says"]
    return [*lines, f"{now}; it would ask for", *(f"    {one.replicas} with {one.change}" for one in others)]


def _as_decided(computed: int, decided: int | None) -> bool:
    """Whether demand computed from a status is near the one that was decided by: a pod off, or a tenth, as the status rounds."""
    return decided is None or abs(computed - decided) <= max(1, decided // 10)


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
        facts = ", ".join(f"{key} {value}" for key, value in queue.items() if key not in ("name", "waitSeconds"))
        lines.append(f"  queue {queue.get('name')}: {facts}")
    lines += _waits(found)
    if "predictedDrainSeconds" in status:
        lines.append(f"  what waits is done in about {status['predictedDrainSeconds']} s")
    dry = status.get("dryRun") or {}
    if dry:
        hours = f"{dry.get('podHours', '?')} pod-hours would have been used, the target had {dry.get('targetPodHours', '?')}"
        lines.append(f"  dry run since {dry.get('since', '?')}, until {dry.get('until', '?')}: {hours}")
        lines += [
            f"    {c.get('time')} {c.get('from')} -> {c.get('to')}: {c.get('reason')}" for c in dry.get("changes") or ()
        ]
    return [*lines, *wrong]


def _waits(found: dict[str, Any]) -> list[str]:
    """What messages of queues with objective Latency waited, beside what is wanted."""
    told = {row.get("name"): row["waitSeconds"] for row in found["status"].get("queues") or () if "waitSeconds" in row}
    if not told:
        return []
    try:
        spec = WorkerPoolSpec.parse(found.get("spec") or {})
    except SpecError:
        return []  # told below, with what else it keeps from being told
    wanted = [(queue.name, spec.objective_of(queue)) for queue in spec.queues if queue.name in told]
    return [
        f"  p{objective.percentile} wait of {name}: about {told[name]} s (objective {objective.seconds} s)"
        for name, objective in wanted
        if objective.type is ObjectiveType.LATENCY
    ]


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
