"""Unique calls: what their key is, and who holds it for how long, on Redis, and on RabbitMQ with a Redis beside it."""

import inspect
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from processes import wait_until
from sites import SUPPORT, Site

from celeriac import Celeriac, Task
from celeriac.exceptions import ImproperlyConfigured, NotRoutable, NotSupported
from celeriac.policy.unique import Unique, unique_key, unique_of

both = pytest.mark.parametrize("site", ["redis", "rabbitmq"], indirect=True)
THREADS = ("-P", "threads", "-c", "4")


# -- the key of a call


def pay(order: Any, account: int = 1) -> None: ...


PAY = inspect.signature(pay)


@pytest.mark.parametrize(
    ("spec", "one", "other", "same"),
    [
        pytest.param(None, ((1,), {}), ((), {"order": 1}), True, id="by position or by name"),
        pytest.param(None, ((1,), {}), ((1, 1), {}), True, id="a default, given or not"),
        pytest.param(None, (({"a": 1, "b": 2},), {}), (({"b": 2, "a": 1},), {}), True, id="in whatever order"),
        pytest.param(None, ((1,), {}), ((2,), {}), False, id="another argument"),
        pytest.param(None, ((1,), {}), (("1",), {}), False, id="a number and its text"),
        pytest.param("account", ((1, 7), {}), ((2,), {"account": 7}), True, id="one argument alone"),
        pytest.param("order.id", (({"id": 3},), {}), (({"id": 3, "x": 1},), {}), True, id="a part of an argument"),
        pytest.param(lambda args, kwargs: args[0], ((1, 2), {}), ((1, 3), {}), True, id="a function of the arguments"),
    ],
)
def test_calls_are_the_same_when_their_keys_are(spec: Any, one: Any, other: Any, same: bool) -> None:
    keys = [unique_key("shop.pay", Unique(60, "done", spec), *call, PAY) for call in (one, other)]

    assert (keys[0] == keys[1]) is same
    assert keys[0].startswith("shop.pay")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"unique_for": 0}, "unique_for 0", id="no time"),
        pytest.param({"unique_for": "1m"}, "unique_for '1m'", id="no number"),
        pytest.param({"unique_for": True}, "unique_for True", id="a truth"),
        pytest.param({"unique_for": 5, "unique_until": "end"}, "unique_until 'end'", id="until when"),
        pytest.param({"unique_for": 5, "unique_key": ""}, "unique_key ''", id="no key"),
        pytest.param({"unique_key": "number"}, "without unique_for", id="a key without a time"),
    ],
)
def test_what_cannot_be_unique_is_refused_where_it_is_defined(options: dict[str, Any], said: str) -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match=f"task t: .*{said}"):
        app.task(lambda number: 1, name="t", **options)


def test_a_time_may_be_a_timedelta() -> None:
    class Type(Task):
        unique_for = timedelta(minutes=5)

    assert unique_of(Type) == Unique(300.0, "done", None)


def test_a_broker_without_a_store_that_all_share_refuses_the_call() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    task = app.task(lambda: 1, name="t", unique_for=5)

    with pytest.raises(NotSupported, match="task t: unique_for needs a Redis or Valkey"):
        task.delay()


# -- who holds it


@pytest.fixture
def once(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The client's side of once.py, on the site's broker."""
    monkeypatch.setenv("BROKER", site.broker)
    monkeypatch.setenv("BACKEND", site.backend or "")
    monkeypatch.syspath_prepend(str(SUPPORT))
    for name in ("jobs", "once"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import once

    yield once
    once.app.close()
    for name in ("jobs", "once"):
        sys.modules.pop(name, None)


def started(site: Site) -> list[int]:
    path: Path = site.ledger.path
    found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [int(number) for what, number, *_ in found if what == "start"]


@both
def test_a_second_call_is_the_first_while_that_waits_or_runs(site: Site, once: Any) -> None:
    first = once.index.delay(1, seconds=1.0)
    waiting = once.index.delay(1)
    other = once.index.delay(2)
    site.worker(*THREADS, app="once")
    wait_until(lambda: 1 in started(site), what="the start")
    running = once.index.delay(1)

    assert (first.deduplicated, waiting.deduplicated, running.deduplicated, other.deduplicated) == (
        False,
        True,
        True,
        False,
    )
    assert waiting.id == running.id == first.id != other.id
    assert running.get(timeout=10) == 1
    wait_until(lambda: not once.index.delay(1).deduplicated, what="the key let go")
    wait_until(lambda: sorted(started(site)) == [1, 1, 2], what="the starts")


@both
def test_of_many_clients_at_once_one_sends(site: Site, once: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        handles = list(threads.map(lambda _: once.index.delay(1), range(40)))

    assert len({handle.id for handle in handles}) == 1
    assert [handle.deduplicated for handle in handles].count(False) == 1
    site.worker(*THREADS, app="once")
    wait_until(lambda: started(site) == [1], what="the start")


def test_a_call_with_terms_of_its_own_is_unique_too(site: Site, once: Any) -> None:
    first = once.index.apply_async((1,), retry=False)
    mandatory = once.index.apply_async((1,), mandatory=True, delivery_mode=1)

    assert (first.deduplicated, mandatory.deduplicated, mandatory.id) == (False, True, first.id)
    with pytest.raises(NotRoutable):
        once.index.apply_async((2,), mandatory=True, queue="nowhere")
    assert not once.index.delay(2).deduplicated


@both
def test_until_start_lets_the_next_call_wait_while_one_runs(site: Site, once: Any) -> None:
    once.refresh.delay(1, seconds=1.0)
    assert once.refresh.delay(1, seconds=1.0).deduplicated
    site.worker(*THREADS, app="once")
    wait_until(lambda: started(site) == [1], what="the start")

    assert not once.refresh.delay(1, seconds=1.0).deduplicated


@both
def test_until_expiry_is_once_in_a_stretch_of_time_whatever_becomes_of_it(site: Site, once: Any) -> None:
    site.worker(*THREADS, app="once")
    began = time.monotonic()
    first = once.window.delay(1)
    wait_until(lambda: started(site) == [1], what="the start")
    first.get(timeout=5)

    if time.monotonic() - began < 1.3:
        assert once.window.delay(1).id == first.id
    wait_until(lambda: not once.window.delay(1).deduplicated, what="the end of the window")
    assert time.monotonic() - began >= 1.4


@both
def test_a_retry_keeps_the_key_and_a_failure_lets_it_go(site: Site, once: Any) -> None:
    site.worker(*THREADS, app="once")
    first = once.flaky.delay(1)
    wait_until(lambda: first.state == "RETRY", what="the retry")

    assert once.flaky.delay(1).id == first.id
    first.get(timeout=10)
    wait_until(lambda: not once.flaky.delay(1).deduplicated, what="the key let go")
    failed = once.broken.delay(2)
    wait_until(failed.ready, what="the failure")
    wait_until(lambda: not once.broken.delay(2).deduplicated, what="the key of a failed call")


def test_a_revoked_call_lets_its_key_go(site: Site, once: Any) -> None:
    first = once.index.delay(1)
    first.revoke()
    site.worker(*THREADS, app="once")

    wait_until(lambda: first.state == "REVOKED", what="the revoke")
    wait_until(lambda: not once.index.delay(1).deduplicated, what="the key let go")


def test_a_crash_holds_the_key_no_longer_than_its_time(site: Site, once: Any) -> None:
    worker = site.worker("-P", "solo", app="once")
    began = time.monotonic()
    once.killed.delay(1)
    worker.wait(timeout_s=10)

    assert once.killed.delay(1).deduplicated or time.monotonic() - began > 2.5
    wait_until(lambda: not once.killed.delay(1).deduplicated, what="the end of its time", timeout_s=10)
    assert time.monotonic() - began >= 2.5


def test_a_call_that_is_not_due_holds_its_key_until_it_is(site: Site, once: Any) -> None:
    once.window.apply_async((1,), countdown=100)

    with site.server.client() as client:
        [key] = client.keys("celeriac.unique*")
        assert 100_000 < client.pttl(key) <= 101_500


def test_what_was_not_sent_holds_no_key(site: Site, once: Any) -> None:
    with pytest.raises(NotRoutable):
        once.index.apply_async((1,), exchange="nowhere", routing_key="x")

    assert not once.index.delay(1).deduplicated


@pytest.mark.parametrize("option", ["group_id", "chain", "chord"])
def test_a_call_that_others_wait_for_under_its_id_cannot_be_unique(site: Site, once: Any, option: str) -> None:
    with pytest.raises(NotSupported, match=r"once\.index has unique_for"):
        once.index.apply_async((1,), **{option: "x"})


def test_many_calls_in_one_go_cannot_be_unique(once: Any) -> None:
    message = once.app.message(
        "once.index", (1,), {}, once.index, countdown=None, eta=None, expires=None, task_id=None, options={}
    )

    with pytest.raises(NotSupported, match=r"once\.index has unique_for: its calls are sent one by one"):
        once.app.publish_many([message])
