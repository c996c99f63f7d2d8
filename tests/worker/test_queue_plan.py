"""Which queues there are: task_queues in every form, defaults, and what becomes of names that it does not have."""

from typing import Any

import kombu
import pytest

from celeriac import Celeriac
from celeriac.app.addresses import plan_of
from celeriac.broker.plan import USUAL_PLAN, worker_direct
from celeriac.config import Settings
from celeriac.exceptions import ImproperlyConfigured, NotSupported, QueueNotFound
from celeriac.worker.assemble import Options, run_worker

MEDIA = kombu.Exchange("media", type="topic")


def told(queue: kombu.Queue) -> tuple[Any, ...]:
    return queue.name, queue.exchange.name, queue.exchange.type, queue.routing_key, queue.queue_arguments or {}


@pytest.mark.parametrize(
    ("settings", "queues"),
    [
        pytest.param({}, [("celery", "celery", "direct", "celery", {})], id="nothing: Celery's own"),
        pytest.param({"task_default_queue": "q"}, [("q", "q", "direct", "q", {})], id="another default"),
        pytest.param(
            {"task_default_queue": "q", "task_default_exchange": "x", "task_default_exchange_type": "topic", "task_default_routing_key": "a.b"},
            [("q", "x", "topic", "a.b", {})], id="a default with an exchange",
        ),
        pytest.param(
            {"task_default_queue_type": "quorum"}, [("celery", "celery", "direct", "celery", {"x-queue-type": "quorum"})], id="a quorum default"
        ),
        pytest.param({"task_queues": ["a", "b"]}, [("a", "a", "direct", "a", {}), ("b", "b", "direct", "b", {})], id="names"),
        pytest.param({"task_queues": "a, b"}, [("a", "a", "direct", "a", {}), ("b", "b", "direct", "b", {})], id="names of an environment variable"),
        pytest.param({"task_queues": [kombu.Queue("v", MEDIA, routing_key="video.#")]}, [("v", "media", "topic", "video.#", {})], id="kombu's"),
        pytest.param(
            {"task_queues": [kombu.Queue("v")], "task_default_exchange": "x", "task_default_routing_key": "k"},
            [("v", "x", "direct", "k", {})], id="kombu's without an exchange has the default one",
        ),
        pytest.param(
            {"CELERY_QUEUES": {"v": {"exchange": "media", "exchange_type": "topic", "binding_key": "video.#"}, "d": None}},
            [("v", "media", "topic", "video.#", {}), ("d", "d", "direct", "d", {})], id="the guide's mapping",
        ),
        pytest.param(
            {"task_queues": [{"name": "v", "routing_key": "k", "queue_arguments": {"x-queue-type": "quorum"}}], "task_queue_max_priority": 10},
            [("v", "v", "direct", "k", {"x-queue-type": "quorum"})], id="quorum queues have no priorities",
        ),
        pytest.param(
            {"task_queues": [kombu.Queue("a"), kombu.Queue("b", queue_arguments={"x-max-priority": 3})], "task_queue_max_priority": 10},
            [("a", "celery", "direct", "celery", {"x-max-priority": 10}), ("b", "celery", "direct", "celery", {"x-max-priority": 3})],
            id="a most priority for those that have none",
        ),
    ],
)  # fmt: skip
def test_queues_are_named_in_every_form(settings: dict[str, Any], queues: list[Any]) -> None:
    assert [told(queue) for queue in plan_of(Settings(settings)).named.values()] == queues


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        (7, "task_queues=7 cannot be used: expected a list"),
        ([7], "7 is no queue: use kombu.Queue"),
        ([{"routing_key": "k"}], "is no queue"),
        ({"v": "media"}, "'media' is no queue"),
        ({"v": {"exchage": "media"}}, "the queue 'v' has no option exchage; it takes .*exchange"),
    ],
)
def test_what_is_no_queue_is_refused_with_what_one_is(queues: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        plan_of(Settings({"task_queues": queues}))


def test_the_projects_own_queue_object_is_left_as_it_is() -> None:
    own = kombu.Queue("v")

    plan_of(Settings({"task_queues": [own], "task_queue_max_priority": 9}))

    assert not own.queue_arguments
    assert (own.routing_key, own.exchange.name) == ("", "")


def test_queues_without_a_name_in_the_table_are_declared_as_celery_does() -> None:
    plan = plan_of(
        Settings(
            {
                "task_create_missing_queue_type": "quorum",
                "task_create_missing_queue_exchange_type": "topic",
                "task_queue_max_priority": 5,
            }
        )
    )

    assert told(plan.queue("new")) == ("new", "new", "topic", "new", {"x-queue-type": "quorum"})
    assert told(USUAL_PLAN.queue("new")) == ("new", "new", "direct", "new", {})
    assert told(worker_direct("w@h")) == ("w@h.dq", "C.dq2", "direct", "w@h", {})


@pytest.mark.parametrize(
    ("options", "way"),
    [
        pytest.param({}, ("celery", "", ""), id="the default queue"),
        pytest.param({"queue": "plain"}, ("plain", "", ""), id="a queue by its name"),
        pytest.param({"queue": "video"}, ("video", "media", "video.new"), id="a queue of a topic exchange, by its own key"),
        pytest.param({"queue": "video", "routing_key": "video.hd"}, ("video", "media", "video.hd"), id="or by the call's"),
        pytest.param({"queue": "other"}, ("other", "", ""), id="a queue that is not in the table"),
        pytest.param({"routing_key": "other"}, ("other", "", ""), id="a key alone is a queue"),
        pytest.param({"queue": kombu.Queue("own", MEDIA, routing_key="own.key")}, ("own", "media", "own.key"), id="kombu's queue"),
        pytest.param({"exchange": "x", "routing_key": "k"}, ("k", "x", "k"), id="an exchange"),
    ],
)  # fmt: skip
def test_a_call_goes_the_way_of_its_queue(options: dict[str, Any], way: tuple[str, str, str]) -> None:
    queues = ["celery", "plain", kombu.Queue("video", MEDIA, routing_key="video.new")]
    app = Celeriac("shop", broker="memory://", set_as_current=False, task_queues=queues)

    found = app.message("t", (), {}, None, countdown=None, eta=None, expires=None, task_id=None, options=options)

    assert (found.queue, found.exchange, found.routing_key) == way


def test_a_default_topic_exchange_takes_the_calls_key() -> None:
    app = Celeriac(
        "shop", broker="memory://", set_as_current=False, task_default_exchange_type="topic", task_default_exchange="x"
    )

    found = app.message(
        "t", (), {}, None, countdown=None, eta=None, expires=None, task_id=None, options={"routing_key": "a.b"}
    )

    assert (found.queue, found.exchange, found.routing_key) == ("celery", "x", "a.b")


def test_a_queue_that_is_not_in_the_table_is_an_error_where_the_settings_say_so() -> None:
    app = Celeriac(
        "shop", broker="memory://", set_as_current=False, task_queues=["a", "b"], task_create_missing_queues=False
    )

    with pytest.raises(QueueNotFound, match=r"the queue 'c' is not in task_queues \(a, b\)"):
        app.send_task("t", queue="c")
    with pytest.raises(QueueNotFound, match="'celery'"):  # the default queue is not there, too
        app.send_task("t")
    with pytest.raises(ImproperlyConfigured, match="the queue 'c' is not in task_queues"):
        run_worker(app, Options(pool="solo", queues=("a", "c")))
    app.send_task("t", queue="a")


def test_a_broadcast_queue_is_selected_by_the_name_that_its_project_knows() -> None:
    from kombu.common import Broadcast

    queue = Broadcast("news")
    plan = plan_of(Settings({"task_queues": [queue, "a"]}))

    assert plan.select(["news", "a", "news"]) == [queue.name, "a"]
    assert plan.way("news")[:2] == (queue.name, "news")


@pytest.mark.parametrize(
    ("settings", "options", "queues"),
    [
        pytest.param({}, {}, ["celery"], id="the default one"),
        pytest.param({"task_queues": ["a", "b", "c"]}, {}, ["a", "b", "c"], id="all of task_queues"),
        pytest.param({"task_queues": ["a", "b", "c"]}, {"queues": ("c", "d")}, ["c", "d"], id="those of -Q"),
        pytest.param({"task_queues": ["a", "b", "c"]}, {"exclude_queues": ("b",)}, ["a", "c"], id="without those of -X"),
        pytest.param({"worker_direct": True}, {}, ["celery", "w@h.dq"], id="and its own"),
    ],
)  # fmt: skip
def test_a_worker_reads_the_queues_that_it_is_told(
    settings: dict[str, Any], options: dict[str, Any], queues: list[str]
) -> None:
    from celeriac.worker.assemble import _queues

    app = Celeriac("shop", broker="memory://", set_as_current=False, **settings)

    assert _queues(app, Options(**options), "w@h") == queues


def test_a_fanout_queue_is_refused_where_it_would_lose_messages() -> None:
    queues = [kombu.Queue("news", kombu.Exchange("news", type="fanout"))]
    app = Celeriac("shop", broker="redis://127.0.0.1:1/0", set_as_current=False, task_queues=queues)

    with pytest.raises(NotSupported, match="the queue news is bound to a fanout exchange, which is PUB/SUB on Redis"):
        run_worker(app, Options(pool="solo"))
    with pytest.raises(ImproperlyConfigured, match="no queue is left to read"):
        run_worker(app, Options(pool="solo", exclude_queues=("news",)))
