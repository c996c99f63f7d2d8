"""One call for many tasks: what is checked, what is sent, and what it says when only a part could be."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from brokers import Broker, claim

from celeriac import Celeriac, signals
from celeriac.app.context import Request, current
from celeriac.app.task import Task
from celeriac.exceptions import BrokerUnavailable, EncodeError, NotRoutable

every = pytest.mark.parametrize("broker", ["redis", "rabbitmq", "memory"], indirect=True)
redis_alone = pytest.mark.parametrize("broker", ["redis"], indirect=True)


@contextlib.contextmanager
def shop(broker: Broker, **settings: Any) -> Iterator[tuple[Celeriac, Task]]:
    """An app on the broker and queue under test, with one task."""
    with Celeriac("shop", broker=broker.url, set_as_current=False, task_default_queue=broker.queue, **settings) as app:

        @app.task(name="shop.pack")
        def pack(number: int, *, express: bool = False) -> int:
            return number

        yield app, pack


@every
def test_many_calls_are_sent_in_order_with_ids_of_their_own(broker: Broker) -> None:
    with shop(broker) as (_, pack):
        results = pack.send_many([(number,) for number in range(2300)], priority=0)

    found = claim(broker.consumer(prefetch=3000), 2300, timeout_s=20)
    assert [delivery.headers["id"] for delivery in found] == [result.id for result in results]
    assert [delivery.headers["argsrepr"] for delivery in found[:2]] == ["(0,)", "(1,)"]
    assert {uuid.UUID(result.id).version for result in results} == {4}
    assert len({result.id for result in results}) == 2300


@redis_alone
def test_a_message_of_many_is_the_message_of_one(broker: Broker) -> None:
    options: dict[str, Any] = {
        "priority": 3,
        "headers": {"shop": "north"},
        "shadow": "s",
        "countdown": 0,
        "time_limit": 9,
    }
    with shop(broker) as (_, pack):
        pack.apply_async((1,), {"express": True}, **options)
        pack.send_many([{"number": 1}], kwargs={"express": True}, **options)
        pack.send_many([[1]], {"express": True}, **options)

    alone, named, listed = claim(broker.consumer(), 3)
    own = {"id", "root_id", "eta", "celeriac_sent_at", "argsrepr", "kwargsrepr"}
    assert set(named.headers) == set(alone.headers)
    for of_many in (named, listed):
        assert {k: v for k, v in of_many.headers.items() if k not in own} == {
            k: v for k, v in alone.headers.items() if k not in own
        }
    assert listed.body == alone.body
    assert named.headers["kwargsrepr"] == "{'express': True, 'number': 1}"


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        pytest.param([(1,), (), (3,)], "call 1 of send_many: shop.pack.*missing a required argument", id="too few"),
        pytest.param([(1,), (2,), (3, 4)], "call 2 of send_many: shop.pack.*too many positional", id="too many"),
        pytest.param([{"numer": 1}], "call 0 of send_many: shop.pack", id="no such name"),
        pytest.param([(1,), 5], r"call 1 is 5; give its arguments as a tuple, such as \(1,\)", id="no tuple"),
        pytest.param([(1,), "five"], "call 1 is 'five'; give", id="text"),
    ],
)
@every
def test_nothing_is_sent_when_one_call_does_not_fit(broker: Broker, calls: list[Any], why: str) -> None:
    with shop(broker) as (_, pack), pytest.raises(TypeError, match=why):
        pack.send_many(calls)

    assert broker.consumer().claim(1) == []


@redis_alone
def test_an_id_for_many_is_refused(broker: Broker) -> None:
    with shop(broker) as (_, pack), pytest.raises(TypeError, match="takes no task_id"):
        pack.send_many([(1,)], task_id="x")


@redis_alone
def test_an_iterator_will_do_and_none_is_none(broker: Broker) -> None:
    with shop(broker) as (_, pack):
        assert len(pack.send_many((number,) for number in range(3))) == 3
        assert pack.send_many([]) == []

    assert len(claim(broker.consumer(), 3)) == 3


@redis_alone
def test_receivers_hear_of_each_message_before_and_after(broker: Broker) -> None:
    heard: list[tuple[str, str]] = []

    def before(headers: Any, **_: Any) -> None:
        headers["stamped"] = True
        heard.append(("before", headers["id"]))

    def after(headers: Any, **_: Any) -> None:
        heard.append(("after", headers["id"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after, sender="shop.pack")
    try:
        with shop(broker) as (_, pack):
            one, two = pack.send_many([(1,), (2,)])
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after, sender="shop.pack")

    assert heard == [("before", one.id), ("before", two.id), ("after", one.id), ("after", two.id)]
    assert [delivery.headers["stamped"] for delivery in claim(broker.consumer(), 2)] == [True, True]


@redis_alone
def test_by_name_without_the_code(broker: Broker) -> None:
    with shop(broker) as (app, _):
        results = app.send_many("else.where", [((1,), {"a": 2}), ((), {})])

    found = claim(broker.consumer(), 2)
    assert [(each.headers["task"], each.headers["id"]) for each in found] == [("else.where", r.id) for r in results]


@redis_alone
def test_a_body_that_cannot_be_encoded_says_how_many_were_sent(broker: Broker) -> None:
    with shop(broker) as (_, pack), pytest.raises(EncodeError, match="1000 messages were published before these"):
        pack.send_many([(number if number != 1500 else object(),) for number in range(2000)])

    assert len(claim(broker.consumer(), 1000)) == 1000
    assert broker.depth().ready == 0


@redis_alone
def test_a_broker_that_goes_away_says_which_were_sent(broker: Broker) -> None:
    def calls() -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        for number in range(3000):
            if number == 2000:
                broker.server.stop()
            yield (number,), {}

    with shop(broker, task_publish_timeout=1.0) as (app, _):
        with pytest.raises(BrokerUnavailable, match="2000 messages were published before these") as refused:
            app.send_many("shop.pack", calls())
        broker.server.start()

    assert refused.value.published == frozenset(range(2000))
    assert broker.depth().ready == 2000


@redis_alone
def test_eager_calls_run_here(broker: Broker) -> None:
    with shop(broker, task_always_eager=True) as (_, pack):
        assert [result.get() for result in pack.send_many([(1,), (2,)])] == [1, 2]


@redis_alone
def test_the_calls_of_a_running_task_are_its_children(broker: Broker) -> None:
    with shop(broker) as (_, pack):
        request = Request(pack, {"id": "parent"})
        token = current.set(request)
        try:
            results = pack.send_many([(1,), (2,)])
            pack.send_many([(3,)], add_to_parent=False)
        finally:
            current.reset(token)

    assert request.children == [[[result.id, None], None] for result in results]
    assert [delivery.headers["parent_id"] for delivery in claim(broker.consumer(), 3)] == ["parent"] * 3


@redis_alone
def test_a_way_to_send_of_the_users_own_is_taken_by_each_call(broker: Broker) -> None:
    class Stamping(Task):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().apply_async(args, kwargs, headers={"tenant": "north"}, **options)

    with shop(broker, task_cls=Stamping) as (_, pack):
        pack.send_many([(1,), (2,)])

    assert [delivery.headers["tenant"] for delivery in claim(broker.consumer(), 2)] == ["north", "north"]


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_terms_of_the_publish_hold_for_many(broker: Broker) -> None:
    with shop(broker) as (_, pack):
        pack.send_many([(number,) for number in range(600)], delivery_mode=1, retry_policy={"max_retries": 1})
        if broker.kind == "redis":
            with broker.server.client() as client:
                assert len([key for key in client.scan_iter() if key.startswith("celeriac.sent")]) == 2  # and not 600
        broker.server.stop()
        began = time.monotonic()
        try:
            with pytest.raises(BrokerUnavailable):
                pack.send_many([(1,)], retry=False)
            took_s = time.monotonic() - began
        finally:
            broker.server.start()

    assert took_s < 4  # it is tried again for five seconds unless it is told not to


@redis_alone
def test_a_mandatory_message_among_many_is_looked_up(broker: Broker) -> None:
    with (
        shop(broker) as (_, pack),
        pytest.raises(NotRoutable, match=r"0 of 2 messages are surely on their queues.*nowhere"),
    ):
        pack.send_many([(1,), (2,)], mandatory=True, queue="nowhere")
