"""`celeriac-operator doctor`."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from celeriac.broker.depth import DepthProbe
from celeriac.exceptions import CeleriacError
from celeriac_operator.cli.crd import definition_text
from celeriac_operator.cli.root import cli, kubeconfig_options
from celeriac_operator.errors import ClusterError, OperatorError
from celeriac_operator.resources.fitness import Finding, Level
from celeriac_operator.resources.spec import Broker

if TYPE_CHECKING:
    from celeriac_operator.cluster.client import KubeClient

#: Exit codes beside 0.
FOUND, COULD_NOT_LOOK = 1, 2
_SIGNS = {Level.OK: "ok     ", Level.WARNING: "WARNING", Level.ERROR: "ERROR  ", Level.UNKNOWN: "unknown"}


@cli.command()
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    help="A namespace to look at; repeat it.  [default: the current one]",
)
@click.option(
    "--service-account",
    metavar="NAMESPACE/NAME",
    help="Ask what the operator's account may do.  [default: what you may, or in a pod its own account]",
)
@click.option("--broker/--no-broker", "ask_brokers", default=True, help="Try to reach each pool's broker from here.")
@click.option("--broker-url", envvar="CELERIAC_OPERATOR_BROKER_URL", help="The broker of pools that name none.")
@kubeconfig_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    *, namespaces: tuple[str, ...], service_account: str | None, ask_brokers: bool, broker_url: str | None, kubeconfig: str | None,
    context: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Look at an installation and say what to fix. Permissions, CRD, Secrets, brokers, grace periods, other autoscalers.

    Reads only. Exit code 0: all is well (warnings may be); 1: something does not work; 2: something could not be looked at.
    """
    from celeriac_operator.cluster.access import current_namespace, load_access
    from celeriac_operator.cluster.client import KubeClient

    try:
        client = KubeClient(load_access(kubeconfig=kubeconfig, context=context))
    except OperatorError as error:
        raise click.ClickException(str(error)) from error
    account = _account(service_account)
    found = []
    for finding in _rounds(
        client, namespaces or (current_namespace(kubeconfig, context),), account, ask_brokers, broker_url or ""
    ):
        found.append(finding)
        if not as_json:
            _say(finding)
    levels = {finding.level for finding in found}
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        counts = ", ".join(f"{sum(one.level is level for one in found)} {level}" for level in Level)
        click.echo(f"{len(found)} looks: {counts}", err=True)
    if Level.ERROR in levels:
        sys.exit(FOUND)
    if Level.UNKNOWN in levels:
        sys.exit(COULD_NOT_LOOK)


def _account(service_account: str | None) -> tuple[str, str] | None:
    """(namespace, name) of --service-account."""
    if not service_account:
        return None
    namespace, slash, name = service_account.partition("/")
    if not slash or not name:
        raise click.BadParameter(f"{service_account!r} is not NAMESPACE/NAME", param_hint="--service-account")
    return namespace, name


def _rounds(
    client: "KubeClient", namespaces: tuple[str, ...], account: tuple[str, str] | None, ask_brokers: bool, url: str
) -> Iterator[Finding]:
    import yaml

    from celeriac_operator.cluster import checkup, permissions

    try:
        server = checkup.server_of(client)
    except ClusterError as error:
        yield Finding(Level.UNKNOWN, "Kubernetes API", str(error), "is this the right cluster, and is it up?")
        return
    yield Finding(Level.OK, "Kubernetes API", f"{client.server} answers, {server.version}")
    yield checkup.definition(client, yaml.safe_load(definition_text()), server)
    user, absent = "", False
    if account is not None:
        there = permissions.account(client, *account)
        yield there
        absent = there.level is Level.ERROR
        user = "" if absent else f"system:serviceaccount:{account[0]}:{account[1]}"
        if user:
            yield from permissions.leadership(client, *account)
    for namespace in namespaces:
        doubts = checkup.presence(client, namespace)
        if doubts is not None and doubts.level is Level.ERROR:
            yield doubts
            continue
        if not absent:
            yield from permissions.permissions(client, namespace, user)
        rounds = checkup.Rounds(client, namespace, server, user=user, default_url=url, doubts=doubts)
        try:
            yield from rounds.visit()
        except ClusterError as error:
            yield Finding(
                Level.UNKNOWN, f"namespace {namespace}", f"its pools cannot be listed: {error}", "run doctor as who may"
            )
        if ask_brokers:
            for patient in rounds.patients:
                if patient.url:
                    yield _broker(
                        patient.subject, patient.url, [queue.name for queue in patient.spec.queues], patient.spec.broker
                    )


def _broker(subject: str, url: str, queues: list[str], broker: Broker | None) -> Finding:
    """Whether the broker answers from here, and what each queue says."""
    if broker is not None and broker.tls is not None:
        return Finding(
            Level.UNKNOWN,
            subject,
            "its broker needs certificates: it is not asked from here",
            "see the condition BrokerReachable",
        )
    options = {"global_keyprefix": broker.key_prefix} if broker is not None and broker.key_prefix else {}
    probe = DepthProbe(url, transport_options=options)
    try:
        depths = probe.probe(dict.fromkeys(queues, 0.0))
    except CeleriacError as error:
        return Finding(
            Level.UNKNOWN, subject, f"its broker cannot be reached from here: {error}",
            "correct the Secret if the condition BrokerReachable is False too; a broker inside the cluster is seen from inside only",
        )  # fmt: skip
    finally:
        probe.close()
    wrong = [f"{name}: {depth.error}" for name, depth in depths.items() if depth.error]
    if wrong:
        return Finding(
            Level.ERROR,
            subject,
            f"its broker answers, but {'; '.join(wrong)}",
            "correct the queue's name, or the broker's permissions",
        )
    waiting = ", ".join(f"{name} {depth.ready} ready, {depth.dead} dead" for name, depth in depths.items())
    return Finding(Level.OK, subject, f"its broker answers: {waiting}")


def _say(finding: Finding) -> None:
    click.echo(f"{_SIGNS[finding.level]}  {finding.subject}: {finding.says}")
    if finding.fix and finding.level is not Level.OK:
        first, *more = finding.fix.splitlines()
        click.echo(f"         to do: {first}")
        for line in more:
            click.echo(f"           {line}")
