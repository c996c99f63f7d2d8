"""What users test with: a real worker beside the test, fixtures for pytest, and nothing left behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, Task
from celeriac.compat import used
from celeriac.contrib.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from celeriac.contrib.testing.tasks import ping
from celeriac.contrib.testing.worker import start_worker
from celeriac.exceptions import BrokerUnavailable
from celeriac.testing import in_process


@pytest.fixture
def app() -> Iterator[Celeriac]:
    """An app whose servers are not there."""
    before = set(threading.enumerate())
    app = Celeriac("shop", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/1", set_as_current=False)
    yield app
    app.close()
    assert [thread.name for thread in set(threading.enumerate()) - before] == []


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_an_app_is_tested_without_its_servers_and_is_as_it_was_afterwards(app: Celeriac, pool: str) -> None:
    charged: list[int] = []

    @app.task(name="charge")
    def charge(order_id: int) -> int:
        charged.append(order_id)
        return order_id

    @app.task(name="later")
    async def later(order_id: int) -> int:
        charge.delay(order_id)
        return order_id

    with in_process(app, pool=pool) as worker:
        assert charge.delay(1).get(timeout=10) == 1
        later.delay(2)
        worker.wait_until_idle()
        assert charged == [1, 2]

    assert app.conf.broker_url == "redis://127.0.0.1:1/0"
    app.conf.task_publish_timeout = 0.1
    with pytest.raises(BrokerUnavailable):
        charge.delay(3)


def test_one_test_leaves_nothing_to_the_next(app: Celeriac) -> None:
    ran: list[int] = []
    work = app.task(ran.append, name="work")

    with in_process(app, concurrency=1):
        work.apply_async((1,), countdown=3600)
    with in_process(app, concurrency=1) as worker:
        work.delay(2)
        worker.wait_until_idle()

    assert ran == [2]


def test_tasks_defined_after_its_start_are_known_after_a_reload(app: Celeriac) -> None:
    with in_process(app) as worker:
        late = app.task(lambda: "here", name="late")
        worker.reload()

        assert late.delay().get(timeout=10) == "here"


def test_retries_and_hooks_are_the_workers_own(app: Celeriac) -> None:
    told: list[str] = []

    class Telling(Task):
        abstract = True

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(str(exc))

    @app.task(bind=True, base=Telling, name="t", default_retry_delay=0)
    def work(self: Task) -> int:
        if self.request.retries < 2:
            raise self.retry(exc=OSError("away"))
        return self.request.retries

    with in_process(app):
        assert work.delay().get(timeout=10) == 2

    assert told == ["away", "away"]


def test_a_worker_runs_on_any_broker(redis_server: Any) -> None:
    app = Celeriac("shop", broker=redis_server.url, backend=redis_server.url, set_as_current=False)
    add = app.task(lambda x, y: x + y, name="add")

    with start_worker(app, concurrency=2, pool="threads", loglevel="error", queues=("a", "b")) as worker:
        assert worker.loop.queues == ["a", "b"]
        assert add.apply_async((1, 2), queue="b").get(timeout=10) == 3
    app.close()


def test_ping_is_a_task_of_every_app() -> None:
    with in_process(Celeriac("shop", set_as_current=False)):
        pass
    assert ping() == "pong"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"pools": "solo"}, r"does not know pools; it takes .*hostname", id="an unknown option"),
        pytest.param({"pool": "prefork"}, "use solo, threads or asyncio", id="prefork"),
        pytest.param({"pool": "gevent"}, "gevent", id="a pool that is none"),
    ],
)
def test_a_worker_that_cannot_start_says_why(app: Celeriac, options: dict[str, Any], error: str) -> None:
    app.conf.update(broker_url="memory://", result_backend="cache+memory://")

    with pytest.raises(Exception, match=error), start_worker(app, **options):
        pytest.fail("it cannot start")


def test_a_body_that_does_not_end_is_named(app: Celeriac) -> None:
    running, leave = threading.Event(), threading.Event()

    @app.task(name="stuck")
    def stuck() -> None:
        running.set()
        leave.wait(20)

    app.conf.update(broker_url="memory://", result_backend="cache+memory://")
    with (
        pytest.raises(RuntimeError, match=r"did not end within 0\.2 s; running: stuck for"),
        start_worker(app, pool="threads", shutdown_timeout=0.2),
    ):
        stuck.delay()
        assert running.wait(10)
    leave.set()
    for thread in threading.enumerate():
        if thread.name.startswith("celeriac-"):
            thread.join(10)


# -- abortable tasks


def test_a_call_that_is_aborted_sees_it_and_ends_as_it_likes(app: Celeriac) -> None:
    started = threading.Event()

    @app.task(bind=True, base=AbortableTask, name="index")
    def index(self: Any) -> Any:
        for number in range(1000):
            if self.is_aborted():
                self.update_state(state="PROGRESS", meta={"current": number})  # too late: it stays aborted
                return [number, app.AsyncResult(self.request.id).state]
            self.update_state(state="PROGRESS", meta={"current": number})
            started.set()
            time.sleep(0.01)
        return "done"

    with in_process(app):
        result = index.delay()
        assert isinstance(result, AbortableAsyncResult)
        assert started.wait(10)
        result.abort()
        number, state = result.get(timeout=10)

        assert (state, number < 1000) == (ABORTED, True)
        assert (result.state, result.is_aborted()) == ("SUCCESS", False)
        result.abort()  # it has ended
        assert index.AsyncResult(result.id).state == "SUCCESS"


# -- fixtures

USERS_CONFTEST = """
import pytest

pytest_plugins = ("celeriac.contrib.pytest",)

@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_queue": "tests"}

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"pool": "threads", "concurrency": 2}
"""

USERS_TESTS = """
import threading
import pytest
from celeriac import current_app, shared_task
from celeriac.contrib.testing.worker import start_worker

@shared_task
def double(x):
    return 2 * x

def test_a_shared_task(celery_app, celery_worker):
    assert double.delay(4).get(timeout=10) == 8
    assert celery_app.conf.task_default_queue == "tests"
    assert current_app() is celery_app

def test_a_task_of_the_test(celery_app, celery_worker):
    @celery_app.task
    def mul(x, y):
        return x * y
    celery_worker.reload()
    assert mul.delay(4, 4).get(timeout=10) == 16

@pytest.mark.celery(task_always_eager=True)
def test_a_marker(celery_app):
    assert double.delay(4).get() == 8

def test_the_same_under_our_names(celeriac_app, celeriac_worker, celery_app):
    assert celeriac_app is celery_app
    assert double.delay(1).get(timeout=10) == 2
"""

USERS_TRAP = """
import pytest
from celeriac import current_app

@pytest.fixture(scope="session")
def use_celery_app_trap():
    return True

def test_trapped(celery_app):
    with pytest.raises(RuntimeError, match="depends_on_current_app"):
        current_app()

@pytest.mark.usefixtures("depends_on_current_app")
def test_allowed(celery_app):
    assert current_app() is celery_app

def test_of_a_session(celery_session_app, celery_session_worker):
    @celery_session_app.task
    def mul(x, y):
        return x * y
    celery_session_worker.reload()
    assert mul.delay(4, 4).get(timeout=10) == 16
"""


#: A session's worker lives on beside those of single tests, on queues of the same names.
USERS_WORKERS = """
from celeriac import current_app, shared_task

@shared_task
def double(x):
    return 2 * x

def own(app, worker):
    @app.task(name=f"{app.main}.own{id(app)}")
    def own(x):
        return x + 1
    worker.reload()
    assert own.send_many([(n,) for n in range(20)])[-1].get(timeout=10) == 20
    assert [own.delay(n).get(timeout=10) for n in range(20)] == list(range(1, 21))

def test_of_the_session(celery_session_app, celery_session_worker):
    own(celery_session_app, celery_session_worker)

def test_of_a_test(celery_app, celery_worker):
    own(celery_app, celery_worker)
    assert [double.delay(n).get(timeout=10) for n in range(20)] == list(range(0, 40, 2))

def test_of_both(celery_session_app, celery_session_worker, celery_app, celery_worker):
    own(celery_app, celery_worker)
    own(celery_session_app, celery_session_worker)

def test_an_app_of_a_test_with_the_worker_of_the_session(celery_app, celery_session_worker):
    assert current_app() is celery_app
    assert double.delay(4).get(timeout=10) == 8
    assert celery_app.AsyncResult(double.delay(5).id).get(timeout=10) == 10

def test_an_app_without_a_worker(celery_app):
    assert double.delay(4).ready() is False

def test_of_a_test_again(celery_app, celery_worker):
    own(celery_app, celery_worker)

def test_of_the_session_again(celery_session_app, celery_session_worker):
    own(celery_session_app, celery_session_worker)
"""


def test_the_fixtures_of_celery_are_there_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(USERS_CONFTEST)
    (tmp_path / "test_shop.py").write_text(USERS_TESTS)
    (tmp_path / "test_trap.py").write_text(USERS_TRAP)

    assert "7 passed" in passed(tmp_path)


@pytest.mark.parametrize("named", ["", '"broker_url": "memory://", "result_backend": "cache+memory://"'])
def test_workers_of_a_session_and_of_single_tests_do_not_take_each_others_calls(tmp_path: Path, named: str) -> None:
    config = USERS_CONFTEST.replace('{"task_default_queue": "tests"}', f"{{{named}}}")
    (tmp_path / "conftest.py").write_text(config)
    (tmp_path / "test_workers.py").write_text(USERS_WORKERS)

    assert "7 passed" in passed(tmp_path)


def passed(folder: Path) -> str:
    """What pytest says of the tests in the folder, all of which pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "--strict-markers",
        "-p",
        "no:kmock",
        "-p",
        "no:cacheprovider",
    ]

    run = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_brokers_and_stores_of_this_process_that_have_a_name_are_apart_and_shared_by_it() -> None:
    apps = [
        Celeriac(f"app{number}", broker=f"memory:///{name}", backend=f"cache+memory:///{name}", set_as_current=False)
        for number, name in enumerate(["one", "one", "two"])
    ]
    for app in apps:
        app.task(name="whose")(lambda main=app.main: main)

    with start_worker(apps[0]), start_worker(apps[2]):
        called = [apps[place].send_task("whose") for place in (1, 2, 1, 2)]

        assert [handle.get(timeout=10) for handle in called] == ["app0", "app2", "app0", "app2"]
    for app in apps:
        app.close()


def test_the_ping_of_the_kit_and_the_built_in_one_are_no_two_tasks_to_warn_of() -> None:
    """Warnings are errors here."""
    app = Celeriac("kit", broker="memory://", set_as_current=False)
    with used(app):
        assert app.tasks["celery.ping"]() == ping() == "pong"
