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

from celeriac_operator.documents import documents
from celeriac_operator.errors import SetupError
from celeriac_operator.resources.fields import Fields
from celeriac_operator.resources.records import PoolRecord
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec

Key = tuple[str, str]

#: A day and a bit more: nobody waits for longer in front of a terminal.
_LONGEST_GRACE_S = 100_000


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
        found = documents(path.read_bytes(), str(path))
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error}") from error
    pools: list[PoolRecord] = []
    workloads: dict[Key, Workload] = {}
    secrets: dict[Key, Mapping[str, str]] = {}
    for raw in objects_of(found):
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


def objects_of(documents: Sequence[Any]) -> list[dict[str, Any]]:
    """The objects, Lists opened, empty documents left out."""
    objects: list[dict[str, Any]] = []
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "List":
            items = document.get("items")
            objects += [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
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
    problems: list[str] = []
    spec = Fields(raw.get("spec") or {}, "spec", problems)
    pod = spec.nested("template").nested("spec")
    containers = pod.items("containers", most=100)
    replicas = spec.optional_integer("replicas", low=0, high=10_000)
    grace_s = pod.integer("terminationGracePeriodSeconds", 30, low=0, high=_LONGEST_GRACE_S)
    _raise(problems, at)
    if not containers:
        raise SetupError(f"{at} has no container")
    container = containers[0]
    command, args = _words(container, "command"), _words(container, "args")
    env = _env(container)
    probe = container.nested("readinessProbe").nested("httpGet").text("path", longest=4096)
    _raise(problems, at)
    # Without a command the image's entrypoint runs, which local mode cannot know; our own image's is `celeriac`.
    argv = (*(command or ("celeriac",)), *args)
    if len(argv) < 2 and not command:
        raise SetupError(f"{at}: its first container has neither `command` nor `args`: there is nothing to run")
    ours = Path(argv[0]).name == "celeriac" or "celeriac" in argv
    return Workload(
        namespace=namespace,
        name=name,
        kind=str(raw["kind"]),
        program=Program(argv=argv, env=env, ready_path=probe or ("/readyz" if ours else ""), grace_s=float(grace_s)),
        replicas=replicas,
    )


def _raise(problems: Sequence[str], at: str) -> None:
    if problems:
        raise SetupError(f"{at}: {'; '.join(problems)}")


def _words(container: Fields, name: str) -> tuple[str, ...]:
    """A list of texts; numbers are taken as they are written."""
    words = container.raw.get(name)
    if words is not None and not (
        isinstance(words, list) and all(isinstance(word, str | int | float) for word in words)
    ):
        container.problem(name, f"is {words!r:.80}, must be a list of texts")
        return ()
    return tuple(str(word) for word in words or ())


def _env(container: Fields) -> dict[str, EnvValue]:
    env: dict[str, EnvValue] = {}
    for entry in container.items("env", most=10_000):
        name, value = entry.text("name", longest=4096, required=True), entry.raw.get("value")
        source = entry.nested("valueFrom")
        if "secretKeyRef" in source:
            ref = source.nested("secretKeyRef")
            env[name] = SecretRef(
                name=ref.text("name", longest=253, required=True),
                key=ref.text("key", longest=253, required=True),
                optional=ref.boolean("optional", False),
            )
        elif "fieldRef" in source:
            env[name] = FieldRef(path=source.nested("fieldRef").text("fieldPath", longest=253, required=True))
        elif source.raw:
            entry.problem(
                "valueFrom",
                f"of {name} is {', '.join(map(str, source.raw))}; local mode knows secretKeyRef and fieldRef",
            )
        elif isinstance(value, Mapping | list):
            entry.problem("value", f"is {value!r:.80}, must be text")
        else:
            env[name] = "" if value is None else str(value)
    return env


def _secret(raw: Mapping[str, Any], at: str) -> dict[str, str]:
    problems: list[str] = []
    fields = Fields(raw, "it", problems)
    values = {str(key): str(value) for key, value in fields.nested("stringData").raw.items()}
    data = fields.nested("data").raw
    _raise([problem.removeprefix("it.") for problem in problems], at)
    for key, value in data.items():
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
