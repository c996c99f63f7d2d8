"""/livez, /readyz and /metrics over HTTP, for the kubelet and Prometheus. Worker and operator both serve it."""

import logging
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.telemetry.exposition import CONTENT_TYPE, Family

log = logging.getLogger(__name__)

Probe = Callable[[], tuple[bool, str]]


class Endpoint:
    """An HTTP server in threads of its own. A probe answers (good?, why); 200 or 503 follows from it."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        livez: Probe,
        readyz: Probe,
        metrics: Callable[[], Iterable[Family]],
        setting: str = "worker_http_port",
    ) -> None:
        """port 0: any free one; read it from `.port` after start(). Raises ImproperlyConfigured, naming the setting, when it is taken."""
        probes = {"/livez": livez, "/readyz": readyz}

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                try:
                    if path == "/metrics":
                        self._answer_page()
                    elif path in probes:
                        good, why = probes[path]()
                        self._answer(200 if good else 503, "text/plain; charset=utf-8", [f"{why}\n".encode()])
                    else:
                        self._answer(404, "text/plain; charset=utf-8", [b"try /livez, /readyz or /metrics\n"])
                except (BrokenPipeError, ConnectionResetError):
                    log.debug("the client of %s went away", path)

            def _answer_page(self) -> None:
                """In parts, and compressed as they come where the client takes that: an operator's page may have many megabytes."""
                gzip = _takes_gzip(self.headers.get("Accept-Encoding", ""))
                try:
                    parts = (family.text() for family in metrics())
                    body = list(_gzipped(parts) if gzip else parts)
                except Exception:  # said in the log and by a status, or Prometheus knows of an EOF alone
                    log.exception("the metrics cannot be told: this is a bug, please report it")
                    self._answer(500, "text/plain; charset=utf-8", [b"a bug: its traceback is in the log\n"])
                    return
                self._answer(200, CONTENT_TYPE, body, *([("Content-Encoding", "gzip")] if gzip else ()))

            def _answer(self, status: int, kind: str, body: list[bytes], *more: tuple[str, str]) -> None:
                self.send_response(status)
                for name, value in (("Content-Type", kind), *more, ("Content-Length", str(sum(map(len, body))))):
                    self.send_header(name, value)
                self.end_headers()
                for part in body:
                    self.wfile.write(part)

            def log_message(self, format: str, *args: Any) -> None:
                log.debug("http: %s", format % args)

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ImproperlyConfigured(
                f"cannot listen on {host}:{port}: {error}. Set {setting} to a free port, or 0 for none"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.5}, name="celeriac-http", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


def _takes_gzip(accepted: str) -> bool:
    """Whether the request's Accept-Encoding names gzip, with another weight than 0 (RFC 9110, 12.5.3)."""
    for each in accepted.lower().replace(" ", "").split(","):
        coding, _, weight = each.partition(";q=")
        if coding == "gzip":
            return not weight or bool(weight.strip("0."))
    return False


def _gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Fastest: lines of metrics are so alike that more effort gains a tenth of the size and costs three times as much."""
    gzip = zlib.compressobj(level=1, wbits=31)
    for part in parts:
        yield gzip.compress(part)
    yield gzip.flush()
