"""What a running call does to the workflow it is in: another takes its place, one more joins its chord. Here are methods of `Task`, as functions."""

from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from celeriac.canvas.joining import ends_in_group
from celeriac.canvas.signature import Signature, signature
from celeriac.exceptions import Ignore, ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.task import Task


class Replaced(Ignore):
    """Raised by Task.replace: `sig` runs instead, under the same id."""

    def __init__(self, sig: Signature) -> None:
        super().__init__("replaced by another task")
        self.sig = sig


def replace(task: "Task", sig: Any) -> Any:
    """Run this signature instead: `return self.replace(other.s(1))`. It has this call's id, group, chord and successors.

    Does not return but where it runs eagerly: then what the other returned. Raises ImproperlyConfigured for a signature that
    cannot take its place.
    """
    sig = signature(sig, app=task.app)
    if sig["options"].get("chord"):
        raise ImproperlyConfigured(f"task {task.name}: a signature that is in a chord already cannot replace it")
    if sig["subtask_type"] == "chain" and not sig["kwargs"].get("tasks"):
        raise ImproperlyConfigured(f"task {task.name}: an empty chain cannot replace it")
    return task.on_replace(sig)


def on_replace(task: "Task", sig: Any) -> Any:
    """What `replace` does. Raises Ignore, for the worker to send the signature together with its acknowledgement."""
    if task.request.is_eager or task.request.called_directly:
        return sig.apply().get()
    raise Replaced(sig)


def add_to_chord(task: "Task", sig: Any, lazy: bool = False) -> Any:
    """Send one more member of the chord whose header this call is in; its handle. lazy: return the signature, to be sent later.

    Delivered again after a crash, the call adds the same members under the same ids, and they count once.

    Raises ValueError where this call is in no chord, or for a group, which is not one member.
    """
    request = task.request
    if not request.chord:
        raise ValueError(f"task {task.name}: this call is a member of no chord, nothing can be added to it")
    sig = signature(sig, app=task.app)
    if ends_in_group(sig):
        raise ValueError(f"task {task.name}: {sig!r:.200} is not one member: add those of a group one by one")
    own_id = sig["options"].get("task_id") or str(
        uuid5(NAMESPACE_OID, f"{request.id}/{request.retries}/{request.added}")
    )
    request.added += 1
    task.app.backend.widen_chord(request.group, own_id)
    sig.freeze(own_id, group_id=request.group, chord=request.chord, root_id=request.root_id)
    sig["options"].setdefault("group_index", request.group_index)
    return sig if lazy else sig.delay()


def signature_from_request(
    task: "Task", /, request: Any = None, args: Any = None, kwargs: Any = None, **options: Any
) -> Signature:
    """The call that is running, as a signature, with other arguments or options."""
    request = task.request if request is None else request
    own = {
        "task_id": request.id, "link": request.callbacks, "link_error": request.errbacks, "group_id": request.group,
        "group_index": request.group_index, "chord": request.chord, "chain": request.chain, "reply_to": request.reply_to,
        "queue": request.delivery_info.get("queue"),
    }  # fmt: skip
    kept = {name: value for name, value in own.items() if value}
    return task.signature(
        request.args if args is None else args, request.kwargs if kwargs is None else kwargs, {**kept, **options}
    )


__all__ = ["Replaced", "add_to_chord", "on_replace", "replace", "signature_from_request"]
