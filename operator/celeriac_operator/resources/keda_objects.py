"""Kubernetes objects of somebody else, read with care: whatever a field holds, reading it raises nothing."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """What a workload says of the workers in it.

    slots     a worker's own -c, None when it does not say. queues: its -Q.
    stock     it is Celery's own worker.
    values    environment variable -> its value; secrets: variable -> the Secret's key that it comes from.
    """

    slots: int | None = None
    queues: tuple[str, ...] = ()
    stock: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def workers_of(workload: Mapping[str, Any], container: str) -> Workers:
    """What the container of that name says, else the first one that runs a worker, else the first one."""
    pod = mapping(mapping(mapping(workload.get("spec")).get("template")).get("spec"))
    containers = mappings(pod.get("containers"))
    chosen = next((one for one in containers if container and one.get("name") == container), None)
    chosen = chosen or next((one for one in containers if "worker" in _words(one)), containers[0] if containers else {})
    words = _words(chosen)
    values, secrets = {}, {}
    for entry in mappings(chosen.get("env")):
        name, ref = str(entry.get("name")), mapping(mapping(entry.get("valueFrom")).get("secretKeyRef"))
        if ref:
            secrets[name] = secret_key(ref)
        elif isinstance(entry.get("value"), str):
            values[name] = entry["value"]
    slots = _option(words, "-c", "--concurrency")
    queues = _option(words, "-Q", "--queues") or ""
    return Workers(
        slots=int(slots) if slots and re.fullmatch(r"[1-9][0-9]{0,3}", slots) else None,
        queues=tuple(name for name in queues.split(",") if name),
        stock="worker" in words and any(word.rpartition("/")[2] == "celery" for word in words[: words.index("worker")]),
        values=values,
        secrets=secrets,
    )


def _words(container: Mapping[str, Any]) -> list[str]:
    """The words of command and args; those of a shell's script are split."""
    given = [word for name in ("command", "args") for word in _list(container.get(name)) if isinstance(word, str)]
    words: list[str] = []
    for word in given:
        try:
            words += shlex.split(word) if " " in word else [word]
        except ValueError:
            words.append(word)  # a script that is more than words
    return words


def _option(words: Sequence[str], short: str, long: str) -> str | None:
    """The option's value, wherever it stands behind `worker`: -c 8, -c8, --concurrency 8, --concurrency=8."""
    after = words[words.index("worker") + 1 :] if "worker" in words else ()
    for place, word in enumerate(after):
        if word in (short, long) and place + 1 < len(after):
            return after[place + 1]
        if word.startswith(f"{long}="):
            return word.removeprefix(f"{long}=")
        if word.startswith(short) and len(word) > len(short) and not word.startswith("--"):
            return word.removeprefix(short)
    return None


def beside(others: Sequence[Mapping[str, Any]], kind: str, name: str, namespace: object) -> Mapping[str, Any]:
    """The object of that kind and name, in that namespace or in one that is not said; {} when there is none."""
    for item in others:
        meta = mapping(item.get("metadata"))
        here = namespace is None or meta.get("namespace") in (None, namespace) or kind.startswith("Cluster")
        if name and here and item.get("kind") == kind and meta.get("name") == name:
            return item
    return {}


def shown_name(item: Mapping[str, Any]) -> str:
    """Kind and namespace/name."""
    meta = mapping(item.get("metadata"))
    name = str(meta.get("name") or "without a name")
    return f"{item.get('kind')} {meta['namespace']}/{name}" if meta.get("namespace") else f"{item.get('kind')} {name}"


def secret_key(ref: Mapping[str, Any]) -> dict[str, str]:
    return {"name": str(ref.get("name")), "key": str(ref.get("key"))}


def is_true(value: object) -> bool:
    """KEDA's metadata are strings."""
    return str(value).lower() == "true"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def number(value: Any, usual: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return usual
