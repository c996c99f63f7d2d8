"""What becomes of a claimed message before its body is looked at: run, wait, or end here with a reason."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from celeriac.exceptions import DecodeError, NotRegistered, WorkerLostError
from celeriac.policy.outcome import Revoked, Unreadable
from celeriac.wire.message import STARTS, parse_time


class Run(NamedTuple):
    """It may take a slot."""


class Wait(NamedTuple):
    """It is not due: park it until `due_at` (seconds since the epoch)."""

    due_at: float


class Discard(NamedTuple):
    """It ends here, with this outcome."""

    outcome: Unreadable | Revoked


RUN = Run()

#: Tasks that Celery once had, and why they are not run; what comes in for them is a dead letter that says so.
REFUSED: Mapping[str, str] = {
    "celery.execute_remote": "celery.execute_remote runs whatever code a message holds, so whoever can write to the broker could run anything"
    " here: it is refused. Make the function a task, and call it by its name",
}


def admit(
    headers: Mapping[str, Any], *, known: bool, revoked: bool, max_starts: int, now: float
) -> Run | Wait | Discard:
    """The fate of one message.

    known       whether its task is registered here. revoked: whether its id was revoked.
    max_starts  starts after which it is a dead letter. now: seconds since the epoch.

    In order: readable? known? started too often? revoked? expired? due?
    """
    if not known:
        return Discard(_unknown(headers))
    starts = headers.get(STARTS)
    if isinstance(starts, int) and starts >= max_starts:
        error = WorkerLostError(f"the message was started {starts} times and its worker was lost each time")
        return Discard(Unreadable(error, "too_many_starts"))
    if revoked:
        return Discard(Revoked("revoked"))
    expires, eta = headers.get("expires"), headers.get("eta")
    if expires is None and eta is None:
        return RUN
    try:
        expires_at, due_at = parse_time(expires), parse_time(eta)
    except ValueError as error:
        return Discard(Unreadable(error, "malformed"))
    if expires_at is not None and expires_at <= now:
        return Discard(Revoked("expired"))
    if due_at is not None and due_at > now:
        return Wait(due_at)
    return RUN


def _unknown(headers: Mapping[str, Any]) -> Unreadable:
    name, task_id = headers.get("task"), headers.get("id")
    if not isinstance(name, str) or not isinstance(task_id, str):
        problem = f"the message is not a task: its headers need 'task' and 'id', it has {sorted(map(str, headers))}"
        return Unreadable(DecodeError(problem), "malformed")
    if name in REFUSED:
        return Unreadable(NotRegistered(name), "refused")
    return Unreadable(NotRegistered(name), "unknown_task")


def claim_size(
    *, free: int, slots: int, run_s: float | None, multiplier: int | None, held: int = 0, passing: int = 0,
    ahead_s: float = 0.02, most: int = 500,
) -> int:  # fmt: skip
    """How many messages to claim now.

    free        idle slots. slots: all of them. run_s: the measured mean run time of what this worker runs, None when unknown.
    multiplier  messages ahead per slot, when the user set one.
    held        slots whose body has run for long already: nothing will start there soon, whatever ran before.
    passing     how many came with the last claim, when none of them took a slot: not due, throttled, revoked. The next may be as many
                again and as many more: a thousand messages that are not due yet must not pass one by one.

    Beyond free slots only what will start within `ahead_s`; unknown run time: nothing ahead.
    """
    if multiplier is not None:
        ahead = slots * max(0, multiplier - 1)
    elif run_s is None:
        ahead = 0
    else:
        ahead = int(max(0, slots - held) * ahead_s / max(run_s, 1e-6))
    return max(0, min(most, free + max(ahead, 2 * passing)))
