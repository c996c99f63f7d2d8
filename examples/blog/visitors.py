"""Visitors with a browser: starts the web server, fetches the form, and posts every comment of comments.py over HTTP.

`python -m examples.blog.visitors --report report.json`: how long each post took, in seconds.
"""

import argparse
import http.cookiejar
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from examples.blog.comments import VISITS, Visit

SLUG = "hello"


def main() -> None:
    parser = argparse.ArgumentParser(description="Post the demo's comments to the blog.")
    parser.add_argument("--report", type=Path, required=True, help="where to write how long each post took")
    options = parser.parse_args()

    port = free_port()
    site = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "django",
        "runserver",
        "--noreload",
        "--settings=examples.blog.settings",
        str(port),
    ]
    web = subprocess.Popen(command)
    try:
        wait_for(f"{site}/{SLUG}/", web)
        seconds = [post(site, visit) for visit in VISITS]
    finally:
        web.terminate()
        web.wait()
    options.report.write_text(json.dumps(seconds))
    print(f"{len(seconds)} comments posted; the slowest answer took {max(seconds):.2f} s", flush=True)


def post(site: str, visit: Visit) -> float:
    """Fill in the form and send it; seconds until the entry is shown again. Raises HTTPError when the form is refused."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    page = f"{site}/{SLUG}/comment/"
    with browser.open(page) as response:
        [token] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', response.read().decode())
    form = {
        "csrfmiddlewaretoken": token, "name": visit.name, "email_address": visit.email_address, "comment": visit.comment,
    }  # fmt: skip
    began = time.monotonic()
    with browser.open(page, urllib.parse.urlencode(form).encode()) as response:
        assert response.url == f"{site}/{SLUG}/", response.url
    return time.monotonic() - began


def wait_for(page: str, web: "subprocess.Popen[bytes]", *, patience_s: float = 30.0) -> None:
    """Return when the page is there. Raises RuntimeError when the server ends first, or is not there in time."""
    until = time.monotonic() + patience_s
    while web.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(page, timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise RuntimeError(f"the web server does not show {page}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
