"""`celeriac-operator run`."""

import logging
import os
import re
import signal
import sys

import click

from celeriac_operator.cli.root import cli, kubeconfig_options, own_version
from celeriac_operator.errors import OperatorError

#: What a namespace may be called (RFC 1123 label): nothing that kopf would take for a pattern.
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


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
@kubeconfig_options
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
    "--celery-exporter-names",
    is_flag=True,
    envvar="CELERIAC_OPERATOR_CELERY_EXPORTER_NAMES",
    help="Tell in /metrics under celery-exporter's names, too, what is known of what they name.",
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
    "--signing-key",
    metavar="FILE",
    envvar="CELERIAC_OPERATOR_SIGNING_KEY",
    help="The RSA key, in PEM, that commands are signed with for workers that demand it (app.setup_security()).",
)
@click.option(
    "--signing-certificate",
    metavar="FILE",
    envvar="CELERIAC_OPERATOR_SIGNING_CERTIFICATE",
    help="That key's certificate, in PEM; workers need it in security_cert_store.",
)
@click.option(
    "--signing-key-password",
    envvar="CELERIAC_OPERATOR_SIGNING_KEY_PASSWORD",
    help="That key's password. Give it in the environment.",
)
@click.option(
    "--signing-digest",
    default="sha256",
    show_default=True,
    envvar="CELERIAC_OPERATOR_SIGNING_DIGEST",
    help="The digest of signatures: the workers' security_digest.",
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
    celery_exporter_names: bool,
    ha: bool,
    lease: tuple[str, str] | None,
    annotate_pods: bool,
    broker_url: str | None,
    signing_key: str | None,
    signing_certificate: str | None,
    signing_key_password: str | None,
    signing_digest: str,
    log_level: str,
) -> None:
    """Run the operator until SIGTERM. Each option may be given in the environment as CELERIAC_OPERATOR_<OPTION>."""
    if os.getpid() == 1:
        # A container's first process ignores a signal that it does not handle, and importing takes a second.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from celeriac_operator.fleet.signature import key_files
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
    try:
        key = key_files(signing_key, signing_certificate, signing_key_password, signing_digest)
    except OperatorError as error:
        raise click.UsageError(str(error)) from error
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
        key=key,
        celery_exporter_names=celery_exporter_names,
        version=own_version(),
    )
    try:
        run_operator(options)
    except OperatorError as error:
        raise click.ClickException(str(error)) from error


def configure_logging(level: str) -> None:
    """Lines on stderr. kopf and its HTTP client are heard from warnings upwards, or fully at debug."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    if level.lower() != "debug":
        for noisy in ("kopf", "urllib3", "asyncio"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
