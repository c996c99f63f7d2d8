"""One YAML file as local mode reads it: WorkerPools, the Deployments they scale, and Secrets.

The same file goes to a cluster. What only a cluster can use (images, volumes, resources, other kinds) is passed over.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from celeriac_operator.errors import SetupError
from celeriac_operator.resources.records import PoolRecord
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """An environment variable's value that stands in a Secret. optional: leave the variable out when it is missing."""

    name: str
    key: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRef:
    """An environment variable's value that is a fact about the pod: metadata.name, metadata.uid and the like."""

    path: str


EnvValue = str | SecretRef | FieldRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a pod of a Deployment runs: its first container.

    ready_path   asked on the worker's HTTP port; "" when the container has no probe: running is ready then.
    """

    argv: tuple[str, ...]
    env: Mapping[str, EnvValue] = field(default_factory=dict)
    ready_path: str = ""
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A Deployment. replicas None: left to whoever scales it."""

    namespace: str
    name: str
    kind: str
    program: Program
    replicas: int | None

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything in the file that local mode uses. secrets: (namespace, name) -> key -> value."""

    pools: tuple[PoolRecord, ...]
    workloads: Mapping[Key, Workload]
    secrets: Mapping[Key, Mapping[str, str]]


def read_manifest(path: Path) -> Manifest:
    """The file's objects. Raises SetupError with the file, the object and what is wrong with it."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SetupError(f"{path} is not YAML: {error}") from error
    pools: list[PoolRecord] = []
    workloads: dict[Key, Workload] = {}
    secrets: dict[Key, Mapping[str, str]] = {}
    for raw in _flat(documents):
        kind, (namespace, name) = raw.get("kind"), _name(raw, path)
        at = f"{path}: {kind} {namespace}/{name}"
        if kind == "WorkerPool":
            pools.append(_pool(raw, namespace, name, at))
        elif kind in ("Deployment", "StatefulSet"):
            workloads[namespace, name] = _workload(raw, namespace, name, at)
        elif kind == "Secret":
            secrets[namespace, name] = _secret(raw, at)
    if not pools:
        raise SetupError(f"{path} holds no WorkerPool; local mode needs one, and the Deployment it names in targetRef")
    return Manifest(pools=tuple(pools), workloads=workloads, secrets=secrets)


def _flat(documents: Sequence[Any]) -> list[dict[str, Any]]:
    """The objects, Lists opened, empty documents left out."""
    objects: list[dict[str, Any]] = []
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "List":
            objects += [item for item in document.get("items") or () if isinstance(item, dict)]
        elif isinstance(document, dict):
            objects.append(document)
    return objects


def _name(raw: Mapping[str, Any], path: Path) -> Key:
    metadata = raw.get("metadata") or {}
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise SetupError(f"{path}: a {raw.get('kind') or 'document without kind'} has no metadata.name")
    return (str(metadata.get("namespace") or "default"), str(metadata["name"]))


def _pool(raw: Mapping[str, Any], namespace: str, name: str, at: str) -> PoolRecord:
    spec = raw.get("spec") or {}
    try:
        WorkerPoolSpec.parse(spec)  # a person waits in front of the screen: say it now, not in a status
    except SpecError as error:
        raise SetupError(f"{at}: {error}") from error
    return PoolRecord(namespace=namespace, name=name, uid=f"local-{namespace}-{name}", generation=1, spec=spec)


def _workload(raw: Mapping[str, Any], namespace: str, name: str, at: str) -> Workload:
    spec = raw.get("spec") or {}
    pod = (spec.get("template") or {}).get("spec") or {}
    containers = pod.get("containers") or ()
    if not containers:
        raise SetupError(f"{at} has no container")
    container = containers[0]
    # Without a command the image's entrypoint runs, which local mode cannot know; our own image's is `celeriac`.
    argv = (*(container.get("command") or ("celeriac",)), *(container.get("args") or ()))
    if len(argv) < 2 and not container.get("command"):
        raise SetupError(f"{at}: its first container has neither `command` nor `args`: there is nothing to run")
    probe = ((container.get("readinessProbe") or {}).get("httpGet") or {}).get("path")
    ours = Path(str(argv[0])).name == "celeriac" or "celeriac" in map(str, argv)
    return Workload(
        namespace=namespace,
        name=name,
        kind=str(raw["kind"]),
        program=Program(
            argv=tuple(str(word) for word in argv),
            env=_env(container, at),
            ready_path=str(probe or ("/readyz" if ours else "")),
            grace_s=float(pod.get("terminationGracePeriodSeconds", 30)),
        ),
        replicas=spec.get("replicas"),
    )


def _env(container: Mapping[str, Any], at: str) -> dict[str, EnvValue]:
    env: dict[str, EnvValue] = {}
    for entry in container.get("env") or ():
        name, source = str(entry.get("name")), entry.get("valueFrom") or {}
        if "secretKeyRef" in source:
            ref = source["secretKeyRef"]
            env[name] = SecretRef(name=str(ref["name"]), key=str(ref["key"]), optional=bool(ref.get("optional", False)))
        elif "fieldRef" in source:
            env[name] = FieldRef(path=str(source["fieldRef"]["fieldPath"]))
        elif source:
            raise SetupError(
                f"{at}: env {name} comes from {', '.join(source)}; local mode knows secretKeyRef and fieldRef"
            )
        else:
            env[name] = str(entry.get("value") or "")
    return env


def _secret(raw: Mapping[str, Any], at: str) -> dict[str, str]:
    values = {str(key): str(value) for key, value in (raw.get("stringData") or {}).items()}
    for key, value in (raw.get("data") or {}).items():
        try:
            values.setdefault(str(key), base64.b64decode(str(value), validate=True).decode())
        except (binascii.Error, UnicodeDecodeError) as error:
            raise SetupError(f"{at}: data.{key} is not base64 of text; put plain text under stringData") from error
    return values


_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def expanded(text: str, env: Mapping[str, str]) -> str:
    """The text with each $(NAME) replaced, as in a pod's command, args and env: unknown names stay, $$ is one $."""

    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else env.get(found[1], found[0])

    return _REFERENCE.sub(one, text)
