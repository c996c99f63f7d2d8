"""`celeriac-operator`: run, up, explain, crd, version."""

import json
import logging
import os
import re
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from celeriac_operator.errors import NotFound, OperatorError

#: What a namespace may be called (RFC 1123 label): nothing that kopf would take for a pattern.
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

CRD_FILE = "workerpools.celeriac.dev.yaml"


class Commands(click.Group):
    """The commands; `up` is imported when it is asked for, since only a laptop needs what it needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "up"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "up":
            from celeriac_operator.local.command import up

            return up
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """The Kubernetes operator of Celeriac: scales workers from the work that waits."""


def _kubeconfig(command: Any) -> Any:
    context = click.option("--context", help="The kubeconfig's context.  [default: its current one]")
    file = click.option(
        "--kubeconfig",
        type=click.Path(exists=True, dir_okay=False),
        help="A kubeconfig file.  [default: the pod's service account, else KUBECONFIG, else ~/.kube/config]",
    )
    return file(context(command))


def _checked_namespaces(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name for value in values for name in re.split(r"[\s,]+", value) if name)
    for name in names:
        if not NAMESPACE.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not the name of a namespace; patterns are not supported")
    return names


def _checked_lease(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, str] | None:
    if value is None:
        return None
    namespace, slash, name = value.rpartition("/")
    if not slash or not NAMESPACE.fullmatch(namespace) or not name:
        raise click.BadParameter(f"{value!r} is not NAMESPACE/NAME")
    return namespace, name


@cli.command()
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    envvar="CELERIAC_OPERATOR_NAMESPACE",
    callback=_checked_namespaces,
    help="A namespace to serve; repeat it, or separate names by commas.  [default: the operator's own]",
)
@click.option(
    "-A",
    "--all-namespaces",
    is_flag=True,
    envvar="CELERIAC_OPERATOR_ALL_NAMESPACES",
    help="Serve every namespace; needs a ClusterRole.",
)
@_kubeconfig
@click.option(
    "--http-host",
    default="0.0.0.0",
    show_default=True,
    envvar="CELERIAC_OPERATOR_HTTP_HOST",
    help="Where to listen.",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    envvar="CELERIAC_OPERATOR_HTTP_PORT",
    help="Port of /livez, /readyz and /metrics; 0 for none.",
)
@click.option(
    "--ha",
    is_flag=True,
    envvar="CELERIAC_OPERATOR_HA",
    help="Act only while holding a Lease, so that two replicas may run.",
)
@click.option(
    "--lease",
    metavar="NAMESPACE/NAME",
    callback=_checked_lease,
    envvar="CELERIAC_OPERATOR_LEASE",
    help="The Lease of --ha.  [default: celeriac-operator in the operator's own namespace]",
)
@click.option(
    "--annotate-pods/--no-annotate-pods",
    default=True,
    show_default=True,
    envvar="CELERIAC_OPERATOR_ANNOTATE_PODS",
    help="Write deletion costs on pods that are to go; needs `patch` on pods.",
)
@click.option(
    "--broker-url",
    envvar=["CELERIAC_OPERATOR_BROKER_URL", "CELERIAC_BROKER_URL"],
    help="The broker of pools that name none. Give it in the environment: it may hold a password.",
)
@click.option(
    "-l",
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    envvar="CELERIAC_OPERATOR_LOG_LEVEL",
    help="How much to log.",
)
def run(
    *,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    kubeconfig: str | None,
    context: str | None,
    http_host: str,
    http_port: int,
    ha: bool,
    lease: tuple[str, str] | None,
    annotate_pods: bool,
    broker_url: str | None,
    log_level: str,
) -> None:
    """Run the operator until SIGTERM. Each option may be given in the environment as CELERIAC_OPERATOR_<OPTION>."""
    if os.getpid() == 1:
        # A container's first process ignores a signal that it does not handle, and importing takes a second.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from celeriac_operator.main import Options, own_namespaces
    from celeriac_operator.main import run as run_operator

    if all_namespaces and namespaces:
        raise click.UsageError("--namespace and --all-namespaces exclude each other")
    own = own_namespaces()
    if not all_namespaces and not (namespaces or own):
        raise click.UsageError("outside a pod, name what to serve with --namespace or --all-namespaces")
    if lease and not ha:
        raise click.UsageError("--lease is of use only with --ha")
    if ha and not lease:
        if not own:
            raise click.UsageError("outside a pod, --ha needs --lease NAMESPACE/NAME")
        lease = (own[0], "celeriac-operator")
    configure_logging(log_level)
    options = Options(
        namespaces=() if all_namespaces else (namespaces or own),
        kubeconfig=kubeconfig,
        context=context,
        http_host=http_host,
        http_port=http_port,
        lease=lease,
        annotate_pods=annotate_pods,
        broker_url=broker_url,
        version=_version(),
    )
    try:
        run_operator(options)
    except OperatorError as error:
        raise click.ClickException(str(error)) from error


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--rules/--no-rules", default=True, help="Leave out the CEL rules, which API servers before 1.25 refuse.")
def crd(*, as_json: bool, rules: bool) -> None:
    """Print the CustomResourceDefinition of WorkerPool, for `kubectl apply -f -`."""
    import yaml

    text = _crd_file().read_text()
    if rules and not as_json:
        click.echo(text, nl=False)
        return
    document = yaml.safe_load(text)
    if not rules:
        _drop_rules(document)
    click.echo(json.dumps(document) if as_json else yaml.safe_dump(document, sort_keys=False), nl=as_json)


@cli.command()
@click.argument("pool", metavar="NAMESPACE/NAME")
@_kubeconfig
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
def explain(*, pool: str, kubeconfig: str | None, context: str | None, as_json: bool) -> None:
    """Say in words why a WorkerPool has the replicas it has, from its status."""
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
    for line in words(pool, found):
        click.echo(line)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(*, as_json: bool) -> None:
    """Print the versions of the operator and of what it stands on."""
    versions = {"celeriac-operator": _version()}
    versions |= {name: metadata.version(name) for name in ("kopf", "kubernetes", "kombu")}
    click.echo(json.dumps(versions) if as_json else "\n".join(f"{name} {value}" for name, value in versions.items()))


def words(pool: str, found: dict[str, Any]) -> list[str]:
    """A WorkerPool object's status as lines of text: the decision, its terms, what stands in the way."""
    status = found.get("status") or {}
    decision = status.get("decision") or {}
    if not decision:
        return [f"{pool}: no decision yet. Is an operator serving this namespace?"]
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
    noted = [c for c in status.get("conditions") or () if c["status"] != ("True" if c["type"] in _GOOD else "False")]
    return [*lines, *(f"  {c['type']}={c['status']} {c.get('reason', '')}: {c.get('message', '')}" for c in noted)]


#: Conditions that are True when all is well; the others then are False.
_GOOD = ("Ready", "BrokerReachable", "ScalingActive")

_COUNTS = (
    ("now", "replicas"),
    ("ready", "readyReplicas"),
    ("desired", "desiredReplicas"),
    ("by demand alone", "unclampedReplicas"),
    ("starting", "startingReplicas"),
    ("draining", "drainingReplicas"),
    ("idle", "idleReplicas"),
)


def configure_logging(level: str) -> None:
    """Lines on stderr. kopf and its HTTP client are heard from warnings upwards, or fully at debug."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    if level.lower() != "debug":
        for noisy in ("kopf", "urllib3", "asyncio"):
            logging.getLogger(noisy).setLevel(logging.WARNING)


def _crd_file() -> Path:
    """The chart's own file: installed beside this module, or in the checkout that this module runs from."""
    here = Path(__file__).resolve().parent
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


def _version() -> str:
    return metadata.version("celeriac")


def main() -> None:
    """The console script."""
    cli()
