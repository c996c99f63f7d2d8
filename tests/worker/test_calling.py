"""What a call may ask of its publish: which options there are, what they become, and which are refused."""

import queue
import threading
from datetime import timedelta
from typing import Any

import pytest

from celeriac import Celeriac, signals
from celeriac.exceptions import ImproperlyConfigured, NotRoutable, NotSupported
from celeriac.policy.calling import OPTIONS, patience_of, priority_of, terms_of, type_terms
from celeriac.wire.binding import bound_queues, queue_in
from celeriac.wire.message import USUAL, Patience, Terms
from celeriac.worker.assemble import Options, run_worker


class Outbox:
    """A producer that keeps what was published."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def publish(self, message: Any) -> None:
        self.messages.append(message)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def app() -> Celeriac:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    app._producer = Outbox()
    return app


def last(app: Celeriac) -> Any:
    return app._producer.messages[-1]


# -- terms


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        pytest.param({}, None, id="nothing asked for costs nothing"),
        pytest.param({"mandatory": True}, Terms(mandatory=True), id="mandatory"),
        pytest.param({"delivery_mode": 1}, Terms(delivery_mode=1), id="not lasting"),
        pytest.param({"delivery_mode": "transient"}, Terms(delivery_mode=1), id="not lasting, in a word"),
        pytest.param({"retry": False}, Terms(patience=Patience(0)), id="one try"),
        pytest.param({"retry": True}, USUAL, id="tried again as usual"),
        pytest.param({"retry_policy": {"max_retries": 2}}, Terms(patience=Patience(2, 0, 0.2, 1)), id="a policy's gaps are Celery's"),
        pytest.param({"retry": False, "retry_policy": {"max_retries": 2}}, Terms(patience=Patience(0)), id="a policy nobody follows"),
        pytest.param({"timeout": 3}, Terms(timeout_s=3.0), id="a deadline"),
        pytest.param({"timeout": 3, "confirm_timeout": 2.5}, Terms(timeout_s=2.5), id="the nearer of two deadlines"),
        pytest.param({"exchange_type": "topic"}, Terms(exchange_type="topic"), id="the kind of the exchange"),
        pytest.param({"immediate": False}, USUAL, id="not immediate"),
    ],
)  # fmt: skip
def test_options_of_a_call_become_terms(options: dict[str, Any], terms: Terms | None) -> None:
    left = {**options, "queue": "q"}

    assert terms_of("t", left, None) == terms
    assert left == {"queue": "q"}
    assert options.keys() <= OPTIONS


def test_a_call_may_differ_from_its_type() -> None:
    usual = type_terms("t", app_task(mandatory=True, delivery_mode=1))

    assert usual == Terms(mandatory=True, delivery_mode=1)
    assert terms_of("t", {}, usual) is usual
    assert terms_of("t", {"mandatory": False}, usual) == Terms(delivery_mode=1)
    assert terms_of("t", {"delivery_mode": 2}, usual) == Terms(mandatory=True)


def app_task(**options: Any) -> Any:
    return Celeriac("shop", broker="memory://", set_as_current=False).task(lambda: 1, name="t", **options)


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        pytest.param({}, [0.0, 0.2, 0.4], id="Celery's defaults"),
        pytest.param(
            {"max_retries": 4, "interval_start": 0.5, "interval_step": 0.5, "interval_max": 1.2}, [0.5, 1.0, 1.2, 1.2], id="up to a most"
        ),
        pytest.param({"max_retries": 0}, [], id="no retry"),
    ],
)  # fmt: skip
def test_a_retry_policy_says_the_pauses(policy: dict[str, Any], pauses: list[float]) -> None:
    assert list(patience_of("t", policy).pauses()) == pytest.approx(pauses)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        pytest.param({"immediate": True}, NotSupported, "require_consumer=True", id="immediate"),
        pytest.param({"delivery_mode": 3}, ValueError, "delivery_mode 3", id="a mode that is none"),
        pytest.param({"delivery_mode": [2]}, ValueError, "delivery_mode", id="a mode of another type"),
        pytest.param({"retry_policy": {"max_retry": 3}}, TypeError, "max_retry", id="a name in a policy"),
        pytest.param(
            {"retry_policy": {"errback": print}}, TypeError, "errback", id="a callback that nobody would call"
        ),
        pytest.param({"retry_policy": {"max_retries": -1}}, ValueError, "max_retries -1", id="fewer than no tries"),
        pytest.param({"retry_policy": 3}, TypeError, "not a mapping", id="a policy that is none"),
        pytest.param({"timeout": "soon"}, ValueError, "timeout 'soon'", id="a time that is none"),
        pytest.param({"timeout": float("nan")}, ValueError, "timeout nan", id="no number"),
        pytest.param({"exchange_type": "fan"}, ValueError, "'fan'", id="a kind of exchange"),
        pytest.param({"priority": "high"}, TypeError, "urgency='high'", id="a word for a number"),
        pytest.param({"priority": 256}, ValueError, "0 to 255", id="a number too large"),
        pytest.param({"urgency": "asap"}, ValueError, "'high', 'normal', 'low'", id="an urgency that is none"),
        pytest.param({"urgency": "low", "priority": 1}, TypeError, "not both", id="urgency and priority"),
        pytest.param({"coutdown": 3}, TypeError, "did you mean countdown", id="a typing error"),
        pytest.param({"router": print}, TypeError, "router", id="an option nobody reads"),
        pytest.param({"connection": "redis://"}, TypeError, "kombu's", id="a connection that is none"),
        pytest.param({"eta": "tomorrow"}, ValueError, "tomorrow", id="a time in words"),
        pytest.param({"countdown": 1e15}, ValueError, "year 9999", id="too far away"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_task_and_option(
    app: Celeriac, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    task = app.task(lambda: 1, name="shop.pay")

    with pytest.raises(kind, match=said):
        task.apply_async(**options)
    assert app._producer.messages == []


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        pytest.param({"immediate": True}, NotSupported, "task t: immediate", id="immediate"),
        pytest.param({"priority": "9"}, ImproperlyConfigured, "task t: priority '9'", id="priority"),
        pytest.param({"urgency": "asap"}, ImproperlyConfigured, "task t: urgency 'asap'", id="urgency"),
        pytest.param({"urgency": "low", "priority": 0}, ImproperlyConfigured, "not both", id="both"),
        pytest.param({"delivery_mode": 0}, ImproperlyConfigured, "task t: delivery_mode 0", id="delivery mode"),
    ],
)
def test_a_task_that_asks_for_what_cannot_be_is_refused_where_it_is_defined(
    app: Celeriac, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        app.task(lambda: 1, name="t", **options)


# -- priority


@pytest.mark.parametrize(
    ("lowest_first", "most", "numbers"),
    [
        pytest.param(True, None, [0, 3, 6], id="Redis: a step each, the lowest number first"),
        pytest.param(False, None, [9, 4, 0], id="RabbitMQ"),
        pytest.param(False, 10, [10, 5, 0], id="RabbitMQ with x-max-priority 10"),
        pytest.param(False, 1, [1, 0, 0], id="RabbitMQ with two levels"),
    ],
)
def test_an_urgency_is_a_number_of_the_broker(lowest_first: bool, most: int | None, numbers: list[int]) -> None:
    found = [priority_of("t", word, lowest_first=lowest_first, most=most) for word in ("high", "normal", "low")]

    assert found == numbers


@pytest.mark.parametrize(
    ("type_options", "call", "number"),
    [
        pytest.param({}, {}, 0, id="nobody says"),
        pytest.param({"urgency": "low"}, {}, 6, id="the type says"),
        pytest.param({"urgency": "low"}, {"urgency": "high"}, 0, id="the call's urgency is above the type's"),
        pytest.param({"urgency": "low"}, {"priority": 4}, 4, id="the call's number is above the type's urgency"),
        pytest.param({"priority": 4}, {"urgency": "normal"}, 3, id="the call's urgency is above the type's number"),
    ],
)
def test_the_call_is_above_its_type(app: Celeriac, type_options: Any, call: Any, number: int) -> None:
    app.task(lambda: 1, name="t", **type_options).apply_async(**call)

    assert last(app).priority == number


# -- expiry


@pytest.mark.parametrize("expires", [-5, "2020-01-01T00:00:00+00:00"])
def test_what_has_expired_is_sent_for_the_worker_to_mark(app: Celeriac, expires: Any) -> None:
    """With an `expiration` RabbitMQ would drop it, and nobody would ever say that it was revoked."""
    app.task(lambda: 1, name="t").apply_async(expires=expires)

    assert last(app).expiration_s is None
    assert last(app).headers["expires"] is not None


def test_a_time_may_be_given_as_text(app: Celeriac) -> None:
    app.task(lambda: 1, name="t").apply_async(eta="2099-01-01T00:00:00", expires="2099-01-02T00:00:00+02:00")

    assert last(app).headers["eta"] == "2099-01-01T00:00:00+00:00"
    assert last(app).headers["expires"] == "2099-01-02T00:00:00+02:00"


# -- kombu's bindings on Redis

TABLE = [
    "a\x06\x16\x06\x16first",
    "a\x06\x16\x06\x16second",
    "b\x06\x16\x06\x16third",
    "news.*\x06\x16^news\\..*?[^\\.]$\x06\x16one word",
    "news.#\x06\x16^news\\..*?$\x06\x16any words",
]


@pytest.mark.parametrize(
    ("routing_key", "kind", "queues"),
    [
        pytest.param("a", "", ["first", "second"], id="direct: all of the same key"),
        pytest.param("b", "direct", ["third"], id="direct: another key"),
        pytest.param("c", "", [], id="direct: nobody's key"),
        pytest.param("news.sport", "topic", ["any words", "one word"], id="topic"),
        pytest.param("x", "fanout", ["any words", "first", "one word", "second", "third"], id="fanout: all"),
    ],
)
def test_a_table_of_bindings_says_which_queues_are_reached(routing_key: str, kind: str, queues: list[str]) -> None:
    assert bound_queues(TABLE, routing_key, kind) == queues


def test_a_queue_is_in_a_table_by_its_whole_name() -> None:
    assert queue_in(TABLE, "third")
    assert not queue_in(TABLE, "hird")


# -- who is there, where the broker cannot say


def test_workers_are_asked_where_the_broker_cannot_say_who_consumes() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False, task_default_queue="asked", worker_http_port=0)
    task = app.task(lambda: 1, name="t", require_consumer=True)
    with pytest.raises(NotRoutable, match="no worker consumes the queue 'asked'"):
        task.delay()
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def tell(sender: Any, **_: Any) -> None:
        ready.put(sender)

    signals.worker_ready.connect(tell)
    thread = threading.Thread(target=run_worker, args=(app, Options(pool="threads", concurrency=1)))
    thread.start()
    loop = ready.get(timeout=20)
    try:
        task.delay()
        with pytest.raises(NotRoutable, match="'elsewhere'"):
            task.apply_async(queue="elsewhere")
    finally:
        signals.worker_ready.disconnect(tell)
        loop.stop()
        thread.join(timeout=20)
        app.close()
    assert not thread.is_alive()


def test_a_timedelta_is_as_good_as_seconds_in_a_call_and_in_a_task() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    long = timedelta(minutes=1)
    task = app.task(
        lambda: None,
        name="t",
        time_limit=long,
        soft_time_limit=long / 2,
        default_retry_delay=long,
        retry_backoff_max=long,
    )

    def limits(**options: Any) -> Any:
        message = app.message("t", (), {}, task, countdown=None, eta=None, expires=None, task_id=None, options=options)
        return message.headers["timelimit"]

    assert (task.time_limit, task.soft_time_limit, task.default_retry_delay, task.retry_backoff_max) == (60, 30, 60, 60)
    assert limits() == [60, 30]
    assert limits(time_limit=long * 2, soft_time_limit=long) == [120, 60]
    task.apply_async(timeout=long, countdown=long, expires=long)
    with pytest.raises(ValueError, match="soft_time_limit 60 s is above time_limit 30 s"):
        limits(time_limit=long / 2, soft_time_limit=long)
