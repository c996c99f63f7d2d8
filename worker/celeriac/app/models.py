"""Pydantic models as arguments and return values of a task (`pydantic=True`): what stands in a message, and what the body gets.

Built once a task type. As in Celery 5.7, an argument annotated with a model, or with a model or None, is one; nothing else is looked into.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celeriac.exceptions import EncodeError, ImproperlyConfigured


def models_into(
    app: Any, function: Callable[..., Any], name: str, bind: bool, options: dict[str, Any]
) -> Callable[..., Any]:
    """The body of a task, around which its models are read and written where the options ask for it. options: `pydantic…` are taken out,
    and `_models` put in. Raises ImproperlyConfigured."""
    found = {option: options.pop(option) for option in _OPTIONS if option in options}
    if not found.get("pydantic"):
        if any(value for option, value in found.items() if option != "pydantic"):
            raise ImproperlyConfigured(
                f"task {name}: {', '.join(sorted(found.keys() - {'pydantic'}))} without pydantic=True says nothing"
            )
        return function
    for option in ("pydantic_context", "pydantic_dump_kwargs"):
        if not isinstance(found.get(option), Mapping | None):
            raise ImproperlyConfigured(f"task {name}: {option} {found[option]!r} is not a mapping")
    models = options["_models"] = Models(
        app, function, name, bind=bind, strict=bool(found.get("pydantic_strict")), context=found.get("pydantic_context"),
        dump_kwargs=found.get("pydantic_dump_kwargs"),
    )  # fmt: skip
    return models.body


_OPTIONS = ("pydantic", "pydantic_strict", "pydantic_context", "pydantic_dump_kwargs")


class Models:
    """The models of one task type.

    body   the function, given models for what stands in the message, and giving back what a result may hold.

    Raises ImproperlyConfigured when pydantic is not installed.
    """

    def __init__(
        self, app: Any, function: Callable[..., Any], name: str, *, bind: bool, strict: bool, context: Mapping[str, Any] | None,
        dump_kwargs: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        try:
            import pydantic  # an extra
        except ImportError as error:
            raise ImproperlyConfigured(
                f"task {name} has pydantic=True: pydantic is not installed (pip install 'celeriac[pydantic]')"
            ) from error
        self._base = pydantic.BaseModel
        self._error = pydantic.ValidationError
        self._name = name
        self._strict = strict
        #: Under Celery's names: validators of models that move here read them.
        self._context = {**(context or {}), "celery_app": app, "celery_task_name": name}
        self._dump = {"mode": "json", **(dump_kwargs or {})}
        self._signature = inspect.signature(function)
        hints = _hints(function, self._signature)
        kinds = ((argument, self._model(hint)) for argument, hint in hints.items() if argument != "return")
        self._arguments: dict[str, Any] = {argument: kind for argument, kind in kinds if kind is not None}
        self._returned = self._model(hints.get("return"))
        names = [each.name for each in self._signature.parameters.values() if each.kind in _BY_POSITION]
        self._positions = names[1:] if bind else names
        self.body = self._around(function)

    def dumped(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str | None
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments of a call, with models as plain values, but for pickle. Raises EncodeError for one that the worker would not get as it is."""
        if serializer == "pickle":
            return args, kwargs
        base = self._base
        if any(isinstance(value, base) for value in args):
            names = [*self._positions, *[""] * len(args)]
            args = tuple(self._plain(argument, value) for argument, value in zip(names, args, strict=False))
        if any(isinstance(value, base) for value in kwargs.values()):
            kwargs = {argument: self._plain(argument, value) for argument, value in kwargs.items()}
        return args, kwargs

    def _plain(self, argument: str, value: Any) -> Any:
        if not isinstance(value, self._base) or hasattr(type(value), "__json__"):  # that one is kombu's to write
            return value
        model = self._arguments.get(argument)
        if model is None:
            raise EncodeError(
                f"task {self._name}: a {type(value).__name__} cannot be sent as {argument or 'an argument of *args'}: annotate it with the model"
            )
        try:
            plain = value.model_dump(**self._dump)
            again = self._read(model, plain)
        except Exception as error:
            raise EncodeError(
                f"task {self._name}: {argument} cannot be sent and read as {model.__name__}: {error}"
            ) from error
        if again != value:  # another class, or fields that are left out
            raise EncodeError(
                f"task {self._name}: {argument} is a {type(value).__name__} that the worker would not get as it is:"
                f" it would read {again!r:.200} as {model.__name__}"
            )
        return plain

    def _read(self, model: Any, value: Any) -> Any:
        return model.model_validate(value, strict=self._strict, context=self._context)

    def _models_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        bound = self._signature.bind(*args, **kwargs)
        given = bound.arguments
        for argument, model in self._arguments.items():
            if given.get(argument) is not None:
                try:
                    given[argument] = self._read(model, given[argument])
                except self._error as error:
                    error.args = (str(error),)  # else nobody could read it in the result
                    raise
        return bound

    def _result(self, value: Any) -> Any:
        model = self._returned
        return value.model_dump(**self._dump) if model is not None and isinstance(value, model) else value

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                bound = self._models_of(args, kwargs)
                return self._result(await function(*bound.args, **bound.kwargs))

            return awaited

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            bound = self._models_of(args, kwargs)
            return self._result(function(*bound.args, **bound.kwargs))

        return called

    def _model(self, hint: Any) -> Any:
        """The model of an annotation, also of `Model | None`; else None."""
        if typing.get_origin(hint) in {typing.Union, types.UnionType}:
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
            hint = kinds[0] if len(kinds) == 1 else None
        return hint if isinstance(hint, type) and issubclass(hint, self._base) else None


_BY_POSITION = frozenset({inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})


def _hints(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Annotations as types; as they stand where they cannot be worked out, say for names under TYPE_CHECKING."""
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        found = {each.name: each.annotation for each in signature.parameters.values()}
        return {**found, "return": signature.return_annotation}
