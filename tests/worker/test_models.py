"""Pydantic models in arguments and return values: what a message holds, what a body gets, and what is refused."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from celeriac import Celeriac
from celeriac.backends.memory import MemoryBackend
from celeriac.broker.consumer import open_consumer
from celeriac.exceptions import CeleriacError, EncodeError, ImproperlyConfigured
from celeriac.policy.outcome import Failed, RetryAsked, Succeeded
from celeriac.policy.settlement import Rules
from celeriac.worker.executor import Executor, Job


class Order(BaseModel):
    id: int
    at: datetime | None = None


class Large(Order):
    weight: int = 0


class Receipt(BaseModel):
    order: int
    note: str | None = None


class Aware(BaseModel):
    id: int

    @field_validator("id")
    @classmethod
    def known(cls, value: int, info: ValidationInfo) -> int:
        assert info.context is not None
        assert info.context["celery_task_name"] == "shop.aware"
        if value not in info.context["known"]:
            raise ValueError("nobody knows it")
        return value


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    name = f"models-{request.node.name}"
    app = Celeriac("shop", broker="memory://", set_as_current=False, task_default_queue=name)
    yield app
    app.close()


def run(app: Celeriac, task: Any) -> Any:
    """The outcome of the last call, taken from its queue and run as a worker does; and the arguments as they stand in the message."""
    consumer = open_consumer(app.broker_address(), [app.conf.task_default_queue], node="w", lease_s=30, prefetch=1)
    try:
        [delivery] = consumer.claim(1)
        backend = MemoryBackend()
        executor = Executor(app, hostname="w", accept=frozenset({"application/json"}), encode=backend.encode)
        return executor.execute(Job(task, delivery, Rules())).outcome
    finally:
        consumer.close()


def pay(order: Order, account: int = 1) -> Receipt:
    assert type(order) is Order
    return Receipt(order=order.id + account)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((Order(id=3),), {}, id="a model"),
        pytest.param((), {"order": Order(id=3)}, id="a model by name"),
        pytest.param(({"id": 3},), {}, id="a mapping"),
        pytest.param(({"id": "3"},), {}, id="what pydantic can read"),
    ],
)
def test_a_body_gets_a_model_and_a_result_holds_plain_values(app: Celeriac, args: Any, kwargs: Any) -> None:
    task = app.task(pay, pydantic=True)
    task.apply_async(args, kwargs)

    outcome = run(app, task)

    assert isinstance(outcome, Succeeded), outcome
    assert json.loads(outcome.record or b"")["result"] == {"order": 4, "note": None}


def test_a_message_holds_what_json_can_write(app: Celeriac) -> None:
    task = app.task(pay, pydantic=True)
    at = datetime(2026, 11, 22, tzinfo=UTC)

    message = app.message(
        task.name, (Order(id=3, at=at),), {}, task, countdown=None, eta=None, expires=None, task_id=None, options={}
    )

    assert message.body[0] == ({"id": 3, "at": "2026-11-22T00:00:00Z"},)


def test_a_bound_task_and_a_coroutine_get_models_too(app: Celeriac) -> None:
    def bound(self: Any, order: Order | None, rest: int = 0) -> int:
        return 0 if order is None else order.id

    async def awaited(order: Order) -> Receipt:
        await asyncio.sleep(0)
        return Receipt(order=order.id)

    first, second = app.task(bound, bind=True, pydantic=True), app.task(awaited, pydantic=True)

    assert first.apply(({"id": 3},)).get() == 3
    assert first.apply((None,)).get() == 0
    assert second.apply((Order(id=5),)).get() == {"order": 5, "note": None}
    assert second._is_async


def test_a_retry_may_have_models_for_arguments(app: Celeriac) -> None:
    def again(self: Any, order: Order) -> int:
        if order.id < 3:
            raise self.retry(args=(Order(id=order.id + 1),), countdown=0)
        return order.id

    task = app.task(again, bind=True, name="shop.again", pydantic=True)
    task.delay(Order(id=2))

    outcome = run(app, task)

    assert isinstance(outcome, RetryAsked), outcome
    assert tuple(outcome.args) == ({"id": 3, "at": None},)
    assert task.apply((Order(id=1),)).get() == 3


def test_wrong_data_fails_the_task_and_says_where(app: Celeriac) -> None:
    task = app.task(pay, pydantic=True)
    task.delay({"id": "three"})

    outcome = run(app, task)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ValidationError)
    assert "id\n  Input should be a valid integer" in outcome.error.args[0]


def test_the_options_go_to_pydantic(app: Celeriac) -> None:
    strict = app.task(pay, name="strict", pydantic=True, pydantic_strict=True)
    brief = app.task(pay, name="brief", pydantic=True, pydantic_dump_kwargs={"exclude_none": True})
    aware = app.task(_aware, name="shop.aware", pydantic=True, pydantic_context={"known": {1}})

    with pytest.raises(ValidationError):
        strict({"id": "3"})
    assert brief({"id": 3}) == {"order": 4}
    assert aware({"id": 1}) == 1
    with pytest.raises(ValidationError, match="nobody knows it"):
        aware({"id": 2})


def _aware(thing: Aware) -> int:
    return thing.id


def test_a_return_value_of_another_class_stays_as_it_is(app: Celeriac) -> None:
    def other(order: Order) -> Receipt:
        return order  # type: ignore[return-value]

    assert app.task(other, pydantic=True)({"id": 3}) == Order(id=3)


class Secret(BaseModel):
    id: int
    code: str = Field(default="", exclude=True)


def keep(secret: Secret, plain: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param((Secret(id=1, code="x"),), "would not get as it is", id="a field that is left out"),
        pytest.param((Order(id=3),), "would not get as it is", id="a model of another class"),
        pytest.param((Secret(id=1), Order(id=3)), "annotate it with the model", id="a model that nothing announces"),
    ],
)
def test_a_model_that_would_not_arrive_is_refused_where_the_call_is_made(app: Celeriac, args: Any, said: str) -> None:
    task = app.task(keep, name="shop.keep", pydantic=True)

    with pytest.raises(EncodeError, match=rf"task shop\.keep: .*{said}"):
        task.delay(*args)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"pydantic_strict": True}, "pydantic_strict without pydantic=True", id="an option alone"),
        pytest.param({"pydantic": True, "pydantic_context": 3}, "pydantic_context 3 is not a mapping", id="a context that is none"),
    ],
)  # fmt: skip
def test_options_that_say_nothing_are_refused_where_they_stand(app: Celeriac, options: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"task t: {said}"):
        app.task(pay, name="t", **options)


def test_a_client_reads_what_was_wrong(app: Celeriac) -> None:
    from celeriac.wire.result import exception_from_wire, exception_to_wire

    with pytest.raises(ValidationError) as raised:
        app.task(pay, pydantic=True)({"id": "three"})

    rebuilt = exception_from_wire(exception_to_wire(raised.value), sys.modules)

    assert isinstance(rebuilt, CeleriacError)
    assert "Input should be a valid integer" in str(rebuilt)


def test_without_a_task_that_has_models_pydantic_is_not_loaded() -> None:
    code = "import celeriac, sys; celeriac.Celeriac('x').task(lambda: 1, name='t'); sys.exit('pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
