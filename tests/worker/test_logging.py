"""How a worker's log looks, what it leaves alone, and that what bodies print goes there."""

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Child
from servers import RedisServer

from celeriac import Celeriac
from celeriac.config import Settings
from celeriac.exceptions import ImproperlyConfigured
from celeriac.telemetry.logs import set_up, style_of
from celeriac.telemetry.redirect import LONGEST, LoggedStream, redirected


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is as it was before when the test has ended."""
    logger, own = logging.getLogger(), logging.getLogger("celeriac")
    handlers, level, own_level, amqp_level = (
        list(logger.handlers),
        logger.level,
        own.level,
        logging.getLogger("amqp").level,
    )
    logger.handlers = []
    yield logger
    logger.handlers = handlers
    logger.setLevel(level)
    own.setLevel(own_level)
    logging.getLogger("amqp").setLevel(amqp_level)


class Terminal(io.StringIO):
    """Somebody sits at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "stream", "lines"),
    [
        pytest.param({}, io.StringIO(), ["WARNING shop: late", "INFO celeriac.task.x t[a1]: paid", "INFO celeriac.task.x: idle"], id="as we have it"),
        pytest.param(
            {"CELERYD_LOG_FORMAT": "%(levelname)s|%(message)s", "CELERYD_TASK_LOG_FORMAT": "%(task_name)s %(task_id)s|%(message)s"},
            io.StringIO(), ["WARNING|late", "t a1|paid", "??? ???|idle"], id="formats of the guide's time",
        ),
        pytest.param(
            {"worker_log_format": "%(asctime)s|%(message)s", "worker_log_datefmt": "at", "worker_task_log_datefmt": "in"},
            io.StringIO(), ["at|late", "in|paid", "in|idle"], id="times",
        ),
        pytest.param({"worker_log_format": "%(message)s"}, Terminal(), ["\x1b[33mlate\x1b[0m", "paid", "idle"], id="colours on a terminal"),
        pytest.param({"worker_log_format": "%(message)s", "worker_log_color": False}, Terminal(), ["late", "paid", "idle"], id="no colours there"),
        pytest.param(
            {"worker_log_format": "%(message)s", "worker_log_color": True}, io.StringIO(), ["\x1b[33mlate\x1b[0m", "paid", "idle"],
            id="colours elsewhere",
        ),
    ],
)  # fmt: skip
def test_lines_look_as_the_settings_say(
    settings: dict[str, Any], stream: io.StringIO, lines: list[str], root: logging.Logger
) -> None:
    set_up("info", stream=stream, style=style_of(Settings(settings)))

    logging.getLogger("shop").warning("late")
    task_log = logging.getLogger("celeriac.task.x")
    task_log.info("paid", extra={"task_name": "t", "task_id": "a1"})
    task_log.info("idle")

    written = stream.getvalue().splitlines()
    assert [line[-len(end) :] for line, end in zip(written, lines, strict=True)] == lines


@pytest.mark.parametrize("wrong", ["%(message", "%(message)q", "no field at all", 7])
def test_a_format_that_logging_would_not_take_is_refused(wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="worker_log_format"):
        Settings({"worker_log_format": wrong})


@pytest.mark.parametrize(("hijack", "kept"), [(True, False), (False, True)])
def test_handlers_of_the_app_stay_where_the_settings_say_so(hijack: bool, kept: bool, root: logging.Logger) -> None:
    own = logging.StreamHandler(io.StringIO())
    root.handlers = [own]

    set_up("info", stream=io.StringIO(), style=style_of(Settings({"worker_hijack_root_logger": hijack})))

    assert (root.handlers == [own]) is kept
    assert logging.getLogger("celeriac.worker").isEnabledFor(logging.INFO)


def test_without_any_handler_one_is_made_all_the_same(root: logging.Logger) -> None:
    stream = io.StringIO()
    root.handlers = []

    set_up("info", stream=stream, style=style_of(Settings({"worker_hijack_root_logger": False})))
    logging.getLogger("celeriac.worker").info("ready")

    assert "ready" in stream.getvalue()


# -- what is printed


def test_what_is_printed_is_logged_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    before = sys.stdout, sys.stderr

    with caplog.at_level(logging.INFO), redirected(logging.getLogger("printed"), "ERROR"):
        print("one\ntwo", end="")
        print(" and more", 3, file=sys.stdout)
        print("   ", file=sys.stderr)
        print("100 %s", file=sys.stderr)
        sys.stdout.write("left over")
        assert not sys.stdout.isatty()

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "one"), ("ERROR", "two and more 3"), ("ERROR", "100 %s"), ("ERROR", "left over"),
    ]  # fmt: skip
    assert (sys.stdout, sys.stderr) == before


def test_a_line_without_an_end_is_logged_in_pieces_and_kept_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    stream = LoggedStream(logging.getLogger("printed"), logging.WARNING, sys.stderr)

    for _ in range(100):
        stream.write("x" * 1000)
    stream.write("y" * (2 * LONGEST))
    stream.flush()

    assert sum(len(record.getMessage()) for record in caplog.records) == 100_000 + 2 * LONGEST
    assert max(len(record.getMessage()) for record in caplog.records) == LONGEST


def test_two_threads_do_not_mix_their_lines(caplog: pytest.LogCaptureFixture) -> None:
    stream, meet = (
        LoggedStream(logging.getLogger("printed"), logging.WARNING, sys.stderr),
        threading.Barrier(2, timeout=5),
    )

    def write(word: str) -> None:
        stream.write(word)
        meet.wait()
        stream.write(f"-{word}\n")

    threads = [threading.Thread(target=write, args=(word,)) for word in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(record.getMessage() for record in caplog.records) == ["a-a", "b-b"]


def test_a_handler_that_fails_says_so_where_the_stream_was_and_not_in_a_circle() -> None:
    """logging reports to sys.stderr, which is the log again."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise RuntimeError("disk full")
            except RuntimeError:
                self.handleError(record)

    logger, behind = logging.getLogger("printed.broken"), io.StringIO()
    logger.addHandler(Broken())
    before = sys.stderr
    sys.stderr = LoggedStream(logger, logging.WARNING, behind)
    try:
        print("hello", file=sys.stderr)
    finally:
        sys.stderr = before
        logger.handlers = []

    assert "disk full" in behind.getvalue()


SHOP = """
import subprocess, sys
from celeriac import Celeriac
app = Celeriac("shop", worker_http_port=0)
app.conf.update({settings})

@app.task(name="shop.tell")
def tell():
    print("printed by a body")
    print("said by a body", file=sys.stderr)
    subprocess.run(["echo", "written by a child"], stdout=sys.stdout, check=True)
    return 1
"""


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
@pytest.mark.parametrize("redirect", [True, False])
def test_a_body_that_prints_is_logged_with_its_name_and_id(
    redis_server: RedisServer, tmp_path: Path, pool: str, redirect: bool
) -> None:
    settings = f"worker_redirect_stdouts={redirect}, worker_redirect_stdouts_level='info'"
    (tmp_path / "shop.py").write_text(SHOP.format(settings=settings))
    environ = {
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
        "CELERIAC_BROKER_URL": redis_server.url,
        "CELERIAC_RESULT_BACKEND": redis_server.url,
    }
    child = Child(
        [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-P", pool, "-c", "1", "-l", "info"],
        log=tmp_path / "log", cwd=tmp_path, env={**environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        with Celeriac("client", broker=redis_server.url, backend=redis_server.url, set_as_current=False) as client:
            sent = client.send_task("shop.tell")
            assert sent.get(timeout=20) == 1
        assert child.terminate() == 0
    finally:
        child.kill()

    lines = child.text().splitlines()
    for text in ("printed by a body", "said by a body"):
        [line] = [line for line in lines if line.endswith(text)]
        assert line.endswith(f"INFO celeriac.task.printed shop.tell[{sent.id}]: {text}") is redirect, line
        assert (line == text) is not redirect
    assert "written by a child" in lines


def test_an_error_of_the_command_is_never_filtered_by_the_level_of_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP.format(settings="task_ack_late=True"))

    ended = subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-l", "critical"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )  # fmt: skip

    assert ended.returncode == 1
    assert "there is no setting task_ack_late (did you mean task_acks_late?)" in ended.stderr
