"""What docs/gitops.md tells Argo CD and Flux of a pool's health, asked about statuses that the operator writes."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from celpy import celtypes
from missing import program

from celeriac_operator.resources.conditions import Found
from celeriac_operator.resources.status import fault_status

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gitops.md").read_text()
KEY = "resource.customizations.health.celeriac.dev_WorkerPool"

Status = Mapping[str, Any]


def document(kind: str) -> dict[str, Any]:
    """The page's YAML block of that kind."""
    found = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
    (only,) = [one for one in found if one.get("kind") == kind]
    return dict(only)


def status(ready: Found, *, reconciling: bool = False, stalled: bool = False, seen: int = 2) -> Status:
    """A status with the three conditions of kstatus, as `scaling/report.py` combines them."""
    found = {"Ready": ready, "Reconciling": (reconciling, ready[1], ready[2]), "Stalled": (stalled, ready[1], ready[2])}
    words = {True: "True", False: "False", None: "Unknown"}
    conditions = [
        {"type": kind, "status": words[truth], "reason": reason, "message": message}
        for kind, (truth, reason, message) in found.items()
    ]
    return {"observedGeneration": seen, "conditions": [{"type": "AtLimit", "status": "True"}, *conditions]}


DECIDED = (True, "Decided", "the number of replicas follows from the work")

#: A pool's status (of generation 2) -> what Argo CD says, what Flux says, a part of Argo CD's sentence.
CASES: Mapping[str, tuple[Status | None, str, str, str]] = {
    "decided": (status(DECIDED), "Healthy", "current", "follows from the work"),
    "no operator": (None, "Progressing", "waits", "no operator"),
    "a status without conditions": ({"replicas": 1}, "Progressing", "waits", "no operator"),
    "a change that was not seen": (status(DECIDED, seen=1), "Progressing", "in progress", "not been seen"),
    "stalled before the change": (
        status((False, "InvalidSpec", "spec.queues is empty"), stalled=True, seen=1), "Progressing", "in progress", "not been seen",
    ),
    "the broker is away": (
        status((False, "BrokerUnreachable", "timed out"), reconciling=True), "Progressing", "waits", "timed out",
    ),
    "another autoscaler": (status((False, "Conflict", "HPA x scales it too"), stalled=True), "Degraded", "failed", "HPA x"),
    "a wrong spec, as the operator writes it": (
        fault_status({}, "InvalidSpec", "spec.queues: is empty", 2, 1e9), "Degraded", "failed", "spec.queues",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def lua() -> str:
    return program("lua5.1", "lua5.1")


@pytest.mark.parametrize(("given", "argo", "_", "said"), CASES.values(), ids=CASES)
def test_argo_cd_finds_a_pool(lua: str, given: Status | None, argo: str, _: str, said: str) -> None:
    check = document("ConfigMap")["data"][KEY]
    # No library but the basic one, and of that only what any script of Argo CD's uses.
    program = f"""
        local write, format = io.write, string.format
        for name in pairs({{io = 1, os = 1, string = 1, math = 1, debug = 1, package = 1, coroutine = 1}}) do _G[name] = nil end
        obj = {in_lua(pool(given))}
        local function health()
        {check}
        end
        local found = health()
        write(format("%s\\n%s", found.status, found.message))
    """

    done = subprocess.run([lua, "-"], input=program, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    health, message = done.stdout.split("\n", 1)
    assert health == argo
    assert said in message


@pytest.mark.parametrize(("given", "_", "flux", "said"), CASES.values(), ids=CASES)
def test_flux_finds_a_pool(given: Status | None, _: str, flux: str, said: str) -> None:
    (check,) = document("Kustomization")["spec"]["healthCheckExprs"]

    assert verdict(check, pool(given)) == flux


def verdict(check: Mapping[str, str], item: Mapping[str, Any]) -> str:
    """As Flux does: the first that is true of inProgress, failed and current; it waits where none is or one has no value."""
    for name, found in (("inProgress", "in progress"), ("failed", "failed"), ("current", "current")):
        environment = celpy.Environment()
        names = {key: celpy.json_to_cel(value) for key, value in item.items()}
        try:
            if environment.program(environment.compile(check[name])).evaluate(names) == celtypes.BoolType(True):
                return found
        except celpy.CELEvalError:
            return "waits"
    return "waits"


def pool(given: Status | None) -> dict[str, Any]:
    item = {"apiVersion": "celeriac.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "mails", "generation": 2}}
    return item if given is None else {**item, "status": given}


def in_lua(value: Any) -> str:
    """A JSON value as Lua writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{json.dumps(key)}] = {in_lua(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(in_lua, value)) + "}"
    return "nil" if value is None else json.dumps(value)
