"""Flags of `celeriac worker` that change what a worker does before its first task: --include, --purge, --pidfile and their like."""

import os
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from processes import wait_until
from sites import Site

from celeriac.cli import pidfile
from celeriac.worker.assemble import node_format

MORE = """\
from jobs import app

@app.task(name="more.twice")
def twice(x):
    return 2 * x
"""


def test_modules_named_with_i_bring_their_tasks(site: Site) -> None:
    for name in ("more", "most"):
        (site.folder / f"{name}.py").write_text(MORE.replace("more", name))

    site.worker("-I", "more, most", "-P", "threads")

    client = site.client()
    assert [client.send_task(f"{name}.twice", [4]).get(timeout=10) for name in ("more", "most")] == [8, 8]


def test_a_module_named_with_i_that_cannot_be_imported_is_said(site: Site) -> None:
    worker = site.worker("-I", "no_such_module", await_ready=False)

    assert worker.wait() == 1
    assert "cannot import 'no_such_module' (of the settings imports or include, or of -I)" in worker.text()


@pytest.mark.parametrize("site", ["redis", "rabbitmq"], indirect=True)
def test_a_worker_that_purges_says_what_and_leaves_other_queues_and_later_calls_alone(site: Site) -> None:
    broker = Broker(kind="", url=site.broker, queue="celery")
    with broker.closing:
        broker.publish(1, 2, task="jobs.work")
        broker.publish(3, task="jobs.work", queue="second")
        broker.publish(4, task="jobs.work", queue="other")

        worker = site.worker("--purge", "-Q", "celery,second", "-P", "threads", "-c", "1")
        site.client().send_task("jobs.work", [5])

        wait_until(lambda: site.ledger.ends() == {5: 1})
        assert "--purge: messages that waited were deleted: celery 2, second 1\n" in worker.text()
        wait_until(lambda: [broker.depth(name).ready for name in ("celery", "second", "other")] == [0, 0, 1])
        assert site.ledger.starts() == {5: 1}


def test_a_worker_waits_for_the_broker_that_it_is_to_purge(site: Site) -> None:
    site.server.stop()
    worker = site.worker("--purge", "-P", "threads", await_ready=False)
    worker.wait_for("trying again in")

    site.server.start()

    worker.wait_for("--purge: messages that waited were deleted: celery 0\n")
    worker.wait_for(" ready")
    assert worker.terminate() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_pid_file_is_there_while_the_worker_is_and_keeps_a_second_one_away(site: Site, pool: str) -> None:
    flags = ("--pidfile", str(site.folder / "%n.pid"), "-P", pool, "-c", "1")
    pid_path = site.folder / "w1.pid"
    pid_path.write_text("999999999\n")  # of one that was killed

    worker = site.worker(*flags)
    second = site.worker(*flags, "-n", "w1@test", await_ready=False)

    assert pid_path.read_text() == f"{worker.pid}\n"
    assert second.wait() == 1
    assert f"--pidfile {pid_path}: the process {worker.pid} that it names is running" in second.text()
    assert site.client().send_task("jobs.add", [1, 2]).get(timeout=10) == 3
    assert pid_path.exists()
    assert worker.terminate() == 0
    assert not pid_path.exists()


def test_celerys_flags_together_are_a_worker(site: Site) -> None:
    site.worker(
        "-E", "--disable-prefetch", "--heartbeat-interval", "0.5", "--pool-start-method", "fork", "--without-gossip", "--without-heartbeat",
        "-O", "fair", "-B", "-s", str(site.folder / "beat.json"), "--scheduler", "celery.beat:PersistentScheduler",
        "-f", str(site.folder / "%n%I.log"), "-c", "1", await_ready=False,
    )  # fmt: skip
    log = site.folder / "w1.log"

    wait_until(lambda: log.exists() and " ready: " in log.read_text(), what="w1.log")

    asked: dict[str, Any] = {}  # it may be ready a moment before it hears commands
    wait_until(
        lambda: asked.update(site.client().control.inspect(timeout=1, limit=1).conf(with_defaults=True) or {}) or asked,
        what="its settings",
    )
    [conf] = asked.values()
    assert conf["worker_heartbeat_interval"] == 0.5
    assert conf["worker_prefetch_multiplier"] is None


# -- the file


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        pytest.param("", False, id="nothing"),
        pytest.param("0\n", False, id="no process"),
        pytest.param("not a number", False, id="no number"),
        pytest.param("9" * 30, False, id="a number that is too large"),
        pytest.param(f"{os.getpid()}\n", False, id="its own, as a container's first process has always the same"),
        pytest.param(f"{os.getppid()}\n", True, id="of a process that lives"),
    ],
)
def test_only_the_file_of_a_process_that_lives_is_left_alone(content: str, kept: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    path.write_text(content)

    def hold() -> str:
        with pidfile.written(str(path)):
            return path.read_text()

    if kept:
        with pytest.raises(Exception, match=f"the process {content.strip()} that it names is running"):
            hold()
        assert path.read_text() == content
    else:
        assert hold() == f"{os.getpid()}\n"
        assert not path.exists()


def test_a_file_that_another_process_has_taken_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    with pidfile.written(str(path)):
        path.write_text(f"{os.getppid()}\n")

    assert path.exists()


@pytest.mark.parametrize("path", [".", "no/such/folder/w.pid"])
def test_a_file_that_cannot_be_written_is_a_sentence(path: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Exception, match=f"--pidfile {path} cannot be written: "), pidfile.written(path):
        pass


@pytest.mark.parametrize(
    ("path", "formatted"),
    [
        ("/run/%n.pid", "/run/w1.pid"),
        ("%p-%h-%d", "w1@a.b.c-a.b.c-b.c"),
        ("%n%I-%i.log", "w1-0.log"),
        ("100%%n", "100%n"),
        ("100%", "100%"),
    ],
)
def test_a_path_may_hold_the_nodes_name(path: str, formatted: str) -> None:
    assert node_format(path, "w1@a.b.c") == formatted
