"""Workflows that real workers run, on every broker, in every pool that differs, under both profiles: what they give, and how they fail."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from canvas_client import Names
from missing import give_up
from processes import Child, wait_until
from servers import Missing, RedisServer
from sites import Site

from celeriac import Celeriac, chain, chord, group
from celeriac.canvas import Signature
from celeriac.exceptions import ChordError, TaskRevokedError, WorkerLostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A worker of canvases.py, and a client that knows its tasks by name alone."""

    app: Celeriac
    worker: Child
    site: Site
    pool: str
    profile: str

    @property
    def s(self) -> Callable[..., Signature]:
        return Names(self.app).s

    @property
    def si(self) -> Callable[..., Signature]:
        return Names(self.app).si


_WHERE = [
    ("redis", "solo", "celery"), ("redis", "threads", "kubernetes"), ("redis", "prefork", "celery"), ("redis", "prefork", "kubernetes"),
    ("rabbitmq", "solo", "kubernetes"), ("rabbitmq", "threads", "celery"), ("rabbitmq", "prefork", "kubernetes"),
]  # fmt: skip
#: Where a body has a process of its own; elsewhere the worker goes with it: see tests/chaos/test_chords.py.
_WITH_CHILDREN = [where for where in _WHERE if where[1] == "prefork"]


@pytest.fixture(scope="module", params=_WHERE, ids="-".join)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    kind, pool, profile = request.param
    with contextlib.ExitStack() as stack:
        try:
            server = RedisServer()
        except Missing as missing:
            give_up(str(missing))
        stack.callback(server.close)
        server.start()
        broker = server.url
        if kind == "rabbitmq":
            broker = stack.enter_context(request.getfixturevalue("rabbitmq_node").vhost())
        site = Site(
            broker=broker, backend=server.url.replace("/0", "/1"), server=server, folder=tmp_path_factory.mktemp("site")
        )
        stack.enter_context(site.closing)
        settings = {"profile": profile, "task_acks_late": "0" if profile == "celery" else "1"}
        slots = () if pool == "solo" else ("-c", "3")
        worker = site.worker("-P", pool, *slots, app="canvases", **settings)
        yield Running(app=site.client(), worker=worker, site=site, pool=pool, profile=profile)


def given(make: Callable[[Running], Any], value: Any, name: str) -> Any:
    return pytest.param(make, value, id=name)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        given(lambda r: r.s("add", 1, 2), 3, "a task"),
        given(lambda r: r.s("add", 1, 2) | r.s("add", 3), 6, "a chain"),
        given(lambda r: chain(r.s("same", 0), *(r.s("add", 1) for _ in range(50))), 50, "a chain of 51"),
        given(lambda r: group(r.s("add", n, n) for n in range(20)), [2 * n for n in range(20)], "a group"),
        given(lambda r: chord([r.s("add", n, n) for n in range(20)], r.s("total")), 380, "a chord"),
        given(lambda r: group(r.s("add", 1, 1), r.s("add", 2, 2)) | r.s("total") | r.s("add", 1), 7, "a chain after a chord"),
        given(
            lambda r: chord([chord([r.s("add", 1, 1)], r.s("total")), r.s("add", 1, 1)], r.s("total")), 4, "a chord in a header"
        ),
        given(lambda r: chord([r.s("add", 1, 1)], chord([r.s("total"), r.s("total")], r.s("total"))), 4, "a chord as a body"),
        given(lambda r: chord([r.s("add", 1, 1)], group(r.s("total"), r.s("total"))), [2, 2], "a group as a body"),
        given(
            lambda r: chord([r.s("same", 1) | group(r.s("add", 1), r.s("add", 2)), r.s("same", 9)], r.s("same")), [[2, 3], 9],
            "a group at the end of a member",
        ),
        given(
            lambda r: group(group(r.s("same", 1), r.s("same", 2)), r.s("same", 3)) | r.s("same"), [1, 2, 3], "a group in a group"
        ),
        given(lambda r: r.s("same", 1) | group(r.s("add", 1), r.s("add", 2)) | group(r.s("total"), r.s("total")), [5, 5], "groups in a row"),
        given(lambda r: chord([], r.s("total")), 0, "a chord of nothing"),
        given(lambda r: chord([r.s("quiet", 4), r.s("quiet", 5)], r.s("total")), 9, "members whose results are ignored"),
        given(lambda r: chord([r.s("flaky", 2), r.s("flaky", 0)], r.s("total")), 2, "a member that is retried"),
        given(lambda r: chord([r.s("grows"), r.s("add", 1, 1)], r.s("total")), 23, "a member that adds one"),
        given(lambda r: r.s("becomes", "task"), 21, "replaced by a task"),
        given(lambda r: r.s("becomes", "chain") | r.s("add", 1), 23, "replaced by a chain, in a chain"),
        given(lambda r: r.s("becomes", "group") | r.s("total"), 43, "replaced by a group, in a chain"),
        given(lambda r: chord([r.s("becomes", "chord"), r.s("add", 1, 1)], r.s("total")), 45, "replaced by a chord, in a header"),
        given(lambda r: chord([r.s("add", 1, 1)], r.si("becomes", "itself")), 21, "replaced twice, as a body"),
        given(lambda r: r.s("becomes", "nested") | r.s("same"), [3, 43], "replaced by a nest, in a chain"),
        given(
            lambda r: Signature("celery.map", (), {"task": r.s("same"), "it": [1, 2]}, subtask_type="map", immutable=True, app=r.app), [1, 2],
            "a map by name",
        ),
    ],
)  # fmt: skip
def test_a_workflow_gives_its_value(running: Running, make: Any, value: Any) -> None:
    assert make(running).apply_async().get(timeout=20) == value


def lines_of(path: Path, count: int) -> list[Any]:
    wait_until(
        lambda: path.exists() and path.read_text().count("\n") >= count, timeout_s=20, what=f"{count} lines in {path}"
    )
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("member", "cause"),
    [
        pytest.param(lambda r: r.s("fails"), r"ValueError\('no'\)", id="a member that fails"),
        pytest.param(lambda r: r.s("fails") | r.s("add", 1), r"ValueError\('no'\)", id="a member's first step that fails"),
        pytest.param(lambda r: chord([r.s("fails")], r.s("total")), "ChordError", id="a chord in the header that fails"),
        pytest.param(lambda r: r.s("endless"), "TimeLimitExceeded", id="a member beyond its time limit"),
        pytest.param(lambda r: r.s("rejects"), "not mine", id="a member that is rejected"),
        pytest.param(lambda r: r.s("stranger"), "NotRegistered", id="a member that nobody knows"),
        pytest.param(lambda r: r.s("add", 1, 1).set(expires=-1), "TaskRevokedError", id="a member that has expired"),
        pytest.param(lambda r: r.s("becomes", "no such kind"), "KeyError", id="a member that cannot be replaced"),
    ],
)  # fmt: skip
def test_a_body_fails_with_a_chord_error_that_names_the_member_and_its_error(
    running: Running, member: Any, cause: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    body = running.s("total").on_error(running.s("told_the_id", str(told)))
    result = chord([running.s("add", 1, 1), member(running)], body).apply_async()

    with pytest.raises(ChordError, match=f"^Dependency [0-9a-f-]{{36}} raised .*{cause}"):
        result.get(timeout=20, follow_parents=False)
    assert lines_of(told, 1) == [[result.id]]


@pytest.mark.parametrize("running", _WITH_CHILDREN, ids="-".join, indirect=True)
def test_a_member_whose_process_is_lost_fails_the_chord(running: Running) -> None:
    result = chord([running.s("add", 1, 1), running.s("is_killed")], running.s("total")).apply_async()

    with pytest.raises(ChordError, match=r"raised WorkerLostError"):
        result.get(timeout=30, follow_parents=False)
    assert isinstance(result.parent[1].result, WorkerLostError)


def test_a_member_that_is_revoked_fails_the_chord(running: Running) -> None:
    header = [running.s("add", 1, 1).set(countdown=4), running.s("add", 1, 1)]
    result = chord(header, running.s("total")).apply_async()
    wait_until(result.parent[1].successful, timeout_s=10)
    result.parent[0].revoke()

    with pytest.raises(ChordError, match="raised TaskRevokedError"):
        result.get(timeout=20, follow_parents=False)
    assert isinstance(result.parent[0].result, TaskRevokedError)


def test_a_member_that_puts_itself_back_sees_that_it_was_redelivered(running: Running) -> None:
    result = chord([running.s("puts_back", 2), running.s("add", 1, 1)], running.s("total")).apply_async()

    assert result.get(timeout=20) == 4


def test_what_a_failed_chord_leaves_behind_has_failed_too(running: Running, tmp_path: Path) -> None:
    told = tmp_path / "told"
    inner = chord([running.s("fails"), running.s("add", 1, 1)], running.s("total") | running.s("add", 1))
    outer = chord([inner, running.s("add", 1, 1)], running.s("total").on_error(running.s("told_all", str(told))))
    result = (outer | running.s("add", 1)).apply_async()

    with pytest.raises(ChordError):
        result.get(timeout=20, follow_parents=False)
    body = result.parent
    assert body.state == "FAILURE"
    assert lines_of(told, 1) == [[body.id, "canvases.total", "ChordError"]], "of the call that it is linked to"
    assert body.parent[0].state == body.parent[0].parent.state == "FAILURE"


@pytest.mark.parametrize("new", [False, True], ids=["by its id", "with its error"])
def test_error_callbacks_of_either_kind_are_called(running: Running, new: bool, tmp_path: Path) -> None:
    told = tmp_path / "told"
    result = running.s("fails").apply_async(link_error=running.s("told_all" if new else "told_the_id", str(told)))

    assert lines_of(told, 1) == [[result.id, "canvases.fails", "ValueError"] if new else [result.id]]


@pytest.mark.parametrize("on_header", [False, True], ids=["on the body", "on the header too"])
def test_error_callbacks_of_a_chord_are_called(running: Running, on_header: bool, tmp_path: Path) -> None:
    told = tmp_path / "told"
    running.app.conf.task_allow_error_cb_on_chord_header = on_header
    try:
        sig = chord([running.s("fails"), running.s("fails"), running.s("add", 1, 1)], running.s("total"))
        sig.link_error(running.si("told", str(told), "told"))
    finally:
        running.app.conf.task_allow_error_cb_on_chord_header = False
    result = sig.apply_async()

    with pytest.raises(ChordError):
        result.get(timeout=20, follow_parents=False)
    assert len(lines_of(told, 3 if on_header else 1)) == (3 if on_header else 1)


def test_callbacks_get_the_value_of_what_they_are_linked_to(running: Running, tmp_path: Path) -> None:
    told = tmp_path / "told"
    sig = chord([running.s("add", 1, 1), running.s("add", 2, 2)], running.s("total"))
    sig.link(running.s("same") | running.s("told", str(told)).clone())
    one = running.s("same", str(told))
    one.link(running.s("told", "linked"))

    assert sig.apply_async().get(timeout=20) == 6
    one.apply_async()

    assert lines_of(told, 1)[0] == ["linked"]


def test_stamps_reach_every_call(running: Running) -> None:
    sig = chord([running.s("stamped"), running.s("same", 1) | running.s("stamped")], running.s("same"))
    sig.stamp(order="o-1")

    assert sig.apply_async().get(timeout=20) == [{"order": "o-1"}] * 2


def test_a_saved_group_is_restored_by_another_client(running: Running) -> None:
    result = group(running.s("add", n, n) for n in range(5)).apply_async()
    result.save()

    restored = running.site.client().GroupResult.restore(result.id)

    assert restored == result
    assert restored.get(timeout=20) == [0, 2, 4, 6, 8]
    restored.delete()
    assert running.app.GroupResult.restore(result.id) is None


def test_no_bookkeeping_is_left_of_chords_that_have_ended(running: Running) -> None:
    results = [
        chord([running.s("add", 1, 1), running.s("add" if n % 2 else "fails", 2, 2)], running.s("total")).apply_async()
        for n in range(4)
    ]
    for result in results:
        result.get(timeout=20, propagate=False)

    with redis_of(running) as store:
        wait_until(
            lambda: (
                not [key for one in results for key in store.scan_iter(f"celery-taskset-meta-{one.parent.id}.[jtsd]")]
            ),
            timeout_s=5,
            what="no keys of chords",
        )


def redis_of(running: Running) -> redis.Redis:
    return redis.Redis.from_url(running.site.backend or "")
