"""KEDA's triggers as queues, schedules and a broker: `taken_over(triggers, ...)`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac_operator.resources.keda_broker import Source, source_of
from celeriac_operator.resources.keda_objects import Workers, is_true, mapping, mappings, number

#: kombu's separator of queue name and priority step in a Redis list's key.
_STEP = re.compile("\x06\x16\\d+$")
_REDIS = {"redis", "redis-sentinel", "redis-cluster"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """What triggers come to, as fields of a pool: broker is None where no trigger names one."""

    queues: Sequence[Mapping[str, Any]]
    schedules: Sequence[Mapping[str, Any]]
    broker: Mapping[str, Any] | None


def taken_over(
    triggers: object, name: str, others: Sequence[Mapping[str, Any]], workers: Workers, namespace: object,
    notes: list[str],
) -> Triggers:  # fmt: skip
    """The triggers of a ScaledObject of that name. Appends to `notes` what was not carried over and why."""
    queues: dict[str, dict[str, Any]] = {}
    schedules: list[dict[str, Any]] = []
    sources: list[Source] = []
    for place, trigger in enumerate(mappings(triggers)):
        kind, data = str(trigger.get("type")), mapping(trigger.get("metadata"))
        path = f"triggers[{place}] ({kind})"
        if kind in _REDIS or kind == "rabbitmq":
            found = _queues(kind, data, path, workers, notes)
            queues.update({queue: {"name": queue} for queue in found})
            source = source_of(trigger, others, workers, namespace)
            if source.where not in [known.where for known in sources]:
                sources.append(source)
        elif kind == "cron":
            schedules.append(
                {
                    "start": str(data.get("start")), "end": str(data.get("end")), "timezone": str(data.get("timezone") or "UTC"),
                    "minReplicas": number(data.get("desiredReplicas"), 1),
                }
            )  # fmt: skip
        else:
            notes.append(f"{path}: a pool scales from the work that waits; this trigger is not carried over")
    if len(sources) > 1:
        notes.append(
            "the triggers name more than one broker: a pool has one; make a pool for each, each with its own workload"
        )
    broker: dict[str, Any] | None = None
    if sources:
        # Of several triggers on the same queues over AMQP and over HTTP, each knows one of the two URLs.
        url = next((source.url for source in sources if source.url), None)
        management = next((source.management for source in sources if source.management), None)
        broker = {"urlFrom": {"secretKeyRef": dict(url or {"name": f"{name}-broker", "key": "url"})}}
        if management:
            broker["managementUrlFrom"] = {"secretKeyRef": dict(management)}
        notes += dict.fromkeys(note for source in sources for note in source.notes)
    return Triggers(queues=list(queues.values()), schedules=schedules, broker=broker)


def _queues(kind: str, data: Mapping[str, Any], path: str, workers: Workers, notes: list[str]) -> list[str]:
    """The queues of a trigger, and notes on how they were measured."""
    if kind == "rabbitmq":
        queues = [str(data.get("queueName") or "")]
        if is_true(data.get("useRegex")) and queues[0]:
            queues = _matching(queues[0], workers.queues, path, notes)
        measured = str(data.get("mode") or "QueueLength")
        value = data.get("value") or data.get("queueLength") or 20
        if measured != "QueueLength":
            notes.append(f"{path}: mode {measured} is not needed: the pool measures arrivals and service times itself")
    else:
        listed = str(data.get("listName") or "")
        queues = [_STEP.sub("", listed)]
        value = data.get("listLength") or 5
        if queues[0] != listed:
            notes.append(f"{path}: the list of one priority step of {queues[0]}; the pool counts all steps of a queue")
    if queues == [""]:
        notes.append(f"{path}: it names no queue")
        return []
    notes.append(
        f"{path}: {value} messages a replica became an objective in seconds, 60 for a start; to keep the ratio:"
        f" {_backlog(value, workers.slots)}"
    )
    active = data.get("activationListLength") or data.get("activationValue")
    if active and str(active) != "0":
        notes.append(
            f"{path}: the activation threshold {active} is not carried over: one message is reason enough for one pod"
        )
    return queues


def _backlog(value: object, slots: int | None) -> str:
    """The objective that keeps KEDA's ratio: messages a slot, which is a whole number from 1 on."""
    if slots is None:
        return f"objective: {{type: Backlog, target: {value} / slots of a pod, a whole number from 1 on}}"
    try:
        exact = float(str(value)) / slots
    except ValueError:
        exact = 1.0
    exact = exact if math.isfinite(exact) else 1.0
    target = min(1_000_000, max(1, round(exact)))
    rounded = (
        "" if target == exact else f" ({value} / {slots} slots is {exact:.3g}; a target is a whole number from 1 on)"
    )
    return f"objective: {{type: Backlog, target: {target}}}{rounded}"


def _matching(pattern: str, queues: Sequence[str], path: str, notes: list[str]) -> list[str]:
    """The workers' queues that KEDA's pattern means; a pattern itself is no queue."""
    try:
        found = [queue for queue in queues if re.search(pattern, queue)]
    except re.error:
        found = []
    if found:
        notes.append(f"{path}: useRegex: of the workload's -Q, {pattern!r} means {', '.join(found)}")
    else:
        notes.append(f"{path}: useRegex is not carried over; list the queues that {pattern!r} means")
    return found
