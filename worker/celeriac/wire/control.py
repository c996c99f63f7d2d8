"""Remote control (pidbox) as values: Celery's request and reply bodies, and our own commands.

Request body `{method, arguments, destination, pattern, matcher, ticket?, reply_to?}`, headers `{clock, expires}`; reply body
`{node: value}` with headers `{ticket, clock}`. Source: kombu/pidbox.py of 5.7, measured in research/celery.md 3E.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Celery's fanout exchange is `<this>.pidbox`, its reply exchange `reply.<this>.pidbox`.
EXCHANGE = "celery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request to workers. destination: node names, or None for all."""

    method: str
    arguments: Mapping[str, Any]
    destination: Sequence[str] | None = None


def drain(*, mark: str, epoch: int, ttl_s: float, destination: Sequence[str]) -> Command:
    """Ask workers to stop claiming, give back what has not started, finish, and turn not ready.

    mark    the decision's id, echoed in heartbeats.
    epoch   counts leaders: a worker ignores a mark whose epoch is lower than the highest it has seen, until that leader
            has been silent for some minutes.
    ttl_s   the mark expires by the worker's own monotonic clock unless repeated.
    """
    arguments = {"id": mark, "epoch": epoch, "ttl_s": ttl_s}
    return Command(method="drain", arguments=arguments, destination=destination)


def undrain(*, epoch: int, destination: Sequence[str]) -> Command:
    """Ask workers to resume claiming."""
    return Command(method="undrain", arguments={"epoch": epoch}, destination=destination)


def rate_limit(*, task: str, rate: str | float | None, destination: Sequence[str] | None = None) -> Command:
    """Celery's own command: set a task type's rate, per worker unless `scope` says cluster. rate None lifts it."""
    return Command(
        method="rate_limit",
        arguments={"task_name": task, "rate_limit": 0 if rate is None else rate},
        destination=destination,
    )
