"""A handle: what it knows of its call, how it is written down and found again, and what came of it."""

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import Celeriac, compat, states
from celeriac.exceptions import IncompleteStream, TaskRevokedError
from celeriac.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)
from celeriac.wire.result import ResultMeta, exception_to_wire

DONE = "2026-11-22T11:00:00+00:00"


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    with compat.used(app):
        yield app
    app.close()


def store(app: Celeriac, task_id: str, result: Any = None, **more: Any) -> AsyncResult[Any]:
    app.backend.store([(ResultMeta(task_id, more.pop("status", states.SUCCESS), result, **more), None)])
    return app.AsyncResult(task_id)


def test_wait_is_get() -> None:
    assert AsyncResult.wait is AsyncResult.get
    assert EagerResult.wait is EagerResult.get


def test_an_id_alone_is_a_handle_of_the_current_app(app: Celeriac) -> None:
    store(app, "a1", 5)

    handle = AsyncResult("a1")

    assert (handle.get(), handle.app, handle.backend) == (5, app, app.backend)
    with pytest.raises(TypeError):
        AsyncResult("a1", colour="red")  # type: ignore[call-arg]


def test_what_the_store_knows_of_the_call_is_there(app: Celeriac) -> None:
    extra = {"name": "add", "args": "(1,)", "kwargs": "{}", "worker": "w@h", "retries": 2, "queue": "q"}
    handle = store(app, "a1", 5, date_done=DONE, extra=extra)

    found = [getattr(handle, name) for name in ("name", "args", "kwargs", "worker", "retries", "queue")]

    assert found == ["add", "(1,)", "{}", "w@h", 2, "q"]
    assert handle.date_done == datetime(2026, 11, 22, 11, tzinfo=UTC)
    unknown = app.AsyncResult("nothing")
    assert (unknown.date_done, unknown.name, unknown.queue, unknown.children) == (None, None, None, None)


def test_a_call_whose_result_is_ignored_is_not_waited_for(app: Celeriac) -> None:
    task = app.task(lambda: 1, name="t", ignore_result=True)

    assert task.delay().get() is None
    assert task.apply_async().ignored


def test_a_handle_is_written_down_and_found_again(app: Celeriac) -> None:
    first = store(app, "a1", 1)
    second = AsyncResult("a2", app.backend, app=app, parent=first)

    for again in (result_from_tuple(second.as_tuple(), app), pickle.loads(pickle.dumps(second))):
        assert (again, again.parent, again.parent.get()) == (second, first, 1)
    assert second.as_list() == ["a2", "a1"]
    assert (second == "a2", second != first, len({second, AsyncResult("a2")})) == (True, True, 1)


def test_a_group_is_written_down_and_found_again(app: Celeriac) -> None:
    """By its id alone, as Celery's users write it, and pickled."""
    saved = app.GroupResult("g1", [store(app, "a1", 1), store(app, "a2", 2)], parent=store(app, "a0", 0)).save()

    found = [GroupResult.restore("g1"), app.GroupResult.restore("g1"), pickle.loads(pickle.dumps(saved))]
    found.append(pickle.loads(pickle.dumps(GroupResult.restore("g1"))))

    assert [(group.id, group.get(), group.parent.get(), group.app) for group in found] == [("g1", [1, 2], 0, app)] * 4
    assert pickle.loads(pickle.dumps(ResultSet(saved.results))).get() == [1, 2]
    saved.delete()
    assert GroupResult.restore("g1") is None


def test_a_set_counts_what_went_well_as_celery_does(app: Celeriac) -> None:
    error = exception_to_wire(KeyError("lamp"))
    one, two = store(app, "a1", 1), store(app, "a2", error, status=states.FAILURE)
    whole = ResultSet([one, two, ResultSet([one]), app.AsyncResult("a3")])

    assert (whole.completed_count(), whole.ready(), whole.failed(), whole.successful()) == (2, False, True, False)
    assert ResultSet([one, two]).ready()
    assert list(ResultSet([one]).iterate()) == [1]
    assert repr(list(ResultSet([two]).iterate(propagate=False))) == "[KeyError('lamp')]"
    with pytest.raises(KeyError, match="lamp"):
        list(ResultSet([two]).iterate())
    with pytest.raises(AsyncResult.TimeoutError):
        whole.get(timeout=0.01, propagate=False)


def test_nobody_waits_for_a_group_within_a_task(app: Celeriac) -> None:
    whole = ResultSet(
        [store(app, "a1", 1), store(app, "a2", exception_to_wire(KeyError("lamp")), status=states.FAILURE)]
    )

    with denied_join_result(), pytest.raises(RuntimeError, match="nobody may wait"):
        whole.get()


def test_a_handle_without_an_id_is_refused(app: Celeriac) -> None:
    with pytest.raises(ValueError, match="needs the id of a call"):
        app.AsyncResult(None)


def test_an_eager_result_is_made_as_celerys() -> None:
    good = EagerResult("a1", 3, states.SUCCESS, name="add")
    bad = EagerResult("a2", KeyError("lamp"), states.FAILURE, "Traceback: …")

    assert (good.get(), good.state, good.name, pickle.loads(pickle.dumps(good)).get()) == (3, "SUCCESS", "add", 3)
    assert (bad.traceback, bad.failed(), repr(bad.get(propagate=False))) == ("Traceback: …", True, "KeyError('lamp')")
    with pytest.raises(KeyError, match="lamp"):
        bad.get()


def test_what_came_of_a_call_is_followed(app: Celeriac) -> None:
    leaf = store(app, "c", 3)
    store(app, "b", 2, children=[leaf.as_tuple()])
    root = store(app, "a", 1, children=[(("b", None), None)])

    assert [handle.id for handle in root.children or ()] == ["b"]
    assert [(handle.id, value) for handle, value in root.collect()] == [("a", 1), ("b", 2), ("c", 3)]
    assert root.get_leaf() == 3
    assert {handle.id: [child.id for child in children] for handle, children in root.graph.items()} == {
        "a": ["b"],
        "b": ["c"],
        "c": [],
    }
    open_ = store(app, "d", 1, children=[(("waits", None), None)])
    with pytest.raises(IncompleteStream):
        list(open_.iterdeps())
    assert [handle.id for _, handle in open_.iterdeps(intermediate=True)] == ["d", "waits"]


def test_forgetting_a_call_forgets_those_before_it(app: Celeriac) -> None:
    first, second = store(app, "a1", 1), store(app, "a2", 2)
    second.parent = first

    second.forget()

    assert [first.exists(), second.exists()] == [False, False]


def test_waiting_is_allowed_and_denied_for_a_while(app: Celeriac) -> None:
    handle = store(app, "a1", 5)
    store(app, "a2", 6)

    with denied_join_result():
        with pytest.raises(RuntimeError):
            handle.get()
        with allow_join_result():
            assert handle.get() == 5
    assert AsyncResult("a2").get() == 6


@pytest.mark.parametrize(
    ("state", "raised"),
    [
        (states.FAILURE, KeyError),
        (states.REVOKED, TaskRevokedError),
        (states.RETRY, None),
        (states.SUCCESS, None),
        (states.STARTED, None),
    ],
)  # fmt: skip
def test_whether_an_error_is_raised_again_is_a_matter_of_the_state(
    app: Celeriac, state: str, raised: type[Exception] | None
) -> None:
    error: Exception = TaskRevokedError("revoked") if state == states.REVOKED else KeyError("k")
    handle = store(
        app, "a1", exception_to_wire(error) if state in states.EXCEPTION_STATES else {"pid": 1}, status=state
    )

    if raised is None:
        handle.maybe_throw()
    else:
        with pytest.raises(raised):
            handle.get(timeout=1)
        assert isinstance(handle.get(timeout=1, propagate=False), raised)
    assert (raised is not None) == (state in states.PROPAGATE_STATES)


def test_a_result_that_is_ready_is_kept_by_its_handle_and_no_other_state_is(app: Celeriac) -> None:
    handle = store(app, "a1", {"pid": 1}, status=states.STARTED)
    before = handle.state
    store(app, "a1", 5)
    after = handle.state
    app.backend.forget("a1")

    assert (before, after, handle.result) == (states.STARTED, states.SUCCESS, 5)
    assert app.AsyncResult("a1").state == states.PENDING
