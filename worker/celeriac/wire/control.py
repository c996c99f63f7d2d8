"""Remote control (pidbox) as values: Celery's request and reply bodies, and our own commands.

Request body `{method, arguments, destination, pattern, matcher, ticket?, reply_to?}`, headers `{clock, expires}`; reply body
`{node: value}` with headers `{ticket, clock}`. Source: kombu/pidbox.py of 5.7, measured in research/celery.md 3E. A signed request of
ours holds one key more, which Celery's workers pass over: when it was sent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Celery's fanout exchange is `<this>.pidbox`, its reply exchange `reply.<this>.pidbox`.
EXCHANGE = "celery"

#: What the operator sends. None of it runs a task.
OPERATORS = frozenset({"drain", "undrain", "rate_limit", "shutdown"})

#: Which commands a worker heeds, as its heartbeat tells: plain ones (it reads no signed one), signed ones, or both of the operator's.
PLAIN, SIGNED, EITHER = "", "signed", "either"

#: The key of our own in a signed request's body: `{"at": epoch seconds, "id": text of its own}`.
SENT = "celeriac_sent"


class Sent(NamedTuple):
    """When a command was sent, by its sender's clock, in epoch seconds, and what no other one is called."""

    at: float
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request to workers.

    destination   node names, or None for all. pattern: instead of names, what they look like; matcher says how: glob or pcre.
    """

    method: str
    arguments: Mapping[str, Any]
    destination: Sequence[str] | None = None
    pattern: str | None = None
    matcher: str | None = None


class CommandInfo(NamedTuple):
    """A command that a worker answers. kind: inspect (tells) or control (changes).

    arguments  (name, type) of those that may be given by position. variadic: the name of the one that takes all the rest.
    aliases    other names that Celery has for it. ours: Celery's workers do not know it.
    """

    name: str
    kind: str
    help: str
    arguments: tuple[tuple[str, Callable[[str], Any]], ...] = ()
    variadic: str | None = None
    aliases: tuple[str, ...] = ()
    ours: bool = False


def _flag(text: str) -> bool:
    return text.lower() in {"1", "true", "yes", "on", "t", "y"}


_C = CommandInfo
#: Every command: Celery's of 5.7 (research/celery.md 2G), and our own.
COMMANDS: tuple[CommandInfo, ...] = (
    _C("active", "inspect", "Tasks that run now.", aliases=("dump_active",)),
    _C("active_queues", "inspect", "Queues consumed now."),
    _C("clock", "inspect", "The logical clock."),
    _C("conf", "inspect", "Settings that differ from their defaults, or all; secrets hidden.", (("with_defaults", _flag),), aliases=("dump_conf",)),
    _C("dead", "inspect", "How many dead letters each queue of the worker has.", ours=True),
    _C("hello", "inspect", "What a worker that starts asks the others.", (("from_node", str),)),
    _C("memdump", "inspect", "The memory samples taken so far.", (("samples", int),)),
    _C("memsample", "inspect", "The memory in use now."),
    _C("objgraph", "inspect", "Not available: use a profiler that attaches to the process.", (("type", str), ("num", int), ("max_depth", int))),
    _C("ping", "inspect", "Whether it answers."),
    _C("query_task", "inspect", "Where the tasks of these ids are.", variadic="ids"),
    _C("registered", "inspect", "Names of the tasks known, each with these attributes.", (), "taskinfoitems", ("registered_tasks", "dump_tasks")),
    _C("report", "inspect", "Versions and settings as text."),
    _C("reserved", "inspect", "Tasks that are claimed and have not started.", aliases=("dump_reserved",)),
    _C("revoked", "inspect", "Ids that were revoked.", aliases=("dump_revoked",)),
    _C("scheduled", "inspect", "Tasks that the worker keeps for their time.", aliases=("dump_schedule",)),
    _C("stats", "inspect", "Numbers of the process, its pool and its broker."),
    _C("add_consumer", "control", "Consume one more queue.", (("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str))),
    _C("autoscale", "control", "Change the bounds of --autoscale.", (("max", int), ("min", int))),
    _C("cancel_consumer", "control", "Consume one queue less.", (("queue", str),)),
    _C("disable_events", "control", "Send no more task events."),
    _C("drain", "control", "Claim nothing, finish, turn not ready.", (("ttl_s", float), ("id", str), ("epoch", int)), ours=True),
    _C("election", "control", "Nothing: our workers elect nobody.", (("id", str), ("topic", str), ("action", str))),
    _C("enable_events", "control", "Send task events."),
    _C("heartbeat", "control", "Send a heartbeat now."),
    _C("pool_grow", "control", "Run N more tasks at once.", (("n", int),)),
    _C("pool_restart", "control", "Not available: roll the Deployment out again."),
    _C("pool_shrink", "control", "Run N tasks fewer at once.", (("n", int),)),
    _C("rate_limit", "control", "Change a task type's rate limit, e.g. 5/s; 0 lifts it.", (("task_name", str), ("rate_limit", str), ("scope", str))),
    _C("revoke", "control", "Do not run the tasks of these ids.", variadic="task_id"),
    _C("revoke_by_stamped_headers", "control", "Do not run tasks with these stamps, each as name=value.", variadic="headers"),
    _C("shutdown", "control", "End, as SIGTERM does."),
    _C("terminate", "control", "End the tasks of these ids by this signal, e.g. SIGKILL.", (("signal", str),), variadic="task_id"),
    _C("time_limit", "control", "Change a type's soft and hard time limits, in seconds.", (("task_name", str), ("soft", float), ("hard", float))),
    _C("undrain", "control", "Claim again.", (("epoch", int),), ours=True),
)  # fmt: skip


#: Commands that change something, by all their names.
CHANGING = frozenset(name for info in COMMANDS if info.kind == "control" for name in (info.name, *info.aliases))


def sent_to_wire(sent: Sent) -> dict[str, Any]:
    """What stands under `SENT`."""
    return sent._asdict()


def sent_from_wire(body: Mapping[str, Any]) -> Sent | None:
    """When this request was sent; None when it does not say, as Celery's do not. Raises ValueError when that cannot be read."""
    found = body.get(SENT)
    if found is None:
        return None
    match found:
        case {"at": int() | float() as at, "id": str(id)} if not isinstance(at, bool) and math.isfinite(at) and id:
            return Sent(float(at), id)
    raise ValueError(f"its time of sending cannot be read: {found!r:.100}")


def arguments_of(info: CommandInfo, words: Sequence[str]) -> dict[str, Any]:
    """The arguments that words on a command line mean. Raises ValueError saying which word is wrong."""
    found: dict[str, Any] = {}
    for place, word in enumerate(words):
        if place < len(info.arguments):
            name, convert = info.arguments[place]
            try:
                found[name] = convert(word)
            except ValueError:
                raise ValueError(f"{info.name}: {name} cannot be {word!r}, it is a {convert.__name__}") from None
        elif info.variadic:
            found.setdefault(info.variadic, []).append(word)
        else:
            takes = ", ".join(name for name, _ in info.arguments) or "nothing"
            raise ValueError(f"{info.name} takes {takes}; {word!r} is too much")
    return found


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


def shutdown(*, epoch: int, destination: Sequence[str]) -> Command:
    """Celery's own command, with the number of the leader who gives it."""
    return Command(method="shutdown", arguments={"epoch": epoch}, destination=destination)


def rate_limit(
    *, task: str, per_s: float | None, scope: str, by: str, epoch: int, destination: Sequence[str] | None = None
) -> Command:
    """Celery's own command, with three arguments of ours: keep a rate per worker or for the cluster, told by `by`.

    per_s   starts a second; None: what the code declares.
    epoch   counts the leaders that speak for `by`, as `drain`'s does: a worker ignores what an older one says.
    """
    rate = "declared" if per_s is None else per_s
    arguments = {"task_name": task, "rate_limit": rate, "scope": scope, "by": by, "epoch": epoch}
    return Command(method="rate_limit", arguments=arguments, destination=destination)
