"""The WorkerPool's CRD as the operator chart installs it. (tests/house holds the schema and its rules against the code.)"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from charts import CRD_FILE, OPERATOR, objects, of_kind, the

CRD = yaml.safe_load(CRD_FILE.read_text())
KIND = "CustomResourceDefinition"


def nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every map in the document."""
    if isinstance(value, Mapping):
        yield value
        for below in value.values():
            yield from nodes(below)
    elif isinstance(value, list):
        for below in value:
            yield from nodes(below)


@pytest.mark.parametrize("version", ["1.20.2", "v1.24.17", "1.24.17-eks-1"])
def test_the_rules_are_left_out_before_1_25(version: str) -> None:
    crd = the(KIND, objects(OPERATOR, {"kubeVersion": version}))

    assert not any("x-kubernetes-validations" in node for node in nodes(crd))


@pytest.mark.parametrize("version", ["1.25.0", "v1.31.4-gke.1", "1.37.1"])
def test_the_schema_is_installed_as_it_was_written_from_1_25_on(version: str) -> None:
    crd = the(KIND, objects(OPERATOR, {"kubeVersion": version}))

    assert any("x-kubernetes-validations" in node for node in nodes(crd))
    assert crd["spec"] == CRD["spec"]


def test_no_default_is_an_empty_text_which_1_20_takes_for_null() -> None:
    empty = [node for node in nodes(CRD["spec"]["versions"]) if node.get("default") == ""]

    assert empty == []


def test_the_crd_and_every_pool_outlive_the_release_unless_told_otherwise() -> None:
    kept = the(KIND, objects(OPERATOR))
    removed = the(KIND, objects(OPERATOR, {"crds": {"keep": False}}))

    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "helm.sh/resource-policy" not in removed["metadata"].get("annotations", {})


def test_the_crd_is_left_to_others_when_it_should_be() -> None:
    found = objects(OPERATOR, {"crds": {"install": False}})

    assert of_kind(KIND, found) == []
