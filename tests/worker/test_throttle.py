"""What bounds a task type, and the keys of its calls: as tables."""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.broker.connection import BrokerAddress
from celeriac.broker.coordination import coordination_address
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy.outcome import RetryAsked
from celeriac.policy.settlement import Rules, settle
from celeriac.policy.throttle import MOST_CHARACTERS, SEP, Throttle, key_of, throttle_of
from celeriac.wire.message import CONCURRENCY_KEY, RATE_KEY


@dataclass
class Order:
    account: Any
    lines: list[dict[str, int]]


def body(order: Any, shop: str = "main", *rest: Any, **more: Any) -> None:
    """A task's."""


ORDER = Order(account={"id": 17}, lines=[{"sku": 5}, {"sku": 6}])


@pytest.mark.parametrize(
    ("spec", "args", "kwargs", "key"),
    [
        pytest.param("shop", (ORDER, "east"), {}, "east", id="an argument by position"),
        pytest.param("shop", (ORDER,), {"shop": "west"}, "west", id="an argument by name"),
        pytest.param("shop", (ORDER,), {}, "main", id="an argument's default"),
        pytest.param("user", (ORDER,), {"user": 9}, "9", id="one of **kwargs"),
        pytest.param("order.account.id", (ORDER,), {}, "17", id="an attribute, then an entry"),
        pytest.param("order.lines.1.sku", (ORDER,), {}, "6", id="a place in a list"),
        pytest.param("shop", (ORDER, ""), {}, "", id="an empty text is a key: of all calls without one"),
        pytest.param("shop", (ORDER, f"a{SEP}b"), {}, "ab", id="what separates ids is left out"),
        pytest.param(lambda args, kwargs: (args[0].account["id"], kwargs["x"]), (ORDER,), {"x": 1}, "(17, 1)", id="a function"),
    ],
)  # fmt: skip
def test_a_key_is_found_however_the_argument_was_passed(spec: Any, args: Any, kwargs: Any, key: str) -> None:
    assert key_of(spec, args, kwargs, inspect.signature(body)) == key


@pytest.mark.parametrize(
    ("spec", "args", "problem"),
    [
        pytest.param("user", (ORDER,), "'user' was not found: this call has no such argument", id="no such argument"),
        pytest.param("order.buyer", (ORDER,), "Order has no 'buyer'", id="no such attribute"),
        pytest.param("order.account.name", (ORDER,), "dict has no 'name'", id="no such entry"),
        pytest.param("order.lines.7", (ORDER,), "list has no '7'", id="no such place"),
        pytest.param("order", (None,), "'order' is None", id="none"),
    ],
)
def test_a_call_without_its_key_is_refused_by_name(spec: str, args: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        key_of(spec, args, {}, inspect.signature(body))


def test_a_long_key_is_cut_and_still_its_own() -> None:
    first, second = (key_of("shop", (), {"shop": "x" * 5000 + end}) for end in "ab")

    assert len(first) == len(second) == MOST_CHARACTERS
    assert first != second


TASK = {
    "rate_limit": None, "rate_limit_scope": "worker", "rate_limit_key": None, "max_concurrency": None, "concurrency_key": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "throttle"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"rate_limit": "0"}, None, id="no rate"),
        pytest.param({"rate_limit": "60/m"}, Throttle("t", 1.0), id="a worker's own rate"),
        pytest.param({"rate_limit": 2, "rate_limit_scope": "cluster"}, Throttle("t", 2.0, shared=True), id="the cluster's"),
        pytest.param(
            {"rate_limit": 2, "rate_limit_key": "a"}, Throttle("t", 2.0, shared=True, rate_keyed=True), id="by key: the cluster's"
        ),
        pytest.param({"max_concurrency": 3}, Throttle("t", shared=True, most=3), id="places"),
        pytest.param(
            {"rate_limit": 2, "max_concurrency": 3, "concurrency_key": "b"},
            Throttle("t", 2.0, shared=True, most=3, concurrency_keyed=True),
            id="both: the cluster's",
        ),
    ],
)  # fmt: skip
def test_the_bounds_of_a_type(options: dict[str, Any], throttle: Throttle | None) -> None:
    assert throttle_of("t", type("Options", (), {**TASK, **options})) == throttle


def test_rates_may_be_ignored_and_places_not() -> None:
    options = type("Options", (), {**TASK, "rate_limit": 2, "max_concurrency": 3})

    assert throttle_of("t", options, rates=False) == Throttle("t", shared=True, most=3)


def test_calls_of_the_same_keys_stand_in_one_line() -> None:
    both = Throttle("t", 1.0, shared=True, rate_keyed=True, most=1, concurrency_keyed=True)
    headers = {RATE_KEY: "a", CONCURRENCY_KEY: "b"}

    assert both.fifo(headers) == f"t{SEP}a{SEP}b"
    assert both.fifo({}) == both.fifo({RATE_KEY: 7}) == "t"  # of clients that know no keys
    assert Throttle("t", 1.0).fifo(headers) == "t"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rate_limit": "10/d"}, "rate limit '10/d'"),
        ({"max_concurrency": 0}, "max_concurrency 0"),
        ({"max_concurrency": True}, "max_concurrency True"),
        ({"max_concurrency": "3"}, "max_concurrency '3'"),
        ({"concurrency_key": "shop"}, "concurrency_key without max_concurrency"),
        ({"rate_limit_key": ".shop"}, "rate_limit_key '.shop'"),
        ({"rate_limit_key": 5}, "rate_limit_key 5"),
        ({"rate_limit": 5, "rate_limit_scope": "world"}, "rate_limit_scope 'world'"),
    ],
    ids=str,
)
def test_bounds_that_cannot_be_kept_are_refused_where_the_task_is_defined(
    options: dict[str, Any], problem: str
) -> None:
    app = Celeriac("shop", set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match=f"task t: {problem}"):
        app.task(lambda shop: 1, name="t", **options)


# -- in the client


def test_a_call_carries_its_keys_unless_the_caller_gives_others() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    task = app.task(bind=True, name="t", rate_limit=5, rate_limit_key="shop", max_concurrency=2, concurrency_key="n.0")(
        lambda self, shop, n=(7,): None
    )

    def headers(args: Any, **options: Any) -> dict[str, Any]:
        message = app.message(
            "t", args, {}, task, countdown=None, eta=None, expires=None, task_id=None, options=options
        )
        return {name: message.headers.get(name) for name in (RATE_KEY, CONCURRENCY_KEY)}

    assert headers(["east"]) == {RATE_KEY: "east", CONCURRENCY_KEY: "7"}
    assert headers(["east"], headers={RATE_KEY: "mine"}) == {RATE_KEY: "mine", CONCURRENCY_KEY: "7"}
    with pytest.raises(ValueError, match="task t: the key 'shop' is None"):
        task.delay(None)


def test_a_retry_is_counted_by_the_same_keys() -> None:
    headers = {"id": "i", "task": "t", "retries": 0, RATE_KEY: "east"}
    asked = RetryAsked(error=None, traceback="", due_at=99.0, args=(), kwargs={}, options={})

    [again] = settle(asked, headers, Rules(), queue="q", hostname="w", now=1.0).publish

    assert again.headers[RATE_KEY] == "east"


# -- the store


@pytest.mark.parametrize(
    ("broker", "url", "backend", "store"),
    [
        pytest.param("redis://a/0", None, None, "redis://a/0", id="the Redis broker"),
        pytest.param("redis://a/0", "redis://b/0", "redis://c/0", "redis://a/0", id="the Redis broker, whatever else there is"),
        pytest.param("amqp://a//", None, "redis://c/0", "redis://c/0", id="else a Redis result store"),
        pytest.param("amqp://a//", "valkey://b/0", "redis://c/0", "valkey://b/0", id="but first what was named"),
        pytest.param("amqp://a//", None, None, None, id="none"),
        pytest.param("memory://", None, "memory://", None, id="none in memory"),
    ],
)  # fmt: skip
def test_the_coordination_store_is(broker: str, url: str | None, backend: str | None, store: str | None) -> None:
    found = coordination_address(BrokerAddress(url=broker), url=url, result_backend=backend, result_options={})

    assert (found.url if found is not None else None) == store


def test_a_coordination_url_that_is_no_redis_is_refused_without_its_password() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"amqp://me:\*\*@b//.*must be a Redis") as raised:
        coordination_address(
            BrokerAddress(url="redis://a/0"), url="amqp://me:secret@b//", result_backend=None, result_options={}
        )

    assert "secret" not in str(raised.value)
