"""Calls from coroutines, on every broker: published together, refused one by one, and nothing sent for who was cancelled in time."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from brokers import Broker, claim

from celeriac import Celeriac, Task, signals
from celeriac.exceptions import BrokerUnavailable, EncodeError
from celeriac.result import allow_join_result
from celeriac.testing import in_process

every = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq", "memory"], indirect=True)


@pytest.fixture
def app(broker: Broker) -> Iterator[Celeriac]:
    app = Celeriac(
        "shop", broker=broker.url, backend="cache+memory://", set_as_current=False, task_default_queue=broker.queue
    )
    yield app
    app.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("celeriac-sending")] == []


def ids_on(broker: Broker, count: int) -> set[str]:
    consumer = broker.consumer(prefetch=1000)
    found = {delivery.headers["id"] for delivery in claim(consumer, count)}
    consumer.close()
    return found


@every
def test_many_calls_at_once_are_all_published(broker: Broker, app: Celeriac) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    async def main() -> list[str]:
        return [handle.id for handle in await asyncio.gather(*[add.adelay(n, y=1) for n in range(200)])]

    ids = [*asyncio.run(main()), *asyncio.run(main())]

    assert len(set(ids)) == 400
    assert ids_on(broker, 400) == set(ids)


@every
def test_what_cannot_be_sent_is_refused_alone(broker: Broker, app: Celeriac) -> None:
    task = app.task(lambda x: x, name="t")

    async def main() -> list[Any]:
        return await asyncio.gather(*[task.adelay(x) for x in (1, object(), 2)], return_exceptions=True)

    first, refused, last = asyncio.run(main())

    assert isinstance(refused, EncodeError)
    assert ids_on(broker, 2) == {first.id, last.id}
    with pytest.raises(TypeError, match="missing"):
        asyncio.run(task.adelay())
    with pytest.raises(TypeError, match="colour"):
        asyncio.run(task.aapply_async((1,), colour="red"))


@every
def test_a_calls_own_wishes_and_signals_are_those_of_any_call(broker: Broker, app: Celeriac) -> None:
    seen: list[Any] = []

    def before(headers: Any, **_: Any) -> None:
        headers["traced"] = threading.current_thread().name
        seen.append("before")

    def after(**_: Any) -> None:
        seen.append("after")

    task = app.task(lambda: 1, name="t")
    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        handle = asyncio.run(task.aapply_async(task_id="mine", delivery_mode=1, headers={"a": 1}))
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)

    assert (handle.id, seen, ids_on(broker, 1)) == ("mine", ["before", "after"], {"mine"})


def test_a_broker_that_is_away_is_told_to_each_caller() -> None:
    app = Celeriac("shop", broker="redis://127.0.0.1:1/0", set_as_current=False, task_publish_timeout=0.2)
    task = app.task(lambda: 1, name="t")

    async def main() -> list[Any]:
        calls = [asyncio.create_task(task.adelay()) for _ in range(3)]
        gone = asyncio.create_task(task.adelay())
        await asyncio.sleep(0)
        gone.cancel()
        return await asyncio.gather(*calls, gone, return_exceptions=True)

    found = asyncio.run(main())
    app.close()

    assert [type(each) for each in found] == [BrokerUnavailable] * 3 + [asyncio.CancelledError]


def test_inside_a_task_others_are_called_and_not_waited_for() -> None:
    app = Celeriac("shop", set_as_current=False)

    @app.task(name="inner", bind=True)
    async def inner(self: Task) -> Any:
        return [self.request.parent_id, self.request.root_id]

    @app.task(name="outer", bind=True)
    async def outer(self: Task, allowed: bool) -> Any:
        handle = await inner.adelay()
        if allowed:
            with allow_join_result():
                return [self.request.id, await handle]
        return await handle

    with in_process(app, pool="asyncio"):
        handle = outer.delay(True)
        own, above = handle.get(timeout=10)
        with pytest.raises(RuntimeError, match="never call"):
            outer.delay(False).get(timeout=10)

    assert above == [own, own]
    assert [child.result for child in handle.children or ()] == [[own, own]]
