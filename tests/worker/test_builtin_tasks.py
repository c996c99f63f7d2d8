"""Tasks that every app has: what they give, in a worker and from a real web server, and what is refused."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from processes import wait_until

from celeriac import Celeriac, registry
from celeriac.app.webhook import dispatch
from celeriac.broker.deadletters import dead_letters
from celeriac.exceptions import NotSupported
from celeriac.policy.webhook import refusal_of, target_of
from celeriac.task.http import (
    URL,
    HttpDispatch,
    HttpDispatchTask,
    InvalidResponseError,
    RemoteExecuteError,
    UnknownStatusError,
)

NAMES = {
    "celery.accumulate",
    "celery.backend_cleanup",
    "celery.chunks",
    "celery.delete_expired_task_meta",
    "celery.map",
    "celery.map_async",
    "celery.ping",
    "celery.starmap",
    "celery.task.http.HttpDispatchTask",
}


@pytest.fixture
def app() -> Celeriac:
    return Celeriac("shop", broker="memory://", backend="memory://")


def test_every_app_has_them_and_none_that_runs_code_of_a_message(app: Celeriac) -> None:
    assert {name for name in app.tasks if name.startswith("celery.")} >= NAMES
    assert "celery.execute_remote" not in app.tasks
    assert "celery.ping" in registry.tasks


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "gives"),
    [
        pytest.param("celery.ping", (), {}, "pong", id="ping"),
        pytest.param("celery.accumulate", (1, 2), {}, (1, 2), id="accumulate"),
        pytest.param("celery.accumulate", (1, 2), {"index": 1}, 2, id="accumulate one"),
        pytest.param("celery.map", (), {"task": {"task": "double"}, "it": [1, 2]}, [2, 4], id="map"),
        pytest.param(
            "celery.map_async", (), {"task": {"task": "double"}, "it": [1, 2]}, [2, 4], id="map, as the guide calls it"
        ),
        pytest.param(
            "celery.map", (), {"task": {"task": "add", "args": [10]}, "it": [1]}, [11], id="map over a partial call"
        ),
        pytest.param("celery.map", (), {"task": {"task": "coroutine"}, "it": [1]}, [2], id="map over a coroutine"),
        pytest.param("celery.starmap", (), {"task": {"task": "add"}, "it": [[1, 2], [3, 4]]}, [3, 7], id="starmap"),
        pytest.param(
            "celery.chunks", (), {"task": {"task": "add"}, "it": [[1, 1]] * 3, "n": 2}, [[2, 2], [2]], id="chunks"
        ),
    ],
)
def test_what_they_give(app: Celeriac, name: str, args: Any, kwargs: Any, gives: Any) -> None:
    app.task(lambda x: 2 * x, name="double")
    app.task(lambda x, y: x + y, name="add")

    async def coroutine(x: int) -> int:
        return x + 1

    app.task(coroutine, name="coroutine")

    assert app.tasks[name](*args, **kwargs) == gives


@pytest.mark.parametrize("name", ["celery.backend_cleanup", "celery.delete_expired_task_meta"])
def test_cleaning_up_asks_the_store_if_it_can(app: Celeriac, name: str) -> None:
    cleaned = []

    class Store:
        def cleanup(self) -> None:
            cleaned.append(name)

    app.tasks[name]()
    app._backend = Store()  # type: ignore[assignment]
    app.tasks[name]()

    assert cleaned == [name]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_runs_them_and_refuses_code_with_a_reason(site: Any, pool: str) -> None:
    site.worker("-P", pool, "-c", "1")
    client = site.client()

    assert client.send_task("celery.ping").get(timeout=20) == "pong"
    assert client.send_task("celery.starmap", kwargs={"task": {"task": "jobs.add"}, "it": [[1, 2]]}).get(
        timeout=10
    ) == [3]
    refused = client.send_task("celery.execute_remote", ["cos\nsystem\n"])
    wait_until(lambda: dead_letters(client.broker_address(), "celery"), what="the dead letter")

    [letter] = dead_letters(client.broker_address(), "celery")
    assert "refused" in str(letter)
    assert "could run anything here" in str(letter)
    assert refused.state == "FAILURE"


# -- which URL may be called

HOSTS = ["api.example.com", "*.shop.example", "only.example:8080", "10.1.0.0/16", "127.0.0.1:9", "[::1]:8"]


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/x?y=1",
        "http://API.example.com:81/",
        "http://api.example.com./",
        "http://a.shop.example",
        "http://a.b.shop.example/",
        "http://only.example:8080/",
        "http://10.1.2.3:5/",
        "http://127.0.0.1:9/",
        "http://[::1]:8/",
    ],
)
def test_a_url_whose_host_is_listed_may_be_called(url: str) -> None:
    assert target_of(url, HOSTS).host


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://example.com/", "not in http_dispatch_hosts", id="another host"),
        pytest.param("http://xapi.example.com/", "not in", id="a longer name"),
        pytest.param("http://api.example.com.evil.net/", "not in", id="a name that begins so"),
        pytest.param("http://shop.example/", "not in", id="the bare domain of a wildcard"),
        pytest.param("http://evilshop.example/", "not in", id="no dot before the domain"),
        pytest.param("http://only.example/", "not in", id="another port"),
        pytest.param("http://127.0.0.1:10/", "not in", id="another port of an address"),
        pytest.param("http://10.2.0.1/", "not in", id="another network"),
        pytest.param("http://api.example.com@evil.net/", "user or a password", id="a user that looks like a host"),
        pytest.param("http://u:p@api.example.com/", "user or a password", id="credentials"),
        pytest.param("ftp://api.example.com/", "not http", id="another scheme"),
        pytest.param("file:///etc/passwd", "not http", id="a file"),
        pytest.param("api.example.com", "not http", id="no scheme"),
        pytest.param("", "not http", id="nothing"),
        pytest.param("http://api.example.com/\r\nX: 1", "control characters", id="a line break"),
        pytest.param("http://api.example.com/a b", "control characters", id="a blank"),
        pytest.param("http://api.example.com:99999/", "port", id="no such port"),
    ],
)
def test_any_other_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)" + says):
        target_of(url, HOSTS)


def test_without_a_list_nothing_may_be_called() -> None:
    with pytest.raises(ValueError, match="list those that may in the setting http_dispatch_hosts"):
        target_of("http://api.example.com/", [])


@pytest.mark.parametrize(
    ("address", "hosts", "refused"),
    [
        ("93.184.216.34", ["a.example"], False),
        ("127.0.0.1", ["localhost"], True),
        ("127.0.0.1", ["localhost", "127.0.0.0/8"], False),
        ("10.0.0.1", ["a.example"], True),
        ("169.254.169.254", ["a.example"], True),
        ("192.168.1.1", ["192.168.1.1"], False),
        ("::1", ["a.example"], True),
        ("::ffff:127.0.0.1", ["a.example"], True),
        ("::ffff:10.0.0.1", ["10.0.0.0/8"], False),
        ("64:ff9b::169.254.169.254", ["a.example"], True),
        ("64:ff9b::8.8.8.8", ["a.example"], False),
        ("64:ff9b::10.0.0.1", ["10.0.0.0/8"], False),
        ("2002:7f00:1::", ["a.example"], True),
        ("::127.0.0.1", ["a.example"], True),
        ("::", ["a.example"], True),
        ("::1", ["::1"], False),
        ("fe80::1%eth0", ["a.example"], True),
        ("fd00::1", ["a.example"], True),
        ("0.0.0.0", ["a.example"], True),
        ("224.0.0.1", ["a.example"], True),
        ("100.64.0.1", ["a.example"], True),
    ],
)
def test_an_address_that_is_not_public_has_to_be_listed_itself(address: str, hosts: list[str], refused: bool) -> None:
    assert (refusal_of(address, hosts) is not None) is refused


# -- against a real server


class Site:
    """A web server that answers as its path says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self, "")

            def do_POST(self) -> None:
                site.answer(self, self.rfile.read(int(self.headers["Content-Length"])).decode())

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, form: str) -> None:
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.asked.append((handler.command, parts.path, query, dict(parse_qsl(form))))
        code, body, headers = 200, b"", {}
        match parts.path:
            case "/multiply":
                given = query | dict(parse_qsl(form))
                body = json.dumps({"status": "success", "retval": int(given["x"]) * int(given["y"])}).encode()
            case "/fails":
                body = b'{"status": "failure", "reason": "out of stock"}'
            case "/unknown":
                body = b'{"status": "perhaps"}'
            case "/text":
                body = b"hello"
            case "/list":
                body = b"[1]"
            case "/large":
                body = b'"' + b"x" * (2 << 20) + b'"'
            case "/moved":
                code, headers = 302, {"Location": f"{self.url}/multiply?x=1&y=1"}
            case "/error":
                code = 500
            case "/drips":
                handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
                for _ in range(100):
                    try:
                        handler.wfile.write(b"X: 1\r\n")
                    except OSError:
                        return
                    time.sleep(0.05)
                return
            case "/hangs":
                time.sleep(3)
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except OSError:
            return


@pytest.fixture
def web() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def call(web: Site, path: str, method: str = "GET", timeout_s: float = 5.0, **kwargs: Any) -> Any:
    return dispatch(f"{web.url}{path}", method, kwargs, hosts=["127.0.0.1"], timeout_s=timeout_s)


@pytest.mark.parametrize("method", ["GET", "POST", "post"])
def test_arguments_are_sent_and_what_the_server_returns_is_the_result(web: Site, method: str) -> None:
    assert call(web, "/multiply?x=3", method, y=5, text="a b&c=ü") == 15

    [(command, _, query, form)] = web.asked
    given = {"y": "5", "text": "a b&c=ü"}
    assert command == method.upper()
    assert (query, form) == (({"x": "3"} | given, {}) if command == "GET" else ({"x": "3"}, given))


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("/fails", RemoteExecuteError, "out of stock"),
        ("/unknown", UnknownStatusError, "perhaps"),
        ("/text", InvalidResponseError, "hello"),
        ("/list", InvalidResponseError, "no JSON object"),
        ("/large", InvalidResponseError, "more than"),
        ("/moved", InvalidResponseError, "not followed"),
        ("/error", InvalidResponseError, "500"),
        ("/nowhere", InvalidResponseError, "no JSON object"),
    ],
)
def test_any_other_answer_is_an_error_that_says_what_is_wrong(
    web: Site, path: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        call(web, path)

    assert len(web.asked) == 1  # a redirect was not followed


@pytest.mark.parametrize("path", ["/hangs", "/drips"])
def test_a_server_that_takes_its_time_is_left_when_the_time_is_over(web: Site, path: str) -> None:
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        call(web, path, timeout_s=0.5)

    assert time.monotonic() - started < 1.5


def test_a_name_that_means_a_private_address_is_refused_before_anything_is_sent(web: Site) -> None:
    port = web.server.server_port

    with pytest.raises(NotSupported, match=r"localhost: (127.0.0.1|::1) is no public address"):
        dispatch(f"http://localhost:{port}/multiply", "GET", {}, hosts=["localhost"], timeout_s=5)

    assert web.asked == []
    listed = ["localhost", "127.0.0.1", "::1"]
    assert dispatch(f"http://localhost:{port}/multiply?x=2&y=2", "GET", {}, hosts=listed, timeout_s=5) == 4


def test_a_method_that_nobody_knows_is_refused(web: Site) -> None:
    with pytest.raises(NotSupported, match="DELETE"):
        call(web, "/multiply", "DELETE")


def test_a_worker_calls_listed_hosts_and_no_other(site: Any, web: Site) -> None:
    site.worker("-P", "prefork", "-c", "1", http_dispatch_hosts=f"127.0.0.1:{web.server.server_port}")
    client = site.client()
    name = "celery.task.http.HttpDispatchTask"

    good = client.send_task(name, kwargs={"url": f"{web.url}/multiply", "method": "POST", "x": 4, "y": 5})
    bad = client.send_task(name, kwargs={"url": "http://169.254.169.254/latest/meta-data/"})

    assert good.get(timeout=20) == 20
    with pytest.raises(NotSupported, match="not in http_dispatch_hosts"):
        bad.get(timeout=10)


def test_the_guide_s_names_of_it_call_the_current_app_s(app: Celeriac, web: Site) -> None:
    app.conf.http_dispatch_hosts = ["127.0.0.1"]
    app.conf.task_always_eager = True

    assert URL(f"{web.url}/multiply").get_async(x=2, y=3).get() == 6
    assert URL(f"{web.url}/multiply").post_async(x=2, y=3).get() == 6
    assert HttpDispatchTask.delay(url=f"{web.url}/multiply", method="GET", x=2, y=3).get() == 6
    assert HttpDispatch(f"{web.url}/multiply", "GET", {"x": 2, "y": 3}).dispatch() == 6
