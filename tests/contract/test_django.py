"""A Django project of its own, on SQLite and PostgreSQL: tasks found, settings read, calls with the commit, the outbox, connections."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Child, wait_until
from servers import RedisServer

SUPPORT = Path(__file__).resolve().parents[1] / "support"
CELERIAC = Path(sys.executable).with_name("celeriac")

Scene = Callable[..., Any]


@pytest.fixture(params=["sqlite", "postgres"])
def environment(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> Iterator[dict[str, str]]:
    found = {
        "DJANGO_SETTINGS_MODULE": "djshop.settings", "BROKER": redis_server.url, "BACKEND": redis_server.url.replace("/0", "/1"),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
    }  # fmt: skip
    if request.param == "sqlite":
        yield {**found, "DATABASE": f"sqlite://{tmp_path}/shop.db"}
        return
    with request.getfixturevalue("postgres_node").database() as url:
        yield {**found, "DATABASE": url.removeprefix("db+").replace("+psycopg", "")}


@pytest.fixture
def scene(environment: dict[str, str]) -> Scene:
    """Plays a scene of djshop/scenes.py in a process of its own; what it prints."""

    def play(name: str, *, code: int = 0, **env: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "djshop.scenes", name], env=os.environ | environment | env, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None

    tasks = play("migrate")
    assert {"djshop.blog.tasks.index", "djshop.blog.tasks.connections"} <= set(tasks)
    return play


@pytest.fixture
def worker(scene: Scene, environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Child]]:
    started: list[Child] = []

    def start(*flags: str) -> Child:
        child = Child(
            [CELERIAC, "-A", "djshop.celery", "worker", "-Q", "blog", "-l", "info", *flags],
            log=tmp_path / "worker.log",
            env=environment,
        )
        started.append(child)
        wait_until(lambda: "ready" in child.text(), what="the worker")
        return child

    yield start
    for child in started:
        child.terminate(timeout_s=20)


def test_tasks_of_a_project_are_django_tasks(scene: Scene) -> None:
    assert scene("kind") is True


def test_a_call_on_commit_is_sent_with_the_commit_and_not_after_a_rollback(scene: Scene) -> None:
    before, after, rolled_back, refusal = scene("on_commit")

    assert (before, after, rolled_back) == (0, 1, 1)
    assert "missing a required argument: 'article'" in refusal


def test_a_call_in_the_outbox_is_a_row_until_the_commit_and_a_message_after_it(scene: Scene) -> None:
    [written, committed, rolled_back], _ = scene("outbox")

    assert written == [0, 1]
    assert committed == [1, 0]
    assert rolled_back == [1, 0]


def test_a_plain_delay_runs_before_the_commit_and_the_outbox_does_not(
    scene: Scene, worker: Callable[..., Child]
) -> None:
    """The guide's race."""
    worker("-P", "threads", "-c", "2")

    assert scene("race") == ["FAILURE", "DoesNotExist", "PENDING", "there"]


def test_a_kill_between_commit_and_publish_loses_nothing(scene: Scene) -> None:
    scene("die", code=-9)

    assert scene("relay") == [1, 0, 0]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_bodies_have_connections_of_their_own(scene: Scene, worker: Callable[..., Child], pool: str) -> None:
    child = worker("-P", pool, "-c", "2")

    seen = scene("connections")

    assert [came_with for _, came_with in seen] == [0, 0, 0, 0]  # CONN_MAX_AGE is 0: closed after each task
    assert "Traceback" not in child.text()


def test_the_relay_knows_the_projects_outbox(scene: Scene, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(CELERIAC), "-A", "djshop.celery", "outbox", "--status"], env=os.environ | environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert (done.returncode, json.loads(done.stdout)) == (0, {"waiting": 0, "oldest_s": None}), done.stderr


def test_a_project_that_cannot_be_set_up_ends_the_worker(environment: dict[str, str]) -> None:
    env = os.environ | environment | {"DJANGO_SETTINGS_MODULE": "djshop.nowhere"}
    done = subprocess.run(
        [str(CELERIAC), "-A", "djshop.celery", "worker"],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode != 0
    assert "djshop.nowhere" in done.stderr
