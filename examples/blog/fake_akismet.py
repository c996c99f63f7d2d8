"""A stand-in for Akismet: the two questions that the spam filter asks, over real HTTP, and one key.

Spam is what Akismet's own documentation has for tests: the author `viagra-test-123`, the address `akismet-guaranteed-spam@example.com`.
The first check of a comment that says "busy" is refused with 503.
"""

import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a-good-key"


class FakeAkismet(ThreadingHTTPServer):
    """On a free port of 127.0.0.1. thinks_s: how long each check takes. `asked`: (question, form, status) of all requests so far."""

    daemon_threads = True

    def __init__(self, *, thinks_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thinks_s = thinks_s
        self.asked: list[tuple[str, dict[str, str], int]] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, question: str, form: dict[str, str]) -> tuple[int, str]:
        """HTTP status and body."""
        with self._lock:
            status, body = self._answer(question, form)
            self.asked.append((question, form, status))
        return status, body

    def checks(self, status: int = 200) -> list[str]:
        """What the comments said that were checked with this status, in order."""
        with self._lock:
            return [
                form["comment_content"]
                for question, form, code in self.asked
                if (question, code) == ("comment-check", status)
            ]

    def _answer(self, question: str, form: dict[str, str]) -> tuple[int, str]:
        if question == "verify-key":
            return 200, "valid" if form.get("key") == KEY and form.get("blog") else "invalid"
        if question != "comment-check":
            return 404, "not found"
        if form.get("api_key") != KEY or not form.get("blog") or not form.get("user_ip"):
            return 200, "invalid"
        refused = {
            seen["comment_content"] for asked, seen, code in self.asked if (asked, code) == ("comment-check", 503)
        }
        content = form.get("comment_content", "")
        if "busy" in content and content not in refused:
            return 503, "try again later"
        spam = form.get("comment_author") == "viagra-test-123"
        return 200, "true" if spam or form.get(
            "comment_author_email"
        ) == "akismet-guaranteed-spam@example.com" else "false"


class _Handler(BaseHTTPRequestHandler):
    server: FakeAkismet

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        form = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode(), keep_blank_values=True))
        question = self.path.removeprefix("/1.1/")
        if question == "comment-check":
            time.sleep(self.server.thinks_s)
        status, body = self.server.answer(question, form)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def running(*, thinks_s: float = 0.0) -> Iterator[FakeAkismet]:
    """The server, while the block runs."""
    server = FakeAkismet(thinks_s=thinks_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake-akismet")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
