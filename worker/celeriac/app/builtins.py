"""Tasks that every app has, under Celery's names and the guide's.

`celery.execute_remote` is none of them: see policy/admission.py.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: The task that calls a URL: see app/webhook.py.
HTTP_DISPATCH = "celery.task.http.HttpDispatchTask"


def define_builtins(app: Any) -> None:
    """Register them on this app."""
    from celeriac.app.webhook import HttpDispatchTask  # it derives from Task, and Task's app comes here

    def backend_cleanup() -> None:
        """Remove expired results, where a store does not do that by itself."""
        for store in app.every_store():
            store.cleanup()

    def xmap(task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
        """Call a task here with each item; the results in order."""
        return [_called(app, task, (item,)) for item in it]

    def xstarmap(task: Mapping[str, Any], it: Iterable[Sequence[Any]]) -> list[Any]:
        """Call a task here with the arguments that each item is; the results in order."""
        return [_called(app, task, tuple(item)) for item in it]

    def chunks(task: Mapping[str, Any], it: Iterable[Sequence[Any]], n: int) -> list[list[Any]]:
        """As starmap, the results in lists of n."""
        results = xstarmap(task, it)
        return [results[start : start + n] for start in range(0, len(results), n)]

    for name, body in {
        "celery.backend_cleanup": backend_cleanup,
        "celery.delete_expired_task_meta": backend_cleanup,
        "celery.ping": ping,
        "celery.accumulate": accumulate,
        "celery.map": xmap,
        "celery.map_async": xmap,
        "celery.starmap": xstarmap,
        "celery.chunks": chunks,
    }.items():
        app.task(body, name=name)
    app.register_task(type("HttpDispatchTask", (HttpDispatchTask,), {"name": HTTP_DISPATCH, "abstract": True}))


def is_built_in(name: str) -> bool:
    """Whether a task is one of ours, or of Celery's."""
    return name.startswith("celery.")


def ping() -> str:
    """Whether tasks are run."""
    return "pong"


def accumulate(*args: Any, **kwargs: Any) -> Any:
    """The arguments, or the one at `index`."""
    index = kwargs.get("index")
    return args if index is None else args[index]


def _called(app: Any, signature: Mapping[str, Any], args: tuple[Any, ...]) -> Any:
    """What the task of a signature returns when it is called here. Raises NotRegistered, and what the body raises."""
    task = app.find(signature["task"])
    own = tuple(signature.get("args") or ())
    value = task(*(own if signature.get("immutable") else (*args, *own)), **(signature.get("kwargs") or {}))
    return _awaited(value) if inspect.iscoroutine(value) else value


def _awaited(coroutine: Any) -> Any:
    """What a coroutine returns, when there is nobody to await it: in a loop of its own, beside one that runs here."""
    import asyncio  # only for who has coroutines: a client is light
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, asyncio.run, coroutine).result()
