"""HttpDispatchTask: a task whose body is somebody else's web server.

The server gets the arguments as a query string or a form, and answers in JSON: `{"status": "success", "retval": …}` or
`{"status": "failure", "reason": "…"}`. Only hosts of the setting `http_dispatch_hosts` are called; redirects are not followed.
"""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from celeriac.app.task import Task
from celeriac.exceptions import NotSupported, TaskError
from celeriac.policy.webhook import Target, refusal_of, target_of

#: The longest answer that is read.
MOST_BYTES = 1 << 20
METHODS = ("GET", "POST")


class InvalidResponseError(TaskError):
    """The server did not answer as it should: no JSON object, a status other than 200, a redirect, or too much."""


class RemoteExecuteError(TaskError):
    """The server said that the call has failed, and why."""


class UnknownStatusError(InvalidResponseError):
    """The server answered with a status that is neither success nor failure."""


class HttpDispatchTask(Task):
    """Call a URL: `.delay(url="https://api.example.com/multiply", method="POST", x=10, y=10)`."""

    abstract = True
    url: str | None = None
    method: str | None = None

    def run(self, url: str | None = None, method: str = "GET", **kwargs: Any) -> Any:
        """What the server returns. Raises NotSupported for a URL that may not be called, RemoteExecuteError, InvalidResponseError, OSError."""
        conf = self.app.conf
        return dispatch(
            self.url or url or "", self.method or method, kwargs, hosts=conf.http_dispatch_hosts, timeout_s=conf.http_dispatch_timeout
        )  # fmt: skip


def dispatch(url: str, method: str, kwargs: Mapping[str, Any], *, hosts: Sequence[str], timeout_s: float) -> Any:
    """Call a URL with these arguments; what it returns. Errors as above. timeout_s: for all of it."""
    if not isinstance(url, str) or not isinstance(method, str):
        raise TypeError(f"{HttpDispatchTask.__name__}: url and method are text, not {url!r} and {method!r}")
    method = method.upper()
    if method not in METHODS:
        raise NotSupported(f"method {method!r} is not one of {', '.join(METHODS)}")
    try:
        target = target_of(url, hosts)
    except ValueError as error:
        raise NotSupported(f"{HttpDispatchTask.__name__}: {error}") from None
    return _returned(_answer(target, method, kwargs, hosts, time.monotonic() + timeout_s))


def _answer(target: Target, method: str, kwargs: Mapping[str, Any], hosts: Sequence[str], until: float) -> bytes:
    connection = _connected(target, hosts, until)
    # A time-out of the socket bounds each read; a server that sends a byte now and then would never reach it.
    watch = threading.Timer(max(0.0, until - time.monotonic()), _cut, (connection.sock,))
    watch.daemon = True
    watch.start()
    fields = [*(parse_qsl(target.query, keep_blank_values=True) if method == "GET" else ()), *kwargs.items()]
    form = urlencode([(name, value if isinstance(value, str) else json.dumps(value)) for name, value in fields])
    path = target.path
    query = form if method == "GET" else target.query
    try:
        connection.request(
            method,
            f"{path}?{query}" if query else path,
            body=form if method == "POST" else None,
            headers={"Accept": "application/json", "User-Agent": "celeriac"}
            | ({"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}),
        )
        response = connection.getresponse()
        body = response.read(MOST_BYTES + 1)
    except (http.client.HTTPException, ssl.SSLError, ConnectionError, ValueError) as error:
        if time.monotonic() >= until:
            raise TimeoutError(f"{target.host}:{target.port} did not answer in time") from error
        raise InvalidResponseError(f"{target.host}:{target.port}: {error!r}") from error
    finally:
        watch.cancel()
        connection.close()
    if time.monotonic() >= until:
        raise TimeoutError(f"{target.host}:{target.port} did not answer in time")
    if 300 <= response.status < 400:
        raise InvalidResponseError(f"{target.host} redirects, which is not followed: call the last URL")
    if response.status != 200:
        raise InvalidResponseError(f"{target.host} answered {response.status} {response.reason}")
    if len(body) > MOST_BYTES:
        raise InvalidResponseError(f"{target.host} answered with more than {MOST_BYTES} bytes")
    return body


def _connected(target: Target, hosts: Sequence[str], until: float) -> http.client.HTTPConnection:
    """Connected to an address that was looked at: a name could mean another one when it is asked for again."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    refused = [reason for *_, place in found if (reason := refusal_of(str(place[0]), hosts)) is not None]
    if refused:
        raise NotSupported(f"{HttpDispatchTask.__name__}: {target.host}: {refused[0]}")
    problem: OSError = ConnectionError(f"{target.host} has no address")
    for *_, place in found:
        try:
            raw = socket.create_connection((str(place[0]), target.port), timeout=max(0.01, until - time.monotonic()))
            break
        except OSError as error:
            problem = error
    else:
        raise problem
    if not target.secure:
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = raw
        return connection
    connection = http.client.HTTPSConnection(target.host, target.port)
    try:
        connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=target.host)
    except BaseException:
        raw.close()
        raise
    return connection


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended meanwhile
        return


def _returned(body: bytes) -> Any:
    try:
        answer = json.loads(body)
        status = answer["status"]
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidResponseError(f"the answer is no JSON object with a status: {body[:200]!r}") from error
    if status == "success":
        return answer.get("retval")
    if status == "failure":
        raise RemoteExecuteError(str(answer.get("reason")))
    raise UnknownStatusError(f"status {status!r} is neither success nor failure")


__all__ = ["HttpDispatchTask", "InvalidResponseError", "RemoteExecuteError", "UnknownStatusError", "dispatch"]
