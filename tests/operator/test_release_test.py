"""What `helm test` runs for the operator's release, against an API server here: the doctor's findings as a passed or a failed release."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import OPERATOR

from celeriac.telemetry.endpoint import Endpoint
from celeriac_operator.cli.crd import definition_text


@pytest.fixture
def port() -> Iterator[int]:
    """Of an operator that is ready."""
    endpoint = Endpoint("127.0.0.1", 0, livez=lambda: (True, ""), readyz=lambda: (True, "serving"), metrics=lambda: ())
    endpoint.start()
    yield endpoint.port
    endpoint.stop()


def helm_test(api: Any, tmp_path: Path, port: int, *namespaces: str) -> tuple[int, str]:
    """Its exit code and its log."""
    kubeconfig = tmp_path / "kubeconfig"
    context = {"name": "here", "context": {"cluster": "one", "user": "me", "namespace": "shop"}}
    clusters, users = [{"name": "one", "cluster": {"server": api.url}}], [{"name": "me", "user": {"token": "sesame"}}]
    kubeconfig.write_text(
        yaml.safe_dump({"current-context": "here", "contexts": [context], "clusters": clusters, "users": users})
    )
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, OPERATOR / "files/release_test.py", "127.0.0.1", str(port), *namespaces],
        env={**os.environ, "PATH": commands, "KUBECONFIG": str(kubeconfig)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_release_without_pools_passes_with_the_rights_that_the_chart_grants(
    api: Any, tmp_path: Path, port: int
) -> None:
    api.put("customresourcedefinitions", yaml.safe_load(definition_text()), namespace="")
    for what in ("/api/v1/namespaces/[^/]*$", "/customresourcedefinitions/"):  # of which the chart's Role says nothing
        api.fail("GET", what, status=403)

    code, log = helm_test(api, tmp_path, port, "shop", "stock")

    assert code == 0, log
    assert "FAILED" not in log
    assert "permissions of this user in stock: has all that the operator needs" in log


def test_a_release_fails_whose_pools_cannot_be_listed(api: Any, tmp_path: Path, port: int) -> None:
    api.put("customresourcedefinitions", yaml.safe_load(definition_text()), namespace="")
    api.put("namespaces", {"metadata": {"name": "shop"}}, namespace="")
    api.fail("GET", "/namespaces/shop/workerpools", status=403)

    code, log = helm_test(api, tmp_path, port, "shop")

    assert code == 1
    assert "FAILED unknown: namespace shop: its pools cannot be listed" in log


def test_a_release_fails_that_serves_a_namespace_that_is_not_there(api: Any, tmp_path: Path, port: int) -> None:
    api.put("customresourcedefinitions", yaml.safe_load(definition_text()), namespace="")

    code, log = helm_test(api, tmp_path, port, "nosuchns")

    assert code == 1
    assert "FAILED error: namespace nosuchns: there is no such namespace" in log
