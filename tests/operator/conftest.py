"""Fixtures of the operator's tests: an API server in this process, a client of it, and raw objects to put there."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apiserver import ApiServer
from kubernetes.client import Configuration

from celeriac_operator.cluster.access import Kubeconfig
from celeriac_operator.cluster.client import KubeClient


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """An empty Kubernetes API."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def client(api: ApiServer) -> Iterator[KubeClient]:
    """A client of `api` that gives up after half a second."""
    made = client_of(api, connect_timeout_s=0.5, read_timeout_s=0.5)
    yield made
    made.close()


def client_of(api: ApiServer, *, token: str = "", **timeouts: float) -> KubeClient:
    configuration = Configuration(host=api.url)
    if token:
        configuration.api_key["BearerToken"] = f"Bearer {token}"
    return KubeClient(Kubeconfig(configuration), **timeouts)


@pytest.fixture
def make_client(api: ApiServer) -> Callable[..., KubeClient]:
    """Another client of `api`: make_client(token=..., read_timeout_s=...); or of another server: make_client(of=...)."""

    def make(of: ApiServer | None = None, **options: Any) -> KubeClient:
        return client_of(of or api, **options)

    return make


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """eventually(question): its first true answer; fails after ten seconds without one."""
    return _eventually


def _eventually(question: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    until = time.monotonic() + within_s
    while not (answer := question()):
        assert time.monotonic() < until, f"still {answer!r} after {within_s} s"
        time.sleep(0.01)
    return answer
