"""The guide's import path of webhooks: `HttpDispatchTask.delay(url=…, method="POST", x=10)`, and `URL(…).post_async(x=10)`."""

from typing import Any

from celeriac.app.builtins import HTTP_DISPATCH
from celeriac.app.webhook import InvalidResponseError, RemoteExecuteError, UnknownStatusError, dispatch
from celeriac.compat import SharedTask, current_app
from celeriac.result import AsyncResult

#: The current app's own, under the name `celery.task.http.HttpDispatchTask`. Its class is in celeriac.app.webhook.
HttpDispatchTask: Any = SharedTask(lambda app: app.tasks[HTTP_DISPATCH])


class HttpDispatch:
    """One call of a URL from here: `HttpDispatch(url, "GET", {"x": 10}).dispatch()`."""

    def __init__(self, url: str, method: str, task_kwargs: dict[str, Any], **_: Any) -> None:
        self.url, self.method, self.task_kwargs = url, method, task_kwargs

    def dispatch(self) -> Any:
        """What the server returns; errors as HttpDispatchTask.run."""
        conf = current_app().conf
        return dispatch(
            self.url, self.method, self.task_kwargs, hosts=conf.http_dispatch_hosts, timeout_s=conf.http_dispatch_timeout
        )  # fmt: skip


class URL(str):
    """A URL that can be called by a task: `URL("http://…").get_async(x=10)`."""

    __slots__ = ()

    def get_async(self, **kwargs: Any) -> AsyncResult:
        """Call it by GET, in a worker."""
        return self._async("GET", kwargs)

    def post_async(self, **kwargs: Any) -> AsyncResult:
        """Call it by POST, in a worker."""
        return self._async("POST", kwargs)

    def _async(self, method: str, kwargs: dict[str, Any]) -> AsyncResult:
        handle: AsyncResult = HttpDispatchTask.delay(url=str(self), method=method, **kwargs)
        return handle


__all__ = [
    "URL",
    "HttpDispatch",
    "HttpDispatchTask",
    "InvalidResponseError",
    "RemoteExecuteError",
    "UnknownStatusError",
]
