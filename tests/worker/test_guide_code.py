"""What the tasks guide's code does, in detail: its blocks with something beside them to look at, in the guide's order.

The blocks as they are written stand in test_guide_blocks.py, under a real worker. Here modules are made as the guide's reader would write them
(`tasks.py`), and run in this process: `work` takes what was sent from the memory broker and hands it to a worker's executor.
"""

import json
import logging
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu.serialization import registry
from processes import wait_until

from celeriac import Celeriac, compat
from celeriac.app.context import log_file
from celeriac.broker.codec import content_types
from celeriac.broker.consumer import open_consumer
from celeriac.policy.outcome import Failed, Outcome, RetryAsked, Succeeded
from celeriac.policy.settlement import Rules, settle
from celeriac.testing import in_process
from celeriac.worker.executor import Executor, Job

#: What the guide's modules import from their project.
FAKES = {
    "twitter": "class Twitter:\n    class FailWhaleError(Exception): pass\n    class LoginError(Exception): pass\n"
    "    tweets = []\n    down = False\n    def __init__(self, oauth): pass\n"
    "    def update_status(self, tweet):\n        if self.down: raise Twitter.FailWhaleError('whale')\n        self.tweets.append(tweet)\n",
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celeriac]:
    """An app on a queue of its own, without the tasks of the guide's other modules called `tasks`."""
    monkeypatch.setattr(compat, "_shared", [])
    with Celeriac("shop", broker="memory://", backend="memory://", task_default_queue=str(uuid4())) as app:
        yield app


@pytest.fixture
def module(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module out of a block of the guide's code; named `tasks`."""
    for path, source in FAKES.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules or end == len(parts):
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        exec(source, vars(sys.modules[path]))

    def make(source: str) -> Any:
        made = types.ModuleType("tasks")
        monkeypatch.setitem(sys.modules, "tasks", made)
        exec(compile(textwrap.dedent(source), "tasks.py", "exec"), vars(made))
        return made

    return make


@pytest.fixture
def work(app: Celeriac) -> Iterator[Callable[[], Outcome]]:
    """Run the next message as a worker does; its outcome."""
    app.finalize()
    consumer = open_consumer(app.broker_address(), [app.conf.task_default_queue], node="w@h", lease_s=5.0, prefetch=1)
    backend = app.backend
    executor = Executor(app, hostname="w@h", accept=content_types(["json"]), encode=backend.encode, store=backend.store)

    def run() -> Outcome:
        found: list[Any] = []
        wait_until(lambda: found.extend(consumer.claim(1)) or found)
        [message] = found
        outcome = executor.execute(Job(app.tasks[message.headers["task"]], message, Rules())).outcome
        settled = settle(outcome, message.headers, Rules(), queue=message.queue, hostname="w@h", now=time.time())
        if settled.store is not None:
            assert backend.store([(settled.store, settled.encoded)]) == [None]
        return outcome

    yield run
    consumer.close()


#: The guide: "must always contain the following attributes".
CONTEXT = {
    "id", "taskset", "args", "kwargs", "retries", "is_eager", "logfile", "loglevel", "hostname", "delivery_info",
}  # fmt: skip


def test_what_the_request_must_always_contain(app: Celeriac, module: Any, work: Any) -> None:
    tasks = module("""
        from celeriac.task import task

        seen = {}

        @task
        def look(x, y=0):
            for name in NAMES:
                seen[name] = getattr(look.request, name)
    """)
    tasks.NAMES = CONTEXT

    outside = {name: getattr(tasks.look.request, name) for name in CONTEXT}
    handle = tasks.look.apply_async((1,), {"y": 2}, group_id="set", retries=2)
    assert isinstance(work(), Succeeded)
    seen = dict(tasks.seen)
    tasks.look.apply((1,), {"y": 2})

    info = seen.pop("delivery_info")
    assert (list(seen.pop("args")), seen.pop("loglevel")) == (
        [1],
        logging.getLogger("celeriac.task").getEffectiveLevel(),
    )
    assert seen == {
        "id": handle.id, "taskset": "set", "kwargs": {"y": 2}, "retries": 2, "is_eager": False, "logfile": log_file(), "hostname": "w@h"
    }  # fmt: skip
    assert {"exchange", "routing_key"} <= set(info)
    assert tasks.seen["is_eager"] is True
    assert (outside["id"], outside["retries"], outside["is_eager"], outside["delivery_info"]) == (None, 0, False, {})


def test_retry(module: Any, work: Any) -> None:
    tasks = module("""
        from celeriac.task import task
        from twitter import Twitter

        @task
        def send_twitter_status(oauth, tweet):
            try:
                twitter = Twitter(oauth)
                twitter.update_status(tweet)
            except (Twitter.FailWhaleError, Twitter.LoginError) as exc:
                send_twitter_status.retry(exc=exc)
    """)

    tasks.send_twitter_status.delay("oauth", "hello")
    assert isinstance(work(), Succeeded)
    tasks.Twitter.down = True
    tasks.send_twitter_status.delay("oauth", "again")
    asked = work()
    tasks.send_twitter_status.apply_async(("oauth", "again"), retries=3)
    exceeded = work()

    assert tasks.Twitter.tweets == ["hello"]
    assert isinstance(asked, RetryAsked)
    assert isinstance(asked.error, tasks.Twitter.FailWhaleError)
    assert isinstance(exceeded, Failed)
    assert isinstance(exceeded.error, tasks.Twitter.FailWhaleError)


def test_a_custom_retry_delay(module: Any, work: Any) -> None:
    tasks = module("""
        from celeriac.task import task

        @task(default_retry_delay=30 * 60)  # retry in 30 minutes.
        def add(x, y):
            try:
                raise OSError("...")
            except Exception as exc:
                add.retry(exc=exc, countdown=60)  # override the default and
                                                  # retry in 1 minute
    """)

    tasks.add.delay(1, 2)
    asked = work()

    assert tasks.add.default_retry_delay == 1800
    assert isinstance(asked, RetryAsked)
    assert 55 < asked.due_at - time.time() <= 60


def test_custom_states(module: Any, work: Any) -> None:
    tasks = module("""
        from celeriac.task import task

        @task
        def upload_files(filenames):
            for i, file in enumerate(filenames):
                upload_files.update_state(state="PROGRESS",
                    meta={"current": i, "total": len(filenames)})
                seen(upload_files.AsyncResult(upload_files.request.id))
    """)
    states: list[Any] = []
    tasks.seen = lambda handle: states.append((handle.state, handle.info, handle.ready()))

    tasks.upload_files.delay(["a", "b"])
    assert isinstance(work(), Succeeded)

    assert states == [("PROGRESS", {"current": number, "total": 2}, False) for number in range(2)]


def test_abstract_classes_and_handlers(module: Any, work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = module("""
        from celeriac.task import Task, task

        class Database:
            opened = 0
            @classmethod
            def connect(cls):
                cls.opened += 1
                return cls

        class DatabaseTask(Task):
            abstract = True
            _db = None

            @property
            def db(self):
                if self._db is None:
                    self._db = Database.connect()
                return self._db

        class DebugTask(DatabaseTask):
            abstract = True

            def after_return(self, *args, **kwargs):
                print("Task returned: %r" % (self.request, ))

        @task(base=DebugTask)
        def add(x, y):
            assert add.db is add.db
            return x + y
    """)

    handle = tasks.add.delay(1, 2)
    assert isinstance(work(), Succeeded)
    tasks.add.delay(1, 2)
    assert isinstance(work(), Succeeded)

    assert tasks.Database.opened == 1
    assert capsys.readouterr().out.startswith(f"Task returned: <Request: {handle.id}")


def test_how_it_works(module: Any, app: Celeriac) -> None:
    tasks = module("""
        from celeriac import registry
        from celeriac import task
        from celeriac.task import Task

        class MyTask(Task):
            abstract = True

            def run(self): return "run"

        class Inheriting(MyTask):
            pass
    """)

    names = set(tasks.registry.tasks)
    assert {
        "celery.delete_expired_task_meta", "celery.task.http.HttpDispatchTask", "celery.map_async", "celery.ping", "tasks.Inheriting"
    } <= names  # fmt: skip
    assert "tasks.MyTask" not in names
    assert "tasks.Inheriting" in repr(tasks.registry.tasks)
    assert "celery.execute_remote" not in names


def test_a_task_set(module: Any, work: Any) -> None:
    """The guide names taskset ids and `tasksetresult.join()`; the code is that of the guide to sets of its day."""
    tasks = module("""
        from celeriac.task import task
        from celeriac.task.sets import TaskSet

        @task
        def add(x, y):
            return x + y

        seen = []

        @task
        def which():
            seen.append(which.request.taskset)
    """)

    job = tasks.TaskSet(tasks=[tasks.add.subtask((number, number)) for number in range(5)])
    result = job.apply_async()
    assert all(isinstance(work(), Succeeded) for _ in range(5))
    named = tasks.TaskSet(tasks=[tasks.which.subtask()]).apply_async(taskset_id="my-set")
    assert isinstance(work(), Succeeded)

    assert (job.total, result.ready(), result.successful(), result.completed_count()) == (5, True, True, 5)
    assert result.join(timeout=5) == [0, 2, 4, 6, 8]
    assert tasks.seen == ["my-set"] == [named.id]
    assert tasks.TaskSet(tasks=[tasks.add.subtask((1, 1))]).apply().join() == [2]


def test_import_paths_of_the_guide_s_day() -> None:
    from celeriac import datastructures, decorators, states
    from celeriac.app import task as tasks
    from celeriac.decorators import periodic_task, task
    from celeriac.result import AsyncResult, TaskSetResult
    from celeriac.task import PeriodicTask, Task, base, sets
    from celeriac.worker import executor

    assert (base.Task, base.BaseTask, tasks.Task) == (Task, Task, Task)
    assert {"FAILURE", "REVOKED"} == states.FAILURE_STATES
    assert datastructures.ExceptionInfo is executor.ExceptionInfo
    assert all([decorators, periodic_task, task, PeriodicTask, sets.TaskSet, sets.subtask, AsyncResult, TaskSetResult])


#: Of the guide, and of the reference of `BaseTask` that it points to.
ATTRIBUTES = {
    "name", "request", "abstract", "max_retries", "default_retry_delay", "rate_limit", "time_limit", "soft_time_limit", "ignore_result",
    "store_errors_even_if_ignored", "send_error_emails", "error_whitelist", "serializer", "backend", "acks_late", "track_started", "queue",
    "exchange", "routing_key", "mandatory", "immediate", "priority", "delivery_mode", "expires", "app",
}  # fmt: skip
METHODS = {
    "run", "delay", "apply_async", "apply", "retry", "update_state", "get_logger", "AsyncResult", "subtask", "execute", "after_return",
    "on_failure", "on_retry", "on_success",
}  # fmt: skip


def test_every_attribute_and_method_that_the_guide_names_is_there(app: Celeriac) -> None:
    task = app.task(lambda: None, name="t")

    assert {name for name in ATTRIBUTES if not hasattr(task, name)} == set()
    assert {name for name in METHODS if not callable(getattr(task, name, None))} == set()


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "reversed"])
def test_a_task_is_written_as_it_says_by_any_serializer_that_kombu_knows(app: Celeriac, serializer: str) -> None:
    registry.register(
        "reversed", lambda value: json.dumps(value)[::-1], lambda text: json.loads(text[::-1]), "application/x-reversed", "utf-8"
    )  # fmt: skip
    app.conf.accept_content = ["json", "yaml", "pickle", "reversed"]
    add = app.task(lambda x, y: x + y, name="add", serializer=serializer)

    try:
        add.delay(2, 3)
        consumer = open_consumer(
            app.broker_address(), [app.conf.task_default_queue], node="w@h", lease_s=5.0, prefetch=1
        )
        [message] = consumer.claim(1)
        consumer.close()
        with in_process(app):
            assert add.delay(2, 3).get(timeout=10) == 5
        assert message.content_type == registry.name_to_type[serializer]
    finally:
        registry.unregister("reversed")
