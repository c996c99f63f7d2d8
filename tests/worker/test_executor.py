"""One job, run once: whatever its body does is a value, and nothing it does ends the worker."""

import asyncio
import json
import pickle
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from deliveries import delivery
from kombu.compression import compress

from celeriac import Celeriac, Task, signals
from celeriac.backends.memory import MemoryBackend
from celeriac.broker.codec import Encoded, content_types
from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
)
from celeriac.policy.outcome import Failed, Ignored, Outcome, Rejected, RetryAsked, Succeeded, Unreadable
from celeriac.policy.settlement import Rules
from celeriac.wire.message import TaskMessage
from celeriac.worker.executor import Done, Executor, Job


class Refused(Exception):
    """What a task's body raises here."""


@pytest.fixture
def app() -> Celeriac:
    return Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False)


KEEP = Rules()


def run(app: Celeriac, task: Any, *args: Any, rules: Rules = KEEP, accept: Any = ("json",), **given: Any) -> Done:
    executor = Executor(app, hostname="w@here", accept=content_types(accept), encode=MemoryBackend().encode)
    return executor.execute(Job(task, delivery(task.name, args, **given), rules))


def outcome(app: Celeriac, task: Any, *args: Any, **given: Any) -> Outcome:
    return run(app, task, *args, **given).outcome


def raising(error: BaseException) -> Any:
    def body() -> None:
        raise error

    return body


# -- what the body does


def test_a_value_is_encoded_as_its_record(app: Celeriac) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = outcome(app, add, 2, 3, id="a1", group="g1")

    assert isinstance(result, Succeeded)
    assert result.record is not None
    record = json.loads(result.record)
    assert (record["status"], record["result"], record["task_id"], record["group_id"]) == ("SUCCESS", 5, "a1", "g1")


def test_a_value_that_nobody_wants_is_not_encoded(app: Celeriac) -> None:
    @app.task
    def make() -> object:
        return object()

    assert outcome(app, make, rules=Rules(ignore_result=True)) == Succeeded(None, None)


def test_an_unserializable_value_is_the_tasks_failure_and_named(app: Celeriac) -> None:
    @app.task
    def make() -> object:
        return {"made": threading.Lock()}

    result = outcome(app, make)

    assert isinstance(result, Failed)
    assert isinstance(result.error, EncodeError)
    assert "lock" in str(result.error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(Refused("no"), Refused, id="an exception"),
        pytest.param(SystemExit(3), RuntimeError, id="exit()"),
        pytest.param(asyncio.CancelledError(), asyncio.CancelledError, id="a cancelled coroutine's"),
        pytest.param(GeneratorExit(), GeneratorExit, id="a generator's"),
        pytest.param(MaxRetriesExceededError("enough"), MaxRetriesExceededError, id="out of retries"),
    ],
)
def test_what_the_body_raises_is_a_failure(app: Celeriac, error: BaseException, kind: type[BaseException]) -> None:
    result = outcome(app, app.task(raising(error)))

    assert isinstance(result, Failed)
    assert type(result.error) is kind
    assert not result.expected


def test_a_traceback_starts_in_the_body(app: Celeriac) -> None:
    result = outcome(app, app.task(raising(Refused("no"))))

    assert isinstance(result, Failed)
    assert "celeriac/worker/executor.py" not in result.traceback
    assert "in body" in result.traceback
    assert "Refused: no" in result.traceback


@pytest.mark.parametrize("throws", [Refused, (Refused,), [Refused, KeyError], (Exception,)], ids=repr)
def test_an_error_that_the_task_throws_is_expected(app: Celeriac, throws: Any) -> None:
    result = outcome(app, app.task(throws=throws)(raising(Refused("no"))))

    assert isinstance(result, Failed)
    assert result.expected


@pytest.mark.parametrize(
    ("error", "result"),
    [
        pytest.param(Ignore(), Ignored(), id="ignore"),
        pytest.param(Reject("busy", requeue=True), Rejected("busy", True), id="reject, requeue"),
        pytest.param(Reject("broken"), Rejected("broken", False), id="reject"),
        pytest.param(Reject(), Rejected("rejected by the task", False), id="reject without a reason"),
    ],
)
def test_a_task_may_steer_the_worker(app: Celeriac, error: Exception, result: Outcome) -> None:
    assert outcome(app, app.task(raising(error))) == result


def test_arguments_that_do_not_fit_are_a_failure(app: Celeriac) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = outcome(app, add, 1)

    assert isinstance(result, Failed)
    assert isinstance(result.error, TypeError)


def test_how_long_it_took_is_known(app: Celeriac) -> None:
    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    before = time.time()

    done = run(app, app.task(sleep), 0.03)

    assert 0.03 <= done.run_s < 1.0
    assert before <= done.started_at <= time.time()


# -- the request


def test_a_body_knows_its_call(app: Celeriac) -> None:
    seen: dict[str, Any] = {}

    @app.task(bind=True)
    def look(self: Task, x: int, y: int = 0) -> None:
        request = self.request
        seen.update(
            id=request.id, retries=request.retries, args=request.args, kwargs=request.kwargs, hostname=request.hostname, group=request.group,
            tenant=request.tenant, nothing=request.nothing, reply_to=request.reply_to, routing_key=request.delivery_info["routing_key"],
            redelivered=request.delivery_info["redelivered"], eager=request.is_eager, direct=request.called_directly,
        )  # fmt: skip

    run(
        app,
        look,
        1,
        kwargs={"y": 2},
        id="a1",
        retries=2,
        group="g",
        tenant="t",
        queue="q",
        properties={"reply_to": "r"},
        starts=1,
    )

    assert seen == {
        "id": "a1", "retries": 2, "args": [1], "kwargs": {"y": 2}, "hostname": "w@here", "group": "g", "tenant": "t", "nothing": None,
        "reply_to": "r", "routing_key": "q", "redelivered": True, "eager": False, "direct": False,
    }  # fmt: skip


def test_after_the_body_no_request_is_left(app: Celeriac) -> None:
    task = app.task(raising(Refused()))

    run(app, task)

    assert task.request.id is None


# -- retry


def test_a_retry_is_asked_for_with_its_cause_time_and_call(app: Celeriac) -> None:
    @app.task(bind=True, max_retries=5)
    def fetch(self: Task, url: str) -> None:
        try:
            raise OSError("away")
        except OSError as error:
            raise self.retry(exc=error, countdown=30, kwargs={"deep": True}, queue="slow") from error

    before = time.time()
    result = outcome(
        app, fetch, "u", retries=1, embed={"chain": [{"task": "t.next"}]}, properties={"priority": 6, "reply_to": "r"}
    )

    assert isinstance(result, RetryAsked)
    assert repr(result.error) == "OSError('away')"
    assert before + 30 <= result.due_at <= time.time() + 30
    assert (result.args, result.kwargs) == (("u",), {"deep": True})
    assert result.options == {"embed": {"chain": [{"task": "t.next"}]}, "priority": 6, "reply_to": "r", "queue": "slow"}


def test_a_retry_that_is_not_raised_happens_all_the_same(app: Celeriac) -> None:
    @app.task(bind=True)
    def fetch(self: Task) -> str:
        self.retry(throw=False, countdown=1)
        return "done"

    assert isinstance(outcome(app, fetch), RetryAsked)


def test_a_retry_raised_by_hand_runs_again_with_the_same_call(app: Celeriac) -> None:
    due = datetime.now(UTC) + timedelta(seconds=60)

    result = outcome(app, app.task(lambda x: raising(Retry("again", when=due))(), name="t"), 7)

    assert isinstance(result, RetryAsked)
    assert (result.args, result.due_at) == ([7], due.timestamp())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param({"args": [threading.Lock()]}, EncodeError, id="arguments that cannot be written"),
        pytest.param({"headers": {"x": threading.Lock()}}, EncodeError, id="headers that cannot be written"),
        pytest.param({"serializer": "no such"}, EncodeError, id="a serializer that nobody has"),
        pytest.param({"countdown": 1e18}, ValueError, id="a countdown beyond all time"),
        pytest.param({"countdown": "soon"}, ValueError, id="a countdown that is no number"),
        pytest.param({"expires": "soon"}, ValueError, id="an expiry that is no time"),
    ],
)
def test_a_retry_that_could_not_be_published_is_a_failure(
    app: Celeriac, options: dict[str, Any], kind: type[Exception]
) -> None:
    @app.task(bind=True)
    def fetch(self: Task) -> None:
        raise self.retry(**options)

    result = outcome(app, fetch)

    assert isinstance(result, Failed)
    assert isinstance(result.error, kind)


@pytest.mark.parametrize("when", ["soon", 1e300, float("nan")], ids=repr)
def test_a_retry_raised_by_hand_for_no_time_at_all_is_a_failure(app: Celeriac, when: Any) -> None:
    assert isinstance(outcome(app, app.task(raising(Retry("again", when=when)))), Failed)


def test_a_retry_may_expire_in_seconds_from_now(app: Celeriac) -> None:
    @app.task(bind=True)
    def fetch(self: Task) -> None:
        raise self.retry(expires=60, countdown=1)

    result = outcome(app, fetch)

    assert isinstance(result, RetryAsked)
    assert 58 < (result.options["expires"] - datetime.now(UTC)).total_seconds() <= 60


def test_the_last_try_fails_with_its_cause(app: Celeriac) -> None:
    @app.task(bind=True, max_retries=2)
    def fetch(self: Task) -> None:
        raise self.retry(exc=Refused("no"))

    assert isinstance(outcome(app, fetch, retries=1), RetryAsked)
    last = outcome(app, fetch, retries=2)
    assert isinstance(last, Failed)
    assert repr(last.error) == "Refused('no')"


@pytest.mark.parametrize("kinds", [(OSError,), [OSError], OSError], ids=["a tuple", "a list", "a class"])
def test_errors_named_by_the_task_are_retried_by_themselves(app: Celeriac, kinds: Any) -> None:
    task = app.task(autoretry_for=kinds, retry_kwargs={"countdown": 7, "max_retries": 1})(
        raising(ConnectionError("away"))
    )

    first, second = outcome(app, task), outcome(app, task, retries=1)

    assert isinstance(first, RetryAsked)
    assert 6 < first.due_at - time.time() <= 7
    assert isinstance(second, Failed)
    assert isinstance(second.error, ConnectionError)


def test_errors_that_are_excepted_are_not_retried(app: Celeriac) -> None:
    task = app.task(autoretry_for=(OSError,), dont_autoretry_for=(ConnectionError,))(raising(ConnectionError()))

    assert isinstance(outcome(app, task), Failed)


@pytest.mark.parametrize("error", [Ignore(), Reject("x"), Retry("y")], ids=lambda error: type(error).__name__)
def test_what_steers_the_worker_is_never_retried_by_itself(app: Celeriac, error: Exception) -> None:
    task = app.task(autoretry_for=(Exception,), max_retries=0)(raising(error))

    assert isinstance(outcome(app, task), {Ignore: Ignored, Reject: Rejected, Retry: RetryAsked}[type(error)])


@pytest.mark.parametrize(
    ("options", "wait_s"),
    [
        pytest.param({"retry_backoff": True, "retry_jitter": False}, 8, id="doubling"),
        pytest.param({"retry_backoff": 5, "retry_jitter": False}, 40, id="a factor"),
        pytest.param({"retry_backoff": 5, "retry_jitter": False, "retry_backoff_max": 25}, 25, id="a cap"),
        pytest.param({"retry_backoff": True, "retry_jitter": True}, 4, id="jitter"),
    ],
)
def test_an_automatic_retry_backs_off(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], wait_s: float
) -> None:
    monkeypatch.setattr(random, "randrange", lambda sides: sides // 2)  # the dice: always the middle
    task = app.task(autoretry_for=(OSError,), max_retries=9, **options)(raising(OSError()))

    result = outcome(app, task, retries=3)

    assert isinstance(result, RetryAsked)
    assert result.due_at - time.time() == pytest.approx(wait_s, abs=0.5)


# -- messages that cannot be read


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        pytest.param({"body": b"not json"}, DecodeError, "malformed", id="a body that is not JSON"),
        pytest.param({"body": b"\xff\xfe"}, DecodeError, "malformed", id="a body that is not text"),
        pytest.param({"body": b"[[1], 2]"}, ValueError, "malformed", id="a body of another shape"),
        pytest.param({"body": b"{}"}, ValueError, "malformed", id="an empty body of protocol 1"),
        pytest.param({"body": b"[" * 100_000}, DecodeError, "malformed", id="a body that is too deep"),
        pytest.param({"content_encoding": "klingon"}, DecodeError, "malformed", id="an unknown encoding"),
        pytest.param({"body": b'[[{"__type__": "decimal", "__value__": "x"}], {}, {}]'}, DecodeError, "malformed", id="a decimal that is none"),
        pytest.param({"body": b'[[{"__type__": "bytes", "__value__": 7}], {}, {}]'}, DecodeError, "malformed", id="bytes that are none"),
        pytest.param({"body": b"[]", "compression": "application/x-gzip"}, DecodeError, "malformed", id="not compressed as it says"),
        pytest.param({"body": b"[]", "compression": "application/x-none"}, DecodeError, "malformed", id="an unknown compression"),
        pytest.param({"content_type": "application/x-python-serialize"}, ContentDisallowed, "content_disallowed", id="pickle"),
        pytest.param({"content_type": ""}, ContentDisallowed, "content_disallowed", id="no content type"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_never_runs_and_says_why(
    app: Celeriac, given: dict[str, Any], kind: type[Exception], reason: str
) -> None:
    ran: list[Any] = []

    result = outcome(app, app.task(lambda *args: ran.append(args), name="t"), **given)

    assert isinstance(result, Unreadable)
    assert isinstance(result.error, kind)
    assert result.reason == reason
    assert ran == []


def test_base64_that_is_none_is_unreadable(app: Celeriac) -> None:
    task = app.task(raising(Refused()))
    executor = Executor(app, hostname="w", accept=content_types(["json"]), encode=None)

    result = executor.execute(Job(task, delivery(task.name)._replace(body="a"), Rules())).outcome

    assert isinstance(result, Unreadable)


def test_a_compressed_body_is_read(app: Celeriac) -> None:
    body, kind = compress(b"[[7], {}, {}]", "gzip")

    result = outcome(app, app.task(lambda x: x + 1), body=body, compression=kind)

    assert isinstance(result, Succeeded)
    assert result.record is not None
    assert json.loads(result.record)["result"] == 8


def test_content_that_is_accepted_is_read(app: Celeriac) -> None:
    body = pickle.dumps([[{1, 2}], {}, {}])

    result = outcome(
        app, app.task(sum), body=body, content_type="application/x-python-serialize", content_encoding="binary", accept=["json", "pickle"],
    )  # fmt: skip

    assert isinstance(result, Succeeded)


# -- hooks, signals and custom classes


class Loud(Task):
    abstract = True
    calls: list[str] = []

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.calls.append("before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.calls.append("on_success")
        raise Refused

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.calls.append(f"on_failure {exc!r} {einfo.type.__name__}")
        raise Refused

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.calls.append(f"on_retry {exc!r}")
        raise Refused

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.calls.append(f"after_return {status}")
        raise Refused


@pytest.mark.parametrize(
    ("body", "kind", "calls"),
    [
        pytest.param(lambda: 1, Succeeded, ["before_start", "on_success", "after_return SUCCESS"], id="success"),
        pytest.param(raising(KeyError("k")), Failed, ["before_start", "on_failure KeyError('k') KeyError", "after_return FAILURE"], id="failure"),
        pytest.param(raising(Retry("r", OSError())), RetryAsked, ["before_start", "on_retry OSError()", "after_return RETRY"], id="retry"),
        pytest.param(raising(Ignore()), Ignored, ["before_start", "after_return IGNORED"], id="ignore"),
    ],
)  # fmt: skip
def test_hooks_are_called_and_what_they_raise_changes_nothing(
    app: Celeriac, body: Any, kind: type[Any], calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    Loud.calls.clear()

    result = outcome(app, app.task(body, base=Loud, name="t"))

    assert isinstance(result, kind)
    assert Loud.calls == calls
    assert "raised; the task's outcome stands" in caplog.text


class Gate(Task):
    abstract = True
    raises: Any = None

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise self.raises


@pytest.mark.parametrize(
    ("raises", "options", "kind"),
    [
        pytest.param(KeyError("k"), {}, Failed, id="an error"),
        pytest.param(SystemExit(3), {}, Failed, id="exit()"),
        pytest.param(Ignore(), {}, Ignored, id="Ignore"),
        pytest.param(Reject("not here", requeue=False), {}, Rejected, id="Reject"),
        pytest.param(Retry("later", OSError(), 3), {}, RetryAsked, id="Retry"),
        pytest.param(OSError("away"), {"autoretry_for": (OSError,)}, RetryAsked, id="autoretry_for"),
    ],
)
@pytest.mark.parametrize("coroutine", [False, True], ids=["function", "coroutine"])
def test_what_before_start_raises_is_the_tasks_and_the_body_does_not_run(
    app: Celeriac, raises: Any, options: Any, kind: type[Any], coroutine: bool
) -> None:
    ran: list[int] = []

    def body() -> None:
        ran.append(1)

    async def as_coroutine() -> None:
        ran.append(1)

    result = outcome(app, app.task(base=Gate, raises=raises, **options)(as_coroutine if coroutine else body))

    assert isinstance(result, kind)
    assert ran == []


def test_signals_tell_of_a_failure_and_a_receiver_that_raises_hurts_nobody(app: Celeriac) -> None:
    told: list[tuple[str, Any]] = []

    def hear(signal: Any = None, **named: Any) -> None:
        told.append((signal.name, named.get("exception") or named.get("state")))
        raise Refused

    heard = [signals.task_prerun, signals.task_failure, signals.task_postrun, signals.task_success]
    for signal in heard:
        signal.connect(hear)
    try:
        result = outcome(app, app.task(raising(KeyError("k"))))
    finally:
        for signal in heard:
            signal.disconnect(hear)

    assert isinstance(result, Failed)
    assert [name for name, _ in told] == ["task_prerun", "task_failure", "task_postrun"]
    assert (repr(told[1][1]), told[2][1]) == ("KeyError('k')", "FAILURE")


class Counting(Task):
    abstract = True
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return super().__call__(*args, **kwargs)


def test_a_class_of_the_users_own_may_wrap_the_body_which_still_knows_its_call(app: Celeriac) -> None:
    seen: list[Any] = []

    @app.task(bind=True, base=Counting)
    def fetch(self: Any, depth: int = 0) -> None:
        seen.append((self.request.id, self.request.called_directly))
        if depth == 0:
            self(1)  # a call of its own: an ordinary function call
            raise self.retry(countdown=1)

    result = outcome(app, fetch, id="a1")

    assert isinstance(result, RetryAsked)
    assert seen == [("a1", False), (None, True)]
    assert type(fetch).calls == 2


# -- what follows


def body_of(message: TaskMessage) -> Any:
    """args, kwargs, embed: written where the body ran."""
    assert isinstance(message.body, Encoded)
    return json.loads(message.body.payload)


def test_callbacks_and_the_chain_follow_a_success_and_keep_the_root(app: Celeriac) -> None:
    embed = {
        "callbacks": [{"task": "t.log", "args": [9], "kwargs": {"k": 1}, "options": {"queue": "logs"}, "immutable": False}],
        "chain": [{"task": "t.last", "args": []}, {"task": "t.next", "args": [], "options": {"task_id": "n1"}, "immutable": True}],
    }  # fmt: skip

    result = outcome(app, app.task(lambda: 5, name="t"), embed=embed, id="a1", root_id="r1")

    assert isinstance(result, Succeeded)
    log, following = result.follow
    args, kwargs, _ = body_of(log)
    assert (log.headers["task"], log.queue, args, kwargs) == ("t.log", "logs", [5, 9], {"k": 1})
    args, _, embedded = body_of(following)
    assert (following.id, following.headers["task"], args) == ("n1", "t.next", [])
    assert embedded["chain"] == [{"task": "t.last", "args": []}]
    for message in (log, following):
        assert (message.headers["root_id"], message.headers["parent_id"]) == ("r1", "a1")


def test_error_callbacks_follow_a_failure(app: Celeriac) -> None:
    result = outcome(app, app.task(raising(Refused())), embed={"errbacks": [{"task": "t.alarm"}]}, id="a1")

    assert isinstance(result, Failed)
    assert [(message.headers["task"], body_of(message)[0]) for message in result.follow] == [("t.alarm", ["a1"])]


@pytest.mark.parametrize(
    "successor",
    [
        pytest.param({"task": "celery.group", "subtask_type": "group"}, id="a group"),
        pytest.param({"args": []}, id="no task"),
        pytest.param("t.next", id="no signature"),
        pytest.param({"task": "t.next", "options": {"expires": "soon"}}, id="options that cannot be used"),
    ],
)
def test_a_successor_that_cannot_be_called_is_a_failure_and_never_the_end_of_the_worker(
    app: Celeriac, successor: Any
) -> None:
    good, bad = app.task(lambda: 1, name="good"), app.task(raising(Refused("no")))

    assert isinstance(outcome(app, good, embed={"callbacks": [successor]}), Failed)
    assert isinstance(outcome(app, good, embed={"chain": [successor]}), Failed)
    failed = outcome(app, bad, embed={"errbacks": [successor]})
    assert isinstance(failed, Failed)
    assert (repr(failed.error), failed.follow) == ("Refused('no')", ())


def test_a_value_that_cannot_be_handed_on_is_a_failure(app: Celeriac) -> None:
    task = app.task(threading.Lock, name="t", typing=False)

    result = outcome(app, task, rules=Rules(ignore_result=True), embed={"callbacks": [{"task": "t.next"}]})

    assert isinstance(result, Failed)
    assert isinstance(result.error, EncodeError)


def test_a_retry_that_was_asked_for_happens_even_if_the_body_raises_afterwards(app: Celeriac) -> None:
    @app.task(bind=True, name="asks")
    def asks(self: Any) -> None:
        self.retry(throw=False, countdown=1)
        raise Refused

    assert isinstance(outcome(app, asks), RetryAsked)
