"""/livez, /readyz and /metrics over real HTTP."""

import gzip
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from celeriac.exceptions import ImproperlyConfigured
from celeriac.telemetry.endpoint import Endpoint
from celeriac.telemetry.exposition import Family, Labels, single

#: What `Served` tells at first, and as it is served.
PAGE = "# HELP up It is.\n# TYPE up gauge\nup 1.0\n"


class Served:
    """An endpoint whose answers the test changes."""

    def __init__(self) -> None:
        self.healthy()
        self.endpoint = Endpoint(
            "127.0.0.1", 0, livez=lambda: self.live, readyz=lambda: self.ready, metrics=lambda: self.metrics
        )

    def healthy(self) -> None:
        self.metrics = [single("up", "gauge", "It is.", 1.0)]
        self.live, self.ready = (True, "alive"), (True, "running")

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, text, type."""
        status, body, headers = self.ask(path, {})
        return status, body.decode(), headers.get("Content-Type", "")

    def ask(self, path: str, headers: dict[str, str]) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.port, timeout=5)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()


@pytest.fixture(scope="module")
def one_endpoint() -> Iterator[Served]:
    served = Served()
    served.endpoint.start()
    yield served
    served.endpoint.stop()


@pytest.fixture
def served(one_endpoint: Served) -> Served:
    one_endpoint.healthy()
    return one_endpoint


def test_a_probe_answers_with_its_reason(served: Served) -> None:
    assert served.get("/livez")[:2] == (200, "alive\n")
    assert served.get("/readyz")[:2] == (200, "running\n")

    served.live, served.ready = (False, "stuck"), (False, "drained")

    assert served.get("/livez")[:2] == (503, "stuck\n")
    assert served.get("/readyz?verbose")[:2] == (503, "drained\n")


def test_metrics_are_served_as_prometheus_wants_them(served: Served) -> None:
    assert served.get("/metrics") == (200, PAGE, "text/plain; version=0.0.4; charset=utf-8")


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
def test_a_bug_in_the_metrics_is_a_status_and_a_traceback_in_the_log(
    served: Served, accepted: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Family):
        def text(self) -> bytes:
            raise RuntimeError("as it should")

    served.metrics = [*served.metrics, Broken("n", "gauge", "")]

    assert served.ask("/metrics", {"Accept-Encoding": accepted})[0] == 500
    assert "RuntimeError: as it should" in caplog.text
    assert served.get("/livez")[0] == 200


@pytest.mark.parametrize("accepted", ["gzip", "deflate, GZIP", "gzip;q=0.5", "br; q=1, gzip; q=1.0"])
def test_who_takes_gzip_is_sent_it(served: Served, accepted: str) -> None:
    many = Family("many", "gauge", "Many.", Labels("number"))
    many.add_each((), {str(number): number for number in range(10_000)})
    served.metrics = [*served.metrics, many]

    status, body, headers = served.ask("/metrics", {"Accept-Encoding": accepted})

    assert (status, headers["Content-Encoding"], headers["Content-Length"]) == (200, "gzip", str(len(body)))
    text = PAGE.encode() + many.text()
    assert gzip.decompress(body) == text
    assert len(body) < len(text) / 4


@pytest.mark.parametrize("accepted", ["", "deflate", "gzip;q=0", "gzip; q=0.000", "x-gzip", "*;q=0"])
def test_who_does_not_take_gzip_is_sent_text(served: Served, accepted: str) -> None:
    _, body, headers = served.ask("/metrics", {"Accept-Encoding": accepted})

    assert body.decode() == PAGE
    assert headers["Content-Encoding"] is None


@pytest.mark.parametrize("path", ["/", "/metric", "/livez/", "/../etc/passwd"])
def test_another_path_says_which_there_are(served: Served, path: str) -> None:
    assert served.get(path)[:2] == (404, "try /livez, /readyz or /metrics\n")


def test_a_client_that_says_nothing_delays_nobody(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.endpoint.port)):
        assert served.get("/livez")[0] == 200


def test_many_may_ask_at_once(served: Served) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(served.get("/metrics")[0])) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 8


def test_a_port_that_is_taken_is_named_with_the_setting_to_change(served: Served) -> None:
    port = served.endpoint.port

    with pytest.raises(ImproperlyConfigured, match=rf"127\.0\.0\.1:{port}: .*worker_http_port"):
        Endpoint("127.0.0.1", port, livez=lambda: (True, ""), readyz=lambda: (True, ""), metrics=list)


def test_once_stopped_its_port_is_free() -> None:
    served = Served()
    port = served.endpoint.port
    served.endpoint.start()
    served.endpoint.stop()

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
