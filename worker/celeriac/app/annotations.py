"""task_annotations: attributes that the settings give tasks, whoever wrote the tasks."""

from collections.abc import Callable, Mapping
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

#: In the place of an attribute that the class itself did not have.
_INHERITED = object()


def annotate(kind: Any, annotations: Any, load: Callable[[str], Any]) -> dict[str, Any]:
    """Set on a task's class what the annotations say of it: of its name before of all. What `put_back` wants, to undo it.

    annotations  a mapping {task name or '*': {attribute: value}}; an object or class with `annotate(task)` and `annotate_any()`, or the
                 dotted path of one; or a list of these: of each kind of answer the first that is given counts. A value under `@name` is
                 called with the task's own attribute and gives the new one; functions become methods.

    Raises ImproperlyConfigured for anything else.
    """
    replaced: dict[str, Any] = {}
    if annotations is None:
        return replaced
    several = annotations if isinstance(annotations, list | tuple) else (annotations,)
    several = [_loaded(each, load) for each in several]
    for answers in ((_of(each, kind) for each in several), (_of_any(each) for each in several)):
        found = next((answer for answer in answers if answer), None)
        for attribute, value in (found or {}).items():
            if attribute.startswith("@"):
                attribute, value = attribute[1:], value(getattr(kind, attribute[1:]))
            replaced.setdefault(attribute, vars(kind).get(attribute, _INHERITED))
            setattr(kind, attribute, value)
    return replaced


def put_back(kind: Any, replaced: Mapping[str, Any]) -> None:
    """Give a task's class the attributes that it had before it was annotated."""
    for attribute, value in replaced.items():
        if value is not _INHERITED:
            setattr(kind, attribute, value)
        elif attribute in vars(kind):
            delattr(kind, attribute)


def _loaded(annotation: Any, load: Callable[[str], Any]) -> Any:
    if isinstance(annotation, str):
        annotation = load(annotation)
    if isinstance(annotation, type):
        annotation = annotation()
    if (
        not isinstance(annotation, Mapping)
        and not hasattr(annotation, "annotate")
        and not hasattr(annotation, "annotate_any")
    ):
        raise ImproperlyConfigured(
            f"task_annotations: {annotation!r} is neither a mapping {{task name or '*': {{attribute: value}}}} nor an object with"
            " annotate(task) or annotate_any()"
        )
    return annotation


def _of(annotation: Any, kind: Any) -> Any:
    if isinstance(annotation, Mapping):
        return _attributes(annotation.get(kind.name), kind.name)
    asked = getattr(annotation, "annotate", None)
    return asked(kind) if asked is not None else None


def _of_any(annotation: Any) -> Any:
    if isinstance(annotation, Mapping):
        return _attributes(annotation.get("*"), "*")
    asked = getattr(annotation, "annotate_any", None)
    return asked() if asked is not None else None


def _attributes(found: Any, name: str) -> Any:
    if found is not None and not isinstance(found, Mapping):
        raise ImproperlyConfigured(
            f"task_annotations: of {name!r} a mapping of attributes is wanted, such as {{'rate_limit': '10/s'}}, not {found!r}"
        )
    return found
