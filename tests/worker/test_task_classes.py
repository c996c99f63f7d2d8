"""Tasks that are classes: what registers itself, on which app, when, and how often a task is made."""

import logging
import subprocess
import sys
import types
from typing import Any

import pytest
from processes import wait_until

from celeriac import Celeriac, registry, shared_task
from celeriac.app.definition import registers_itself
from celeriac.broker.deadletters import dead_letters
from celeriac.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered
from celeriac.task import Task
from celeriac.task.base import BaseTask, TaskType
from celeriac.utils.log import get_task_logger

POOLS = ["solo", "threads", "asyncio", "prefork"]


@pytest.fixture
def app() -> Celeriac:
    return Celeriac("shop", broker="memory://")


def test_a_class_with_a_body_is_a_task_of_the_current_app_under_its_module_s_name(app: Celeriac) -> None:
    class AddTask(Task):
        def run(self, x: int, y: int) -> int:
            return x + y

    assert AddTask.name == f"{__name__}.AddTask"
    add = registry.tasks[AddTask.name]
    assert (add(2, 3), add.app, isinstance(add, AddTask), isinstance(AddTask, TaskType)) == (5, app, True, True)
    assert AddTask.name in registry.tasks
    assert BaseTask is Task


def _kind(**own: Any) -> type[Task]:
    return types.new_class("Kind", (Task,), exec_body=lambda body: body.update({"__module__": __name__} | own))


def _needs(self: Task, number: int) -> None: ...
def _takes(self: Task, number: int = 1, *more: int, **named: int) -> None: ...


def _run(self: Task) -> None: ...


@pytest.mark.parametrize(
    ("own", "is_task"),
    [
        pytest.param({"run": _run}, True, id="a run"),
        pytest.param({}, False, id="no run"),
        pytest.param({"run": _run, "abstract": True}, False, id="abstract"),
        pytest.param({"run": _run, "abstract": False}, True, id="not abstract"),
        pytest.param({"run": _run, "__init__": _needs}, False, id="an __init__ that wants arguments"),
        pytest.param({"run": _run, "__init__": _takes}, True, id="an __init__ that takes arguments"),
    ],
)
def test_which_class_registers_itself(app: Celeriac, own: dict[str, Any], is_task: bool) -> None:
    kind = _kind(**own)

    assert registers_itself(kind) is is_task
    assert (f"{__name__}.Kind" in app.tasks) is is_task


def test_neither_abstract_nor_a_name_is_inherited(app: Celeriac) -> None:
    class Base(Task):
        abstract = True
        name = "the.base"
        colour = "red"

        def run(self) -> str:
            return self.colour

    class First(Base):
        pass

    class Second(First):
        name = "explicit"
        colour = "blue"

    assert "the.base" not in app.tasks
    assert (First.abstract, app.tasks[First.name](), app.tasks["explicit"]()) == (False, "red", "blue")
    assert First.name == f"{__name__}.First"


def test_a_task_is_made_once_whoever_registers_it_first(app: Celeriac) -> None:
    made = []

    class Counted(Task):
        def __init__(self) -> None:
            made.append(self)

        def run(self) -> int:
            return len(made)

    first = app.register_task(Counted())
    assert app.register_task(Counted) is first
    app.finalize()
    app.finalize()

    assert app.tasks[Counted.name] is first
    first.delay()
    assert made == [first]


def test_a_task_with_arguments_of_its_own_is_registered_by_hand(app: Celeriac) -> None:
    class Add(Task):
        def __init__(self, more: int) -> None:
            self.more = more

        def run(self, x: int) -> int:
            return x + self.more

    assert Add.name not in app.tasks
    assert app.register_task(Add(5)).delay is not None
    assert app.tasks[Add.name](1) == 6


def test_a_class_derived_from_an_app_s_own_base_is_that_app_s_alone(app: Celeriac) -> None:
    other = Celeriac("other", broker="memory://", set_as_current=False)

    class Theirs(other.Task):
        def run(self) -> None: ...

    assert Theirs.name in other.tasks
    assert Theirs.name not in app.tasks
    assert other.Task is other.Task
    assert app.Task is not other.Task


def test_a_class_that_was_registered_on_another_app_by_hand_stays_there(app: Celeriac) -> None:
    class Mine(Task):
        def run(self) -> None: ...

    other = Celeriac("other", broker="memory://", set_as_current=False)
    kept = other.register_task(Mine)

    assert Mine.name not in app.tasks
    assert kept.app is other


@pytest.mark.parametrize("how", ["class", "path"])
def test_an_app_s_base_is_given_as_a_class_or_its_path(how: str) -> None:
    app = Celeriac("shop", task_cls=Coloured if how == "class" else f"{__name__}:Coloured", set_as_current=False)

    assert app.task(lambda: 1, name="t").colour == "red"
    assert issubclass(app.Task, Coloured)


class Coloured(Task):
    abstract = True
    colour = "red"


sys.modules.setdefault(__name__, sys.modules[Coloured.__module__])


@pytest.mark.parametrize("wrong", ["nowhere.Base", "celeriac:Celeriac", dict], ids=str)
def test_a_base_that_is_none_is_refused(wrong: Any) -> None:
    app = Celeriac("shop", task_cls=wrong, set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match=r"cannot import|no subclass"):
        app.task(lambda: 1, name="t")


def test_no_app_is_made_by_defining_tasks_and_the_first_one_made_has_them() -> None:
    """In an interpreter of its own: what is defined when there is no app."""
    program = """
from celeriac import compat
from celeriac.task import Task, task

@task
def add(x, y):
    return x + y

class Sub(Task):
    def run(self, x, y):
        return x - y

assert compat._current is None
from celeriac import Celeriac, registry
app = Celeriac("shop", broker="memory://")
assert registry.tasks[Sub.name](3, 1) == 2, Sub.name
assert add(1, 2) == 3 and add.app is app and Sub.name == "shop.Sub" and add.name == "shop.add", (Sub.name, add.name)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_any_app_the_default_one_is_made_when_it_is_needed() -> None:
    program = """
from celeriac.task import task
@task(name="t")
def t(): return 4
assert t() == 4
from celeriac import current_app
assert current_app().tasks["t"]() == 4
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda app: app.task(app.task(lambda: 1, name="t")), id="@app.task twice"),
        pytest.param(lambda app: shared_task(shared_task(_shared)), id="@shared_task twice"),
        pytest.param(lambda app: app.task(shared_task(_shared)), id="@app.task over @shared_task"),
        pytest.param(
            lambda app: app.task(_wrapped(app.task(lambda: 1, name="t"))), id="@task, a decorator, and @task again"
        ),
    ],
)
def test_a_task_that_is_made_a_task_again_is_refused_when_it_is_defined(app: Celeriac, wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"task already|applied twice"):
        wrong(app)


def _shared() -> None: ...


def _wrapped(function: Any) -> Any:
    def outer() -> None: ...

    outer.__wrapped__ = function  # type: ignore[attr-defined]
    return outer


def test_a_decorator_above_task_is_found(app: Celeriac) -> None:
    module = types.ModuleType("shop_tasks")
    module.app = app  # type: ignore[attr-defined]
    exec(
        "import functools\n"
        "def decorator(f):\n    @functools.wraps(f, assigned=('__name__',), updated=())\n    def outer(): return f()\n    return outer\n"
        "@decorator\n@app.task\ndef wrong(): pass\n"
        "@app.task\n@decorator\ndef right(): pass\n",
        vars(module),
    )
    sys.modules["shop_tasks"] = module
    try:
        [said] = app.misplaced_decorators()
    finally:
        del sys.modules["shop_tasks"]

    assert "task shop_tasks.wrong" in said
    assert "top" in said


def test_the_first_of_two_tasks_of_one_name_stays_and_the_second_is_told_of(app: Celeriac) -> None:
    def other() -> None: ...

    other.__module__ = "another"
    first = app.task(lambda: 1, name="t")
    assert app.task(lambda: 2, name="t") is first  # the same module once more: it was imported again

    with pytest.warns(DuplicateTaskNameWarning, match="task t is defined in .* and in another"):
        assert app.task(other, name="t") is first
    with pytest.warns(DuplicateTaskNameWarning, match="task t"):
        assert app.register_task(_kind(run=_run, name="t", __module__="another")) is first


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param(lambda app: app.register_task(dict), "no task", id="no task"),
        pytest.param(lambda app: app.register_task(_kind()), "no `run`", id="no body"),
    ],
)
def test_what_cannot_be_registered_says_why(app: Celeriac, wrong: Any, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        wrong(app)


def test_hooks_of_the_definition_are_called(app: Celeriac) -> None:
    bound = []

    class Shadowed(Task):
        @classmethod
        def on_bound(cls, app: Any) -> None:
            bound.append(app)

        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"shadowed-{args[0]}"

        def run(self, number: int) -> None: ...

    sent = []
    task_ = app.tasks[Shadowed.name]
    app.producer.publish = sent.append  # type: ignore[method-assign]
    task_.delay(3)
    task_.apply_async((4,), shadow="mine")

    assert bound == [app]
    assert [message.headers["shadow"] for message in sent] == ["shadowed-3", "mine"]


def test_the_registry_is_a_mapping_of_the_current_app_s_tasks(app: Celeriac) -> None:
    app.task(lambda: 1, name="one")

    assert registry.tasks["one"]() == 1
    assert set(registry.tasks) == set(app.tasks)
    assert len(registry.tasks) == len(app.tasks)
    with pytest.raises(NotRegistered, match="two"):
        registry.tasks["two"]
    with pytest.raises(KeyError):
        registry.tasks["two"]


def test_a_task_s_logger_knows_the_call(app: Celeriac, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @app.task(bind=True, name="t")
    def logs(self: Any) -> None:
        self.get_logger().info("in the task")
        get_task_logger("module").info("in the module")

    logs.apply(task_id="i")
    get_task_logger("module").info("outside")

    found = [(record.name, record.task_name, record.task_id) for record in caplog.records]  # type: ignore[attr-defined]
    assert found == [
        ("celeriac.task.t", "t", "i"),
        ("celeriac.task.module", "t", "i"),
        ("celeriac.task.module", None, None),
    ]


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_is_made_once_in_each_process_and_keeps_its_state(site: Any, pool: str) -> None:
    worker = site.worker("-P", pool, "-c", "2", app="classy")
    ask = site.client()
    name = "classy.NaiveAuthenticateServer"

    answers = [ask.send_task(name, ["george", word]).get(timeout=20) for word in ["password", "wrong"] * 4]
    dbs = {ask.send_task("classy.process_rows").get(timeout=20) for _ in range(6)}

    lines = site.ledger.path.read_text().splitlines()
    inits = [int(line.split()[-1]) for line in lines if line.startswith("init")]
    connects = [int(line.split()[-1]) for line in lines if line.startswith("connect")]
    assert [right for right, *_ in answers] == [True, False] * 4
    assert len(inits) == len(set(inits))
    assert {pid for *_, pid in answers} <= set(inits)
    assert sorted(connects) == sorted(dbs)
    by_process: dict[int, list[int]] = {}
    for _, asked, pid in answers:
        by_process.setdefault(pid, []).append(asked)
    assert all(asked == list(range(1, len(asked) + 1)) for asked in by_process.values())
    assert (worker.pid in {pid for *_, pid in answers}) is (pool != "prefork")


@pytest.mark.parametrize(
    ("site", "pool"),
    [*(("redis", pool) for pool in POOLS), ("rabbitmq", "prefork"), ("rabbitmq", "threads")],
    indirect=["site"],
)
@pytest.mark.parametrize("kind", ["Executes", "Late"], ids=["early ack", "late ack"])
def test_a_task_s_own_execute_is_called_by_the_worker_once_a_message_and_decides(
    site: Any, pool: str, kind: str
) -> None:
    worker = site.worker("-P", pool, "-c", "1", "-n", "node@test", app="classy", task_acks_late="0", task_lease="30")
    client = site.client()
    name = f"classy.{kind}"

    sent = {
        what: client.send_task(name, kwargs={"what": what}) for what in ["ignore", "reject", "fail", "forget", "run"]
    }
    pid = sent["run"].get(timeout=20)
    with pytest.raises(KeyError, match="execute"):
        sent["fail"].get(timeout=5)
    wait_until(lambda: len(dead_letters(client.broker_address(), "celery")) == 2, what="the dead letters")

    reasons = sorted(str(letter) for letter in dead_letters(client.broker_address(), "celery"))
    lines = [line.split() for line in site.ledger.path.read_text().splitlines() if "init" not in line]
    executed = [line for line in lines if line[0] == "execute"]
    assert [line[1:4] for line in executed] == [[what, name, handle.id] for what, handle in sent.items()]
    assert {(line[4], line[5], line[6], line[7]) for line in executed} == {(str(worker.pid), pool, "20", "None")}
    assert {line[8] for line in executed} == {"node@test"}
    assert [line for line in lines if line[0] == "ran"] == [["ran", "run", str(pid)]]
    assert any("not today" in reason for reason in reasons)
    assert any("without calling super().execute()" in reason for reason in reasons)
    assert (sent["ignore"].state, worker.terminate(timeout_s=10)) == ("PENDING", 0)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_task_knows_the_log_s_level_and_file_and_its_lines_name_the_call(site: Any, tmp_path: Any, pool: str) -> None:
    log = tmp_path / "worker.txt"
    site.worker("-P", pool, "-c", "1", "-n", "node@test", "-l", "info", "-f", str(log), app="classy", await_ready=False)
    handle = site.client().send_task("classy.context")

    assert handle.get(timeout=20) == {"loglevel": logging.INFO, "logfile": str(log), "hostname": "node@test"}
    wait_until(lambda: "in the body" in log.read_text(), what="the line")
    [line] = [line for line in log.read_text().splitlines() if "in the body" in line]
    assert f"classy.context[{handle.id}]" in line
