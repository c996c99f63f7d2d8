"""What code that was written for Celery does with apps and tasks beyond defining and calling them."""

import functools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import RedisServer

import celeriac
from celeriac import Celeriac, Celery, Task, compat, current_app, current_task
from celeriac.exceptions import Retry
from celeriac.task import current


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celeriac:
    monkeypatch.setattr(compat, "_current", None)
    monkeypatch.setattr(compat, "_shared", [])
    return Celery("shop", broker="memory://", backend="cache+memory://")


def test_the_current_app_is_used_by_its_name_without_a_call(app: Celeriac) -> None:
    task = app.task(lambda: 1, name="t")

    assert current_app.main == "shop"
    assert current_app.tasks["t"] is task
    assert isinstance(current_app, Celery)
    assert current_app == app
    assert current_app._get_current_object() is current_app() is app
    assert current_app.send_task("t").id
    current_app.conf.task_default_queue = "other"
    assert app.conf.task_default_queue == "other"

    other = Celery("other", broker="memory://", set_as_current=False)
    other.set_current()
    assert current_app.main == "other"


def test_the_current_task_is_used_by_its_name_without_a_call(app: Celeriac) -> None:
    @app.task(name="t")
    def look() -> Any:
        return [bool(current_task), current_task.name, current.request.id, app.current_task.name, app.current_worker_task.name, inner()]  # fmt: skip

    @app.task(name="inner")
    def inner() -> Any:
        return [app.current_task.name, app.current_worker_task.name]

    assert look.apply(task_id="a1").get() == [True, "t", "a1", "t", "t", ["inner", "t"]]
    assert not current_task
    assert app.current_task is app.current_worker_task is None


def test_a_test_of_a_body_says_what_its_request_is(app: Celeriac) -> None:
    @app.task(bind=True, name="t", max_retries=2)
    def fetch(self: Any) -> Any:
        if self.request.retries < 2:
            raise self.retry(exc=OSError("away"))
        return self.request.id, self.request.args, self.request.color

    fetch.push_request(id="a1", args=(1,), retries=1, called_directly=False, color="red")
    try:
        with pytest.raises(Retry):
            fetch.run()
        fetch.request.update(retries=2)
        assert fetch.run() == ("a1", (1,), "red")
        fetch.push_request(id="a2")
        assert (fetch.request.id, fetch.request.called_directly) == ("a2", True)
        fetch.pop_request()
        assert fetch.request.id == "a1"
    finally:
        fetch.pop_request()
    assert fetch.request.id is None


def test_what_apply_async_takes_may_be_given_by_place(app: Celeriac) -> None:
    app.conf.task_always_eager = True
    heard: list[Any] = []

    @app.task(name="heard")
    def hear(value: Any) -> None:
        heard.append(value)

    double = app.task(lambda x: 2 * x, name="double")

    assert double.apply_async((4,), {}, "my-id", None, hear.s()).id == "my-id"
    assert heard == [8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("ab",), r"t: args must be a list or a tuple, such as \('ab',\), not str"),
        (({1, 2},), "t: args must be a list or a tuple"),
        ((7,), r"t: args must be a list or a tuple, such as \(7,\), not int"),
        (((), [("x", 1)]), "t: kwargs must be a mapping of names to values, not list"),
    ],
)
def test_arguments_without_places_or_names_are_refused(app: Celeriac, call: Any, message: str) -> None:
    task = app.task(lambda *args, **kwargs: None, name="t")

    with pytest.raises(TypeError, match=message):
        task.apply_async(*call)


def test_the_arguments_of_a_call_stay_the_callers(app: Celeriac) -> None:
    app.conf.task_always_eager = True
    own = {"x": [1]}

    @app.task(name="t")
    def change(**named: Any) -> None:
        named["x"].append(2)

    change.apply_async((), own)

    assert own == {"x": [1]}


def test_a_task_has_its_functions_names(app: Celeriac) -> None:
    @app.task
    def fetch() -> None:
        """Fetch."""

    assert (fetch.__name__, fetch.__doc__, fetch.__module__) == ("fetch", "Fetch.", __name__)  # type: ignore[attr-defined]
    assert functools.wraps(fetch)(lambda: None).__name__ == "fetch"


def test_what_else_an_app_has(app: Celeriac) -> None:
    class Sum(Task):
        abstract = True

        def run(self, x: int) -> int:
            return x

    assert app.now().tzinfo is app.timezone
    assert not app.finalized
    assert app.register_task(Sum(), name="sum").name == "sum"
    assert app.tasks["sum"](3) == 3
    assert app.finalized
    assert app.configured
    assert Celery(changes={"task_acks_late": True}, set_as_current=False).conf.task_acks_late is True
    assert len(celeriac.uuid()) == 36


def test_tasks_of_modules_are_looked_for_where_there_are_any(
    app: Celeriac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "looked_for"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "jobs.py").write_text("from celeriac import shared_task\n@shared_task\ndef found(): ...\n")
    (tmp_path / "no_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    app.autodiscover_tasks(["no_package"])
    app.autodiscover_tasks(["looked_for"], related_name="jobs", force=True)

    assert "looked_for.jobs.found" in app.tasks
    assert app.conf.include == ["looked_for.jobs"]


def test_a_program_may_be_its_own_worker(
    redis_server: RedisServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "own_worker.py"
    program.write_text(
        "from celeriac import Celery\n"
        f"app = Celery('own_worker', broker={redis_server.url!r}, backend={redis_server.url!r})\n"
        "@app.task\n"
        "def double(x):\n"
        "    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    app.worker_main(['worker', '-P', 'solo', '--loglevel=INFO'])\n"
    )
    client = Celery("own_worker", broker=redis_server.url, backend=redis_server.url, set_as_current=False)
    with client, subprocess.Popen([sys.executable, str(program)]) as worker:
        try:
            assert client.send_task("own_worker.double", (4,)).get(timeout=30) == 8
        finally:
            worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


def test_worker_main_wants_the_command_s_name(app: Celeriac) -> None:
    with pytest.raises(ValueError, match=r"name the command, such as worker_main\(\['worker'"):
        app.worker_main(["-l", "info"])
