"""Tasks: how they are named and made, what their options become, how they are called, and how they ask to run again."""

import inspect
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celeriac, Task
from celeriac.app.context import Request, current
from celeriac.app.retrying import again_with
from celeriac.exceptions import Ignore, ImproperlyConfigured, MaxRetriesExceededError, Reject, Retry
from celeriac.result import EagerResult
from celeriac.wire.message import TaskMessage


class Outbox:
    """A producer that keeps what was published."""

    def __init__(self) -> None:
        self.messages: list[TaskMessage] = []

    def publish(self, message: TaskMessage) -> None:
        self.messages.append(message)

    def publish_raw(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a client publishes messages, not bytes")

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def app() -> Celeriac:
    return Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture
def outbox(app: Celeriac) -> Outbox:
    app._producer = box = Outbox()
    return box


# -- definition


def test_a_task_is_named_after_its_module_and_function(app: Celeriac) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        """The sum."""
        return x + y

    assert add.name == f"{__name__}.add"
    assert (add.__doc__, add.__module__) == ("The sum.", __name__)
    assert app.tasks[add.name] is add


def test_tasks_of_the_main_module_take_the_apps_name(app: Celeriac) -> None:
    def add() -> None: ...

    add.__module__ = "__main__"

    assert app.task(add).name == "shop.add"


def test_a_name_may_be_given(app: Celeriac) -> None:
    assert app.task(lambda: 1, name="sums.one").name == "sums.one"
    assert app.task(name="sums.two")(lambda: 2).name == "sums.two"


def test_an_app_may_name_tasks_in_its_own_way() -> None:
    class Shouting(Celeriac):
        def gen_task_name(self, name: str, module: str) -> str:
            return super().gen_task_name(name, module).upper()

    def add() -> None: ...

    assert Shouting("shop", set_as_current=False).task(add).name == f"{__name__}.add".upper()


def test_a_bound_task_gets_itself_first_and_an_unbound_one_does_not(app: Celeriac) -> None:
    bound = app.task(lambda self, x: (self, x), bind=True, name="bound")
    plain = app.task(lambda x: x, name="plain")

    assert bound(7) == (bound, 7)
    assert plain(7) == 7


def test_options_become_attributes_and_others_stay_as_the_class_has_them(app: Celeriac) -> None:
    task = app.task(lambda: 1, name="t", max_retries=9, rate_limit="10/m", queue="q", priority=3, colour="red")

    assert (task.max_retries, task.rate_limit, task.queue, task.priority, task.colour) == (9, "10/m", "q", 3, "red")
    assert (task.default_retry_delay, Task.max_retries) == (180.0, 3)


@pytest.mark.parametrize(
    ("attribute", "setting", "value"),
    [
        ("ignore_result", "task_ignore_result", True),
        ("acks_late", "task_acks_late", True),
        ("track_started", "task_track_started", True),
        ("serializer", "task_serializer", "yaml"),
        ("rate_limit", "task_default_rate_limit", "5/s"),
        ("rate_limit_scope", "task_rate_limit_scope", "cluster"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored", True),
    ],
)
def test_what_a_task_does_not_say_the_settings_say(attribute: str, setting: str, value: object) -> None:
    app = Celeriac("shop", set_as_current=False, **{setting: value})

    assert getattr(app.task(lambda: 1, name="silent"), attribute) == value
    said = "worker" if attribute == "rate_limit_scope" else 0
    assert getattr(app.task(lambda: 1, name="outspoken", **{attribute: said}), attribute) == said
    assert getattr(Task, attribute) is None


def test_a_rate_limit_that_is_none_is_refused_by_task_and_value(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match="task t: rate limit 'often'"):
        app.task(lambda: 1, name="t", rate_limit="often")


def test_a_class_of_the_users_own_is_the_base(app: Celeriac) -> None:
    class Database(Task):
        abstract = True
        opened = 0

        @property
        def connection(self) -> int:
            type(self).opened += 1
            return self.opened

    task = app.task(lambda self: self.connection, bind=True, base=Database, name="t")

    assert isinstance(task, Database)
    assert (task(), task()) == (1, 2)


def test_a_class_with_a_run_method_can_be_registered(app: Celeriac) -> None:
    class Add(Task):
        name = "classy.add"

        def run(self, x: int, y: int = 1) -> int:
            return x + y

    task = app.register_task(Add())

    assert app.tasks["classy.add"] is task
    assert task(2) == 3
    with pytest.raises(TypeError, match=r"classy\.add"):
        task.check_arguments((), {})


def test_a_task_is_decorated_once(app: Celeriac) -> None:
    task = app.task(lambda: 1, name="t")

    with pytest.raises(ImproperlyConfigured, match="t is a task already"):
        app.task(task)


def test_options_without_a_name_are_refused(app: Celeriac) -> None:
    with pytest.raises(TypeError, match="named options only"):
        app.task("add")


# -- calling


def test_delay_and_apply_async_send_the_same_call(app: Celeriac, outbox: Outbox) -> None:
    add = app.task(lambda x, y=0: x + y, name="add")

    handles = [add.delay(2, y=3), add.apply_async((2,), {"y": 3}), add.apply_async([2], {"y": 3}, task_id="chosen")]

    assert [message.body[:2] for message in outbox.messages] == [((2,), {"y": 3})] * 3
    assert [handle.id for handle in handles] == [message.id for message in outbox.messages]
    assert len({handle.id for handle in handles}) == 3
    assert handles[2].id == "chosen"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((1,), {}, id="too few"),
        pytest.param((1, 2, 3), {}, id="too many"),
        pytest.param((1,), {"z": 2}, id="an unknown name"),
        pytest.param((1, 2), {"y": 2}, id="one twice"),
    ],
)
@pytest.mark.parametrize("bind", [False, True], ids=["plain", "bound"])
def test_arguments_that_do_not_fit_are_refused_where_the_call_is_made(
    app: Celeriac, outbox: Outbox, bind: bool, args: Any, kwargs: Any
) -> None:
    def add(x: int, y: int) -> int:
        return x + y

    def bound_add(self: Task, x: int, y: int) -> int:
        return x + y

    task = app.task(bound_add if bind else add, bind=bind, name="sums.add")

    with pytest.raises(TypeError, match=r"sums\.add\(x: int, y: int\)"):
        task.apply_async(args, kwargs)
    assert outbox.messages == []
    task.apply_async((1, 2))
    assert len(outbox.messages) == 1


def test_arguments_are_not_checked_where_typing_is_off(app: Celeriac, outbox: Outbox) -> None:
    app.task(lambda x: x, name="t", typing=False).delay(1, 2, 3)

    assert outbox.messages[0].body[0] == (1, 2, 3)


def test_a_call_may_wait_and_expire(app: Celeriac, outbox: Outbox) -> None:
    task = app.task(lambda: 1, name="t")
    naive = datetime(2030, 1, 1, 12, 0)  # noqa: DTZ001 - what users pass

    for options in (
        {"countdown": 30},
        {"eta": naive},
        {"expires": 60},
        {"expires": naive},
        {"eta": datetime(2030, 1, 1, tzinfo=UTC)},
    ):
        task.apply_async(**options)

    now = datetime.now(UTC).timestamp()
    noon = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
    countdown, eta, expires, expires_at, aware = outbox.messages
    assert countdown.due_at == pytest.approx(now + 30, abs=2)
    assert (eta.due_at, aware.due_at) == (noon.timestamp(), noon.timestamp() - 12 * 3600)
    assert expires.expiration_s == pytest.approx(60, abs=2)
    assert expires_at.headers["expires"] == noon.isoformat()


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        pytest.param({"time_limit": 30, "soft_time_limit": 20}, "timelimit", [30, 20], id="time limits"),
        pytest.param({"ignore_result": True}, "ignore_result", True, id="ignored result"),
    ],
)
def test_a_types_options_go_with_its_calls(
    app: Celeriac, outbox: Outbox, options: Any, header: str, value: object
) -> None:
    app.task(lambda: 1, name="t", **options).delay()

    assert outbox.messages[0].headers[header] == value


@pytest.mark.parametrize("expires", [60, timedelta(minutes=1)], ids=repr)
def test_a_type_may_say_when_its_calls_expire_and_a_call_may_say_otherwise(
    app: Celeriac, outbox: Outbox, expires: Any
) -> None:
    task = app.task(lambda: 1, name="t", expires=expires, time_limit=30)

    task.delay()
    task.apply_async(expires=5, time_limit=9)

    assert [message.expiration_s for message in outbox.messages] == [pytest.approx(60), pytest.approx(5)]
    assert [message.headers["timelimit"][0] for message in outbox.messages] == [30, 9]


def test_a_soft_limit_above_the_hard_one_is_refused_where_it_is_written(app: Celeriac, outbox: Outbox) -> None:
    task = app.task(lambda: 1, name="t", time_limit=30)

    with pytest.raises(ValueError, match="above time_limit 30 s"):
        task.apply_async(soft_time_limit=31)
    task.apply_async(soft_time_limit=30)

    assert [message.headers["timelimit"] for message in outbox.messages] == [[30, 30]]


def test_a_calls_queue_comes_before_its_types_and_that_before_the_routes(outbox: Outbox, app: Celeriac) -> None:
    app.conf.task_routes = {"routed": {"queue": "route", "priority": 5}}
    routed = app.task(lambda: 1, name="routed", queue="type", priority=1)
    typed = app.task(lambda: 1, name="typed", queue="type", priority=1)
    plain = app.task(lambda: 1, name="plain")

    routed.apply_async(queue="call", priority=9)
    routed.delay()
    app.send_task("routed")
    typed.delay()
    plain.delay()

    assert [(message.queue, message.priority) for message in outbox.messages] == [
        ("call", 9),
        ("type", 1),
        ("route", 5),
        ("type", 1),
        ("celery", 0),
    ]


def test_a_route_may_give_any_option_and_a_call_stands_above_it(outbox: Outbox, app: Celeriac) -> None:
    app.conf.task_routes = {
        "t": {"queue": "q", "serializer": "yaml", "compression": "gzip", "mandatory": True, "headers": {"a": 1}}
    }

    app.send_task("t")
    app.send_task("t", compression="bzip2")

    assert [(m.queue, m.serializer, m.compression, m.headers["a"]) for m in outbox.messages] == [
        ("q", "yaml", "gzip", 1), ("q", "yaml", "bzip2", 1),
    ]  # fmt: skip
    assert outbox.messages[0].terms is not None
    assert outbox.messages[0].terms.mandatory


def test_routes_that_are_none_are_refused_at_the_first_call(app: Celeriac) -> None:
    app.conf.task_routes = [7]

    with pytest.raises(ImproperlyConfigured, match="task_routes cannot be used: 7 is no router"):
        app.send_task("t")


def test_a_task_compresses_as_it_says_and_else_as_the_settings_do(outbox: Outbox, app: Celeriac) -> None:
    app.conf.task_compression = "gzip"
    plain, own = app.task(lambda: 1, name="plain"), app.task(lambda: 1, name="own", compression="bzip2")

    plain.delay()
    own.delay()
    app.send_task("by name")

    assert [message.compression for message in outbox.messages] == ["gzip", "bzip2", "gzip"]


@pytest.mark.parametrize(("inherit", "priority"), [(True, 7), (False, 0)])
def test_a_call_of_a_task_has_its_priority_where_the_settings_say_so(
    outbox: Outbox, app: Celeriac, inherit: bool, priority: int
) -> None:
    app.conf.task_inherit_parent_priority = inherit
    outer = app.task(lambda: app.send_task("inner"), name="outer")
    token = current.set(Request(outer, {"id": "a1"}, delivery_info={"priority": 7}))
    try:
        outer.run()
        app.send_task("inner", priority=2)
    finally:
        current.reset(token)

    assert [message.priority for message in outbox.messages] == [priority, 2]


# -- the request


def test_each_thread_has_a_request_of_its_own_and_inner_calls_nest(app: Celeriac) -> None:
    together = threading.Barrier(4)
    seen: dict[int, list[Any]] = {}

    @app.task(bind=True, name="outer")
    def outer(self: Task, number: int) -> None:
        together.wait(5)
        seen[number] = [self.request.id]
        inner.apply((number,), task_id=f"inner{number}")
        outer(-number) if number > 0 else None
        seen[number].append(self.request.id)

    @app.task(bind=True, name="inner")
    def inner(self: Task, number: int) -> None:
        together.wait(5)
        seen[number] += [self.request.id, outer.request.id]
        together.wait(5)

    outer.run = lambda number, body=outer.run: (
        body(number) if number > 0 else seen.setdefault(number, [outer.request.id, outer.request.args])
    )
    threads = [
        threading.Thread(target=outer.apply, args=((number,),), kwargs={"task_id": f"outer{number}"})
        for number in (1, 2, 3, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    for number in (1, 2, 3, 4):
        assert seen[number] == [f"outer{number}", f"inner{number}", f"outer{number}", f"outer{number}"]
        assert seen[-number] == [None, (-number,)]
    assert outer.request.id is None


def test_outside_of_a_run_the_request_is_that_of_a_direct_call(app: Celeriac) -> None:
    request = app.task(lambda: 1, name="t").request

    assert (request.called_directly, request.id, request.retries, request.anything) == (True, None, 0, None)


# -- retry


def test_a_retry_in_a_direct_call_raises_its_cause(app: Celeriac) -> None:
    @app.task(bind=True, name="t")
    def fetch(self: Task, given: bool) -> None:
        try:
            raise OSError("away")
        except OSError as error:
            raise self.retry(exc=error if given else None) from error

    for given in (True, False):
        with pytest.raises(OSError, match="away"):
            fetch(given)


def test_a_retry_in_a_direct_call_without_a_cause_raises_retry(app: Celeriac) -> None:
    @app.task(bind=True, name="t")
    def fetch(self: Task) -> None:
        raise self.retry()

    with pytest.raises(Retry):
        fetch()


@pytest.mark.parametrize(("given", "kind"), [(True, KeyError), (False, MaxRetriesExceededError)])
def test_when_the_retries_are_used_up_the_cause_is_raised_or_else_that_they_are(
    app: Celeriac, given: bool, kind: type[Exception]
) -> None:
    tries: list[int] = []

    @app.task(bind=True, name="t", max_retries=2)
    def fetch(self: Task, x: int) -> None:
        tries.append(self.request.retries)
        raise self.retry(exc=KeyError("k") if given else None, countdown=0)

    result = fetch.apply((7,))

    assert tries == [0, 1, 2]
    assert result.state == "FAILURE"
    assert type(result.result) is kind
    if not given:
        assert "t[" in str(result.result)
        assert result.result.task_args == [7]


def test_one_retry_may_have_a_limit_of_its_own(app: Celeriac) -> None:
    tries: list[int] = []

    @app.task(bind=True, name="t", max_retries=0)
    def fetch(self: Task) -> None:
        tries.append(self.request.retries)
        raise self.retry(max_retries=3)

    fetch.apply()

    assert tries == [0, 1, 2, 3]


# -- eager


def test_an_eager_call_runs_here_and_has_a_result(app: Celeriac) -> None:
    seen: list[Any] = []

    @app.task(bind=True, name="t")
    def add(self: Task, x: int, y: int) -> int:
        seen.append((self.request.id, self.request.is_eager, self.request.called_directly))
        return x + y

    result = add.apply((2,), {"y": 3}, task_id="a1")

    assert isinstance(result, EagerResult)
    assert (result.get(), result.state, result.id, result.successful()) == (5, "SUCCESS", "a1", True)
    assert seen == [("a1", True, False)]


def test_an_eager_failure_is_raised_by_get_or_at_once(app: Celeriac) -> None:
    @app.task(name="t")
    def fail() -> None:
        raise KeyError("k")

    result = fail.apply()

    assert result.failed()
    assert "KeyError" in (result.traceback or "")
    with pytest.raises(KeyError):
        result.get()
    assert isinstance(result.get(propagate=False), KeyError)
    with pytest.raises(KeyError):
        fail.apply(throw=True)


def test_an_app_that_is_always_eager_sends_nothing(app: Celeriac, outbox: Outbox) -> None:
    app.conf.task_always_eager = True
    add = app.task(lambda x: x + 1, name="t")

    assert add.delay(2).get() == 3
    assert add.apply_async((2,), countdown=60, queue="q").get() == 3
    assert outbox.messages == []
    app.conf.task_eager_propagates = True
    with pytest.raises(TypeError):
        app.task(lambda: 1 + None, name="broken").delay()  # type: ignore[operator]


def test_an_eager_call_retries_at_once_with_what_the_retry_changes(app: Celeriac) -> None:
    tries: list[Any] = []

    @app.task(bind=True, name="t")
    def fetch(self: Task, x: int, deep: bool = False) -> str:
        tries.append((self.request.id, self.request.retries, x, deep))
        if self.request.retries < 2:
            raise self.retry(args=(x + 1,), kwargs={"deep": True}, countdown=3600)
        return "done"

    assert fetch.apply((1,), task_id="a1").get() == "done"
    assert tries == [("a1", 0, 1, False), ("a1", 1, 2, True), ("a1", 2, 3, True)]


def test_an_eager_call_retries_by_itself_where_the_task_says_so(app: Celeriac) -> None:
    tries: list[int] = []

    @app.task(name="t", autoretry_for=(OSError,), max_retries=2)
    def fetch() -> None:
        tries.append(1)
        raise OSError("away")

    result = fetch.apply()

    assert len(tries) == 3
    assert isinstance(result.result, OSError)


def test_an_eager_retry_that_is_not_raised_happens_all_the_same(app: Celeriac) -> None:
    tries: list[int] = []

    @app.task(bind=True, name="t")
    def fetch(self: Task) -> str:
        tries.append(self.request.retries)
        if not self.request.retries:
            self.retry(throw=False)
        return "done"

    assert fetch.apply().get() == "done"
    assert tries == [0, 1]


@pytest.mark.parametrize(
    ("error", "state"),
    [(Ignore(), "IGNORED"), (Reject("x"), "IGNORED"), (Retry("by hand"), "RETRY")],
    ids=["ignore", "reject", "a retry by hand"],
)
def test_an_eager_task_may_steer(app: Celeriac, error: Exception, state: str) -> None:
    @app.task(name="t")
    def steer() -> None:
        raise error

    assert steer.apply().state == state


# -- states


def test_a_task_may_store_a_state_of_its_own(app: Celeriac) -> None:
    @app.task(bind=True, name="t")
    def work(self: Task) -> Any:
        self.update_state(state="PROGRESS", meta={"current": 3})
        return app.AsyncResult("a1").state, app.AsyncResult("a1").info

    assert work.apply(task_id="a1").get() == ["PROGRESS", {"current": 3}]


def test_a_state_without_a_task_is_a_warning(app: Celeriac, caplog: pytest.LogCaptureFixture) -> None:
    app.task(lambda: 1, name="t").update_state(state="PROGRESS")

    assert "t.update_state(PROGRESS): no task runs here" in caplog.text


def test_a_retry_with_an_unknown_option_says_which_it_takes(app: Celeriac) -> None:
    @app.task(name="odd")
    def odd() -> None: ...

    with pytest.raises(TypeError, match=r"odd\.retry\(\) does not know coutdown; it takes .*priority"):
        odd.retry(coutdown=3)


def _plain(x: Any, y: Any = 0, *more: Any, z: Any = 0) -> None: ...
def _by_place(x: Any, /, y: Any = 0, **named: Any) -> None: ...


@pytest.mark.parametrize(
    ("body", "own", "given", "expected"),
    [
        pytest.param(_plain, ((1, 2), {}), (None, {"y": 3}), ((1, 3), {}), id="a name for what had a place"),
        pytest.param(_plain, ((1,), {"y": 2}), (None, {"y": 3}), ((1,), {"y": 3}), id="another value of a name"),
        pytest.param(_plain, ((1, 2, 3), {}), (None, {"z": 4}), ((1, 2, 3), {"z": 4}), id="a name more"),
        pytest.param(_plain, ((1,), {"y": 2}), ((5, 6), None), ((5, 6), {}), id="a place for what had a name"),
        pytest.param(_plain, ((1,), {"z": 2}), ((5,), None), ((5,), {"z": 2}), id="the names stay"),
        pytest.param(_by_place, ((1, 2), {}), (None, {"y": 3, "x": 9}), ((1, 3), {"x": 9}), id="a place without a name"),
        pytest.param(max, ((1, 2), {}), (None, {"key": None}), ((1, 2), {"key": None}), id="a builtin"),
    ],
)  # fmt: skip
def test_what_a_retry_leaves_open_stays_and_no_argument_is_given_twice(
    body: Any, own: Any, given: Any, expected: Any
) -> None:
    args, kwargs = again_with(body, *own, *given)

    assert (tuple(args), kwargs) == expected


def test_a_retry_takes_what_celery_s_takes(app: Celeriac) -> None:
    """Keys of queues, names for monitors, callbacks; and what speaks of the publish, which is the worker's."""
    app.task(lambda value: None, name="done")
    done: Any = app.tasks["done"]

    @app.task(bind=True, name="t")
    def work(self: Task, x: int, y: int = 0) -> int:
        if not self.request.retries:
            raise self.retry(
                kwargs={"x": 5}, countdown=0, routing_key="other", shadow="again", link=done.s(), link_error=[done.s()],
                retry=True, retry_policy={"max_retries": 1}, producer=None,
            )  # fmt: skip
        request = self.request
        assert (request.shadow, request.delivery_info["routing_key"]) == ("again", "other")
        assert [[each["task"] for each in linked] for linked in (request.callbacks, request.errbacks)] == [["done"]] * 2
        return x + y

    assert work.apply((1, 2)).get() == 7


def test_a_builtin_without_a_signature_can_be_a_task(app: Celeriac) -> None:
    task = app.task(max, name="max")

    assert task.run(1, 2) == 2
    task.check_arguments((1, 2, 3), {})  # nothing is known of them, so anything goes


# -- the quick look at the arguments


def _bodies() -> list[Any]:
    def none() -> None: ...
    def one(a: Any) -> None: ...
    def one_of_two(a: Any, b: Any = 1) -> None: ...
    def any_number(*values: Any) -> None: ...
    def one_or_more(a: Any, *values: Any, **named: Any) -> None: ...
    def by_place(a: Any, b: Any = 1, /, c: Any = 2) -> None: ...
    def wants_a_name(a: Any, *, b: Any) -> None: ...
    def may_have_a_name(a: Any, *, b: Any = 1) -> None: ...

    return [none, one, one_of_two, any_number, one_or_more, by_place, wants_a_name, may_have_a_name]


@pytest.mark.parametrize("body", [pytest.param(each, id=each.__name__) for each in _bodies()])
@pytest.mark.parametrize("bind", [False, True])
def test_arguments_are_refused_exactly_when_the_body_could_not_be_called(app: Celeriac, body: Any, bind: bool) -> None:
    def bound(self: Any, *args: Any, **kwargs: Any) -> None: ...

    if bind:
        signature = inspect.signature(body)
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        bound.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])  # type: ignore[attr-defined]
    task = app.task(bind=bind, name=f"t.{body.__name__}")(bound if bind else body)
    for count in range(5):
        for names in ((), ("b",), ("a",), ("z",)):
            kwargs = dict.fromkeys(names, 0)
            try:
                body(*range(count), **kwargs)
            except TypeError:
                with pytest.raises(TypeError):
                    task.check_arguments(tuple(range(count)), kwargs)
            else:
                task.check_arguments(tuple(range(count)), kwargs)
