"""What a task's message says should run after it: callbacks, the next step of its chain, error callbacks, what replaces it.

Composed, not yet published: what follows is sent together with the acknowledgement of what it follows from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.app.base import Celeriac
from celeriac.app.context import Request
from celeriac.broker.codec import Encoded, encode_body
from celeriac.canvas.errbacks import errbacks_within, takes_more
from celeriac.canvas.forms import chunks
from celeriac.canvas.freeze import frozen
from celeriac.canvas.joining import ends_in_group
from celeriac.canvas.plan import Member, Plan, compose
from celeriac.canvas.signature import Signature, listed, maybe_signature
from celeriac.wire.message import ERRBACK, TaskMessage
from celeriac.wire.result import exception_to_wire


def after_success(app: Celeriac, request: Request, value: Any) -> Plan:
    """What follows a return value: callbacks, and the next step of its chain. Raises what composing raises."""
    plan = Plan([], [], strict=False)
    options = _inherited(request)
    for callback in request.embed.get("callbacks") or ():
        compose(app, _ready(app, callback), plan, (value,), options=options)
    rest = list(request.embed.get("chain") or ())
    if rest:
        following = rest.pop()  # on the wire the next one stands last
        compose(app, _ready(app, following), plan, (value,), options=options, rest=rest)
    return plan


def after_failure(app: Celeriac, request: Request, error: BaseException, traceback: str | None) -> Plan:
    """The error callbacks of a call that has failed."""
    plan = Plan([], [], strict=False)
    described = _described(request)
    for errback in request.embed.get("errbacks") or ():
        _call_errback(app, errback, plan, described, error, traceback, _inherited(request))
    return plan


def instead(app: Celeriac, request: Request, sig: Signature) -> Plan:
    """What replaces a call that runs: under the same id, in the same group, with the same successors.

    Raises ValueError for an empty chain, or for a signature that is in a chord already.
    """
    if sig["options"].get("chord"):
        raise ValueError(f"{sig!r:.200} is a member of another chord: it cannot replace {request.id}")
    if isinstance(sig, chunks):
        sig = sig.group()
    if ends_in_group(sig):  # the id stands for one value: the list of theirs
        sig = sig | Signature("celery.accumulate", kwargs={"index": 0}, app=app)
    plan = Plan([], [], strict=False)
    copy, _ = frozen(app, sig, request.id)
    nesting = (request.replaced_task_nesting or 0) + 1
    options = {**_inherited(request), "parent_id": request.parent_id, "replaced_task_nesting": nesting}
    links = {"link": listed(request.callbacks), "link_error": listed(request.errbacks)}
    options |= {name: linked for name, linked in links.items() if linked}
    member = Member(request.group, request.group_index, request.chord) if request.group else None
    compose(app, copy, plan, (), options=options, rest=list(request.chain or ()), member=member)
    return plan


def body_of(app: Celeriac, body: Mapping[str, Any], values: Any, request: Request) -> Plan:
    """The body of a chord whose header has ended well; request: the member that ended last."""
    plan = Plan([], [], strict=False)
    compose(app, _ready(app, body), plan, (values,), options=_inherited(request))
    return plan


def errbacks_of(app: Celeriac, body: Mapping[str, Any], body_id: str, error: BaseException, request: Request) -> Plan:
    """The error callbacks of a chord's body that will not run."""
    plan = Plan([], [], strict=False)
    sig = maybe_signature(body, app)
    for errback, owner in errbacks_within(sig):
        owner_id = owner["options"].get("task_id") or body_id
        described = {
            "id": owner_id,
            "task": owner["task"],
            "root_id": request.root_id or request.id,
            "parent_id": request.id,
        }
        _call_errback(app, errback, plan, described, error, None, _inherited(request))
    return plan


def _call_errback(
    app: Celeriac, errback: Any, plan: Plan, described: Mapping[str, Any], error: BaseException, traceback: str | None, options: dict[str, Any]
) -> None:  # fmt: skip
    """An error callback gets the failed call's id; one that takes more gets (request, exception, traceback), as values that JSON can write."""
    sig = _ready(app, errback)
    if takes_more(app, sig):
        args: tuple[Any, ...] = (described, exception_to_wire(error), traceback)
        options = {**options, "headers": {**(sig["options"].get("headers") or {}), ERRBACK: True}}
    else:
        args = (described["id"],)
    compose(app, sig, plan, args, options=options)


def _described(request: Request) -> dict[str, Any]:
    """What an error callback can read of the call that failed."""
    names = ("id", "task", "root_id", "parent_id", "group", "group_index", "retries", "hostname", "origin", "reply_to")
    described = {name: request.get(name) for name in names}
    return {**described, "args": list(request.args), "kwargs": dict(request.kwargs)}


def _ready(app: Celeriac, sig: Mapping[str, Any]) -> Signature:
    """As a signature; one of several calls with ids for all of them."""
    made: Signature = maybe_signature(sig, app)
    return made if made["subtask_type"] is None else frozen(app, made)[0]


def written(message: TaskMessage) -> TaskMessage:
    """The message with its body encoded, once for all. Raises EncodeError: here it is its task's failure, later it would be the worker's."""
    return message._replace(body=Encoded(*encode_body(message.body, message.serializer)))


def _inherited(request: Request) -> dict[str, Any]:
    """What successors take over: the root, the parent, who is answered, the stamps."""
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    if request.reply_to:  # who sent the first one waits for the last
        options["reply_to"] = request.reply_to
    names: Sequence[str] = request.stamped_headers or ()
    if names:
        stamps = request.stamps or {}
        options |= {name: stamps[name] for name in names if name in stamps}
        options["stamped_headers"] = list(names)
    return options
