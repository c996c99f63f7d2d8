"""What a task's message says should run after it: callbacks, the next link of its chain, errbacks. Composed, not yet published."""

from collections.abc import Mapping
from typing import Any

from celeriac.app.base import Celeriac
from celeriac.app.context import Request
from celeriac.exceptions import NotSupported
from celeriac.wire.message import TaskMessage


def after_success(app: Celeriac, request: Request, value: Any) -> tuple[TaskMessage, ...]:
    """The messages that follow a return value. Raises NotSupported for workflows that we cannot run yet."""
    follow = [_message(app, signature, request, (value,)) for signature in request.embed.get("callbacks") or ()]
    chain = list(request.embed.get("chain") or ())
    if chain:
        following = chain.pop()  # on the wire the next one stands last
        follow.append(_message(app, following, request, (value,), chain=chain or None))
    return tuple(follow)


def after_failure(app: Celeriac, request: Request) -> tuple[TaskMessage, ...]:
    """The error callbacks, called with the failed task's id."""
    return tuple(_message(app, signature, request, (request.id,)) for signature in request.embed.get("errbacks") or ())


def _message(
    app: Celeriac, signature: Mapping[str, Any], request: Request, before: tuple[Any, ...], chain: Any = None
) -> TaskMessage:
    kind = signature.get("subtask_type")
    if kind in {"group", "chord", "chain"} or str(signature.get("task", "")).startswith("celery."):
        raise NotSupported(f"a {kind or signature.get('task')} as the successor of a task is not supported yet")
    options = dict(signature.get("options") or {})
    args = tuple(signature.get("args") or ())
    kept = {name: options[name] for name in _KEPT if options.get(name) is not None}
    if options.get("chain") or chain:
        kept["chain"] = [*(chain or []), *(options.get("chain") or [])]
    if options.get("chord"):
        kept["chord"] = options["chord"]
    task_type = app.tasks.get(signature["task"])
    return app.message(
        signature["task"], args if signature.get("immutable") else (*before, *args), signature.get("kwargs") or {}, task_type,
        countdown=options.get("countdown"), eta=None, expires=options.get("expires"), task_id=options.get("task_id"), options=kept,
    )  # fmt: skip


_KEPT = (
    "queue", "priority", "serializer", "compression", "reply_to", "time_limit", "soft_time_limit", "root_id", "group_id", "group_index",
    "shadow", "ignore_result", "headers", "link", "link_error",
)  # fmt: skip
