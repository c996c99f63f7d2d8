"""A real cluster for one run: images, a namespace, a broker beside it.

KUBECONFIG                names the cluster; without it every test here is skipped.
CELERIAC_WORKER_IMAGE, CELERIAC_OPERATOR_IMAGE
                          images that the cluster can pull. Without them both are built from the Dockerfile.
CELERIAC_IMAGE_BUILD      a command that builds and loads an image, called with NAME:TAG DIRECTORY ARG=VALUE…;
                          without it `docker build`, for clusters that see the Docker daemon's images.
CELERIAC_BASE_IMAGE       the Dockerfile's BASE_IMAGE.
CELERIAC_CLUSTER_HOST     this machine's address as pods see it; by default the one that reaches the API server.
"""

import json
import os
import secrets
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from charts import ROOT
from clusters import Broker, Cluster, Images, run
from missing import program
from processes import Child, wait_until

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was measured is told at the end, also when all is well."""
    for figure in config.stash[FIGURES]:
        terminalreporter.line(f"cluster: {figure}")


@pytest.fixture
def measured(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Keeps a sentence with a figure for the end of the run."""
    return pytestconfig.stash[FIGURES].append


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The cluster named by KUBECONFIG, which must answer."""
    path = os.environ.get("KUBECONFIG")
    if not path:
        pytest.skip("KUBECONFIG is not set: no cluster to test on")
    for client in ("kubectl", "helm"):
        if shutil.which(client) is None:
            pytest.skip(f"{client} is not on PATH")
    return path


@pytest.fixture(scope="session")
def images(kubeconfig: str) -> Images:
    """The two images, built from the Dockerfile unless they are given."""
    made = {}
    for target in ("worker", "operator"):
        name = os.environ.get(f"CELERIAC_{target.upper()}_IMAGE")
        if not name:
            name = f"celeriac-{target}:cluster-test"
            arguments = [f"TARGET={target}"]
            if base := os.environ.get("CELERIAC_BASE_IMAGE"):
                arguments.append(f"BASE_IMAGE={base}")
            if command := os.environ.get("CELERIAC_IMAGE_BUILD"):
                run(*shlex.split(command), name, ROOT, *arguments, timeout_s=900)
            else:
                flags = [part for argument in arguments for part in ("--build-arg", argument)]
                run("docker", "build", "--target", target, "-t", name, *flags, ROOT, timeout_s=900)
        made[target] = name
    return Images(**made)


@pytest.fixture(scope="module")
def broker(kubeconfig: str) -> Iterator[Broker]:
    """A private Redis that listens to the cluster, with a password, gone after the module."""
    redis_path = program("redis-server", "redis-server")
    host, password = _own_address(), secrets.token_urlsafe(16)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="celeriac-cluster-redis-"))
    (directory / "redis.conf").write_text(f"requirepass {password}\n")  # not on the command line, which anyone can read
    options = ["--port", str(port), "--bind", "0.0.0.0", "--dir", str(directory), "--save", "", "--appendonly", "no"]
    child = Child([redis_path, str(directory / "redis.conf"), *options], log=directory / "log")
    client = redis.Redis(host=host, port=port, password=password, decode_responses=True, socket_timeout=5)
    try:
        wait_until(lambda: _answers(client), what=f"redis on {host}:{port}")
        yield Broker(url=f"redis://:{password}@{host}:{port}/0", password=password, client=client)
    finally:
        client.close()
        child.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _own_address() -> str:
    """This machine's address on the cluster's network."""
    if given := os.environ.get("CELERIAC_CLUSTER_HOST"):
        return given
    config = json.loads(run("kubectl", "config", "view", "--minify", "-o", "json"))
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server.hostname or "", server.port or 443))  # sends nothing
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def cluster(kubeconfig: str, broker: Broker) -> Iterator[Cluster]:
    """A namespace of this module's own, with the broker's Secret and the app in it.

    Gone afterwards, and so is the CRD unless it was there before.
    """
    namespace = f"celeriac-test-{secrets.token_hex(3)}"
    directory = Path(tempfile.mkdtemp(prefix="celeriac-cluster-"))
    made = Cluster(namespace=namespace, broker=broker, directory=directory)
    had_crd = "workerpools.celeriac.dev" in run("kubectl", "get", "crds", "-o", "name")
    run("kubectl", "create", "namespace", namespace)
    try:
        made.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "redis"},
                "stringData": {"url": broker.url},
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "shop"},
                "data": {"shop.py": (HERE / "shop.py").read_text()},
            },
        )
        # A pod of a namespace just made is refused until its default ServiceAccount is there.
        made.wait(lambda: made.get("serviceaccounts"), timeout_s=30, what="the default ServiceAccount")
        yield made
    finally:
        made.close()
        run("kubectl", "delete", "namespace", namespace, "--wait=true", "--timeout=120s", timeout_s=180)
        if not had_crd:
            run("kubectl", "delete", "crd", "workerpools.celeriac.dev", "--ignore-not-found", "--timeout=60s")
        shutil.rmtree(directory, ignore_errors=True)
