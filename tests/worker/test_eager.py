"""Calls that run where they are made: what a worker would do, they do, and what it would refuse, they refuse."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, Task, signals
from celeriac.exceptions import ContentDisallowed, EncodeError, Ignore, NotRegistered, Reject


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


def test_arguments_and_value_are_what_a_worker_would_see(app: Celeriac) -> None:
    seen: list[Any] = []

    @app.task(name="t")
    def work(point: Any, **named: Any) -> Any:
        seen.append((point, named))
        return {1: ("a", "b")}

    value = work.apply(((1, 2),), {"tags": ("x",)}).get()

    assert seen == [([1, 2], {"tags": ["x"]})]
    assert value == {"1": ["a", "b"]}


def test_what_could_not_be_sent_is_refused_and_what_could_not_be_stored_has_failed(app: Celeriac) -> None:
    task = app.task(lambda x=None: object(), name="t")

    with pytest.raises(EncodeError, match="object"):
        task.apply((object(),))
    assert isinstance(task.apply().result, EncodeError)
    assert task.apply(ignore_result=True).successful()


def test_a_serializer_that_workers_do_not_accept_is_refused(app: Celeriac) -> None:
    task = app.task(lambda: 1, name="t", serializer="pickle")

    assert isinstance(task.apply().result, ContentDisallowed)
    with pytest.raises(ContentDisallowed):
        task.apply(throw=True)
    app.conf.accept_content = ["json", "pickle"]
    assert task.apply().get() == 1


def test_the_request_is_complete(app: Celeriac) -> None:
    @app.task(bind=True, name="t")
    def look(self: Task, x: int) -> Any:
        request = self.request
        return [
            request.id, request.task, list(request.args), request.kwargs, request.is_eager, request.retries, request.shadow,
            request.color, request.hostname is not None, request.delivery_info["is_eager"], request.root_id,
            request.delivery_info["routing_key"],
        ]  # fmt: skip

    found = look.apply(
        (1,), {}, task_id="a1", shadow="s", headers={"color": "red"}, queue="q", countdown=60, expires=-1
    )

    assert found.get() == ["a1", "t", [1], {}, True, 0, "s", "red", True, True, "a1", "q"]


class Telling(Task):
    """Writes down what its hooks are told."""

    told: list[Any]

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.told.append("before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.told.append(("on_success", retval))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.told.append(("on_retry", str(exc)))

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.told.append(("on_failure", str(exc), "ValueError" in einfo.traceback))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.told.append(("after_return", status))


def test_hooks_and_signals_fire_as_in_a_worker(app: Celeriac) -> None:
    told: list[Any] = []

    @app.task(base=Telling, bind=True, name="t", told=told)
    def work(self: Task, fail: bool) -> str:
        if self.request.retries == 0:
            raise self.retry(exc=OSError("away"))
        if fail:
            raise ValueError("no")
        return "yes"

    heard: list[str] = []
    receivers = []
    for name in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
        signal = getattr(signals, name)

        def hear(name: str = name, **_: Any) -> None:
            heard.append(name)

        signal.connect(hear, weak=False)
        receivers.append((signal, hear))
    try:
        work.apply((False,))
        work.apply((True,))
    finally:
        for signal, hear in receivers:
            signal.disconnect(hear)

    retried = ["before_start", ("on_retry", "away"), ("after_return", "RETRY"), "before_start"]
    assert told == [
        *retried, ("on_success", "yes"), ("after_return", "SUCCESS"),
        *retried, ("on_failure", "no", True), ("after_return", "FAILURE"),
    ]  # fmt: skip
    first = ["task_prerun", "task_retry", "task_postrun", "task_prerun"]
    assert heard == [*first, "task_success", "task_postrun", *first, "task_failure", "task_postrun"]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_result_is_stored_where_the_settings_say_so(app: Celeriac, ignored: bool) -> None:
    app.conf.task_store_eager_result = True
    work = app.task(lambda x: 6 // x, name="t", ignore_result=ignored)

    good, bad = work.apply((2,)), work.apply((0,))

    assert (good.get(), type(bad.result)) == (3, ZeroDivisionError)
    states = [app.AsyncResult(result.id).state for result in (good, bad)]
    assert states == (["PENDING", "PENDING"] if ignored else ["SUCCESS", "FAILURE"])


def test_without_that_nothing_is_stored(app: Celeriac) -> None:
    result = app.task(lambda: 1, name="t").apply()

    assert app.AsyncResult(result.id).state == "PENDING"


def test_what_is_linked_runs_after_it(app: Celeriac) -> None:
    ran: list[Any] = []
    app.task(lambda *args: ran.append(("after", args)), name="after")
    app.task(lambda task_id: ran.append(("error", len(task_id))), name="on_error")
    work = app.task(lambda x: 6 // x, name="t")
    link = {"task": "after", "args": [5], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    link_error = {**link, "task": "on_error", "args": []}

    work.apply((2,), link=link, link_error=link_error)
    work.apply((0,), link=link, link_error=link_error)

    assert ran == [("after", (3, 5)), ("error", 36)]
    with pytest.raises(NotRegistered):
        work.apply((2,), link={**link, "task": "nowhere"})


@pytest.mark.parametrize("error", [Ignore(), Reject("no", requeue=True)], ids=["ignore", "reject"])
def test_a_task_that_steers_ends(app: Celeriac, error: Exception) -> None:
    @app.task(name="t")
    def steer() -> None:
        raise error

    result = steer.apply(throw=True)

    assert (result.state, result.get()) == ("IGNORED", None)


def test_an_interrupt_ends_whoever_calls_and_an_exit_the_task(app: Celeriac) -> None:
    @app.task(name="t")
    def stop(kind: str) -> None:
        raise KeyboardInterrupt if kind == "interrupt" else SystemExit(3)

    with pytest.raises(KeyboardInterrupt):
        stop.apply(("interrupt",))
    assert isinstance(stop.apply(("exit",)).result, RuntimeError)


def test_coroutines_run_with_and_without_a_loop_here_and_leave_no_thread(app: Celeriac) -> None:
    @app.task(name="t")
    async def work(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    async def main() -> list[Any]:
        return [work.apply((2,)).get(), await work.apply((3,)), await work.apply((4,)).aget()]

    before = threading.active_count()
    assert work.apply((1,)).get() == 2
    assert asyncio.run(main()) == [3, 4, 5]
    assert threading.active_count() == before


def test_an_app_that_is_always_eager_is_so_for_coroutines(app: Celeriac) -> None:
    app.conf.task_always_eager = True

    @app.task(name="t")
    def add(x: int, y: int) -> int:
        return x + y

    async def main() -> Any:
        return await (await add.adelay(1, y=2))

    assert asyncio.run(main()) == 3


def test_calls_within_calls_have_requests_of_their_own(app: Celeriac) -> None:
    app.conf.task_always_eager = True

    @app.task(bind=True, name="inner")
    def inner(self: Task) -> Any:
        return [self.request.id, self.request.parent_id, self.request.root_id]

    @app.task(bind=True, name="outer")
    def outer(self: Task) -> Any:
        return [inner.delay().get(), self.request.id]

    (_, parent, root), own = outer.apply(task_id="o").get()

    assert (parent, root, own) == ("o", "o", "o")
