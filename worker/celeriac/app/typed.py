"""What type checkers see of `@app.task` and `@shared_task`: the function's own arguments in `delay`, its own value in `get`."""

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Literal, Protocol, TypeVar, overload

from celeriac.app.task import P, Task
from celeriac.result import R

T = TypeVar("T", bound=Task[..., Any])


class CoroutineTask(Task[P, R]):
    """A task whose body is an `async def`: called here it gives a coroutine, and sent it gives a handle of what that returns.

    For type checkers: at run time it is a `Task` as any other.
    """

    abstract = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """The body's coroutine."""
        raise NotImplementedError


class Defines(Protocol):
    """`@app.task(option=…)`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class DefinesBound(Protocol):
    """`@app.task(bind=True)`: the body's first argument is the task itself, and no caller's."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class TaskDecorator(Protocol):
    """`@app.task`, bare, with options, or called with a function and options.

    With `base=` the task is of that class, whose own attributes are then known; the function's arguments are not, since Python cannot say both.
    """

    @overload
    def __call__(self, *, base: type[T], **options: Any) -> Callable[[Callable[..., Any]], T]: ...
    @overload
    def __call__(self, *, bind: Literal[True], **options: Any) -> DefinesBound: ...
    @overload
    def __call__(self, *, bind: bool = False, **options: Any) -> Defines: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /, *, bind: Literal[True], **options: Any
    ) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], R], /, *, bind: Literal[True], **options: Any
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /, **options: Any) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /, **options: Any) -> Task[P, R]: ...
