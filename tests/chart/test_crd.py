"""The WorkerPool's CRD as the operator chart installs it. (tests/house holds the schema and its rules against the code.)"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CRD_FILE, OPERATOR, objects, of_kind, the
from helm_python import Chart

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


def owned(**annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {f"meta.helm.sh/{key.replace('_', '-')}": annotations[key] for key in annotations}}
    }


@pytest.mark.parametrize(
    ("found", "written"),
    [
        pytest.param({}, True, id="there is none"),
        pytest.param(owned(release_name="rel", release_namespace="apps"), True, id="it is ours"),
        pytest.param(owned(release_name="old", release_namespace="apps"), False, id="another release left it"),
        pytest.param(owned(release_name="rel", release_namespace="b"), False, id="a namesake elsewhere has it"),
        pytest.param({"metadata": {"name": "workerpools.celeriac.dev"}}, False, id="kubectl applied it"),
    ],
)
def test_a_crd_is_written_only_where_there_is_none_or_it_is_ours(
    found: dict[str, Any], written: bool, tmp_path: Path
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: probe, version: 0.1.0}")
    shutil.copy(OPERATOR / "templates/_helpers.tpl", tmp_path / "templates")
    (tmp_path / "templates/answer.yaml").write_text(
        f'answer: {{{{ include "celeriac-operator.mayWriteCrd" (dict "found" (fromJson `{json.dumps(found)}`)'
        ' "release" .Release) | quote }}'
    )

    with Chart.load(tmp_path) as chart:
        (text,) = chart.render({}, name="rel", namespace="apps").values()

    assert yaml.safe_load(text) == {"answer": "true" if written else ""}
