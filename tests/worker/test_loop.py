"""The loop with a broker and a store that can fail at any step: the order that loses nothing, waiting, drain, shutdown, outages."""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from deliveries import delivery
from lines import Lines
from processes import wait_until

from celeriac import Celeriac
from celeriac.backends.memory import MemoryBackend
from celeriac.broker.codec import content_types
from celeriac.broker.consumer import Delivery, Settled
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, EncodeError, ImproperlyConfigured, Reject
from celeriac.policy.outcome import Ignored
from celeriac.policy.settlement import Rules
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Observation, Totals
from celeriac.wire.message import TaskMessage
from celeriac.wire.result import ResultMeta
from celeriac.worker.assemble import Options, run_worker
from celeriac.worker.executor import Done, Executor, Job
from celeriac.worker.loop import Loop
from celeriac.worker.pool import SoloPool, ThreadPool
from celeriac.worker.remote import Remote
from celeriac.worker.wake import Wake

Call = tuple[Any, ...]


class Trace:
    """What was done, in order; and what is to fail how often."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failing: Counter[str] = Counter()

    def __call__(self, name: str, *what: Any) -> None:
        self.calls.append((name, *what))
        if self.failing[name]:
            self.failing[name] -= 1
            self.calls.append((f"{name} failed",))
            raise (BackendUnavailable if name == "store" else BrokerUnavailable)(f"{name} is away")

    def of(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call[0] in names]


class FakeConsumer:
    """A broker that is a list. Leased, as Redis, unless told otherwise."""

    def __init__(self, trace: Trace, *, keeps_waiting: bool = True) -> None:
        self.keeps_delayed = self.leased = keeps_waiting
        self._trace = trace
        self.ready: deque[Delivery] = deque()
        self.parked: list[tuple[Delivery, float]] = []
        self.may_park = True
        self.lines = Lines(trace)
        self.throttled = self.lines if keeps_waiting else None
        self.ended: list[Settled] = []
        #: Claims that another worker has.
        self.gone: set[Any] = set()
        self.claims = 0

    def claim(self, limit: int, *, free: int | None = None) -> list[Delivery]:
        self.claims += 1
        if self.ready:
            self._trace("claim")
        return [self.ready.popleft() for _ in range(min(limit, len(self.ready)))]

    def arm(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return None

    def settle(self, settled: Sequence[Settled], *, claim: tuple[int, int] = (0, 0)) -> list[Delivery]:
        self._trace("settle", *sorted(_id(entry.delivery) for entry in settled))
        self.ended += settled
        return []

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self.settle([Settled(entry) for entry in deliveries])
        return [entry for entry in deliveries if entry.claim in self.gone]

    def unpublishable(self) -> list[tuple[Delivery, Exception]]:
        return []

    def under_way(self, delivery: Delivery) -> bool:
        return False

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self._trace("give back", *map(_id, deliveries))
        self.ready.extendleft(reversed(deliveries))

    def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        self._trace("park", *(_id(entry) for entry, _ in deliveries))
        if self.may_park:
            self.parked += deliveries
        else:
            self.keeps_delayed = False

    def pause(self) -> None:
        """It pushes nothing."""

    def rest(self) -> None:
        """It pushes nothing."""

    def allow(self, more: int) -> None:
        if self._trace.failing["allow"]:
            self._trace("allow")

    def renew(self) -> list[Delivery]:
        return []

    def sweep(self) -> int:
        return 0

    def open_claims(self) -> int:
        return 0

    def set_queues(self, queues: Sequence[str]) -> None:
        self._trace("queues", *queues)

    def reconnect(self) -> None:
        self._trace("reconnect")

    def close(self) -> None:
        """Nothing is open."""


def _id(claimed: Delivery) -> str:
    return str(claimed.headers.get("id"))


class Store(MemoryBackend):
    """Results in memory; refuses the ids in `refuses`, each once, with that error."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace
        self.refuses: dict[str, Exception] = {}

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        self._trace("store", *sorted(f"{meta.task_id} {meta.status}" for meta, _ in records))
        errors = [self.refuses.pop(meta.task_id, None) for meta, _ in records]
        super().store([record for record, error in zip(records, errors, strict=True) if error is None])
        return errors


class TracedTotals(Totals):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def settled(self, batch: Any) -> None:
        seen: list[Observation] = list(batch)
        if seen:
            self._trace("observe", *sorted(entry.state for entry in seen))
        super().settled(seen)


class Outbox:
    """The app's producer, for what follows messages that were acknowledged early."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.messages: list[TaskMessage] = []
        self.raw: list[tuple[str, dict[str, Any]]] = []

    def publish(self, message: TaskMessage) -> None:
        self._trace("publish", message.id)
        self.messages.append(message)

    def publish_raw(self, queue: str, body: Any, headers: Any, **_: Any) -> None:
        self._trace("publish raw", queue, headers["id"])
        self.raw.append((queue, dict(headers)))

    def close(self) -> None:
        """Nothing is open."""


class Worker:
    """A loop with everything around it made by hand. `with worker.running():` runs it in a thread."""

    def __init__(self, *, slots: int = 0, keeps_waiting: bool = True, grace_s: float = 5.0, **settings: Any) -> None:
        given = {"task_acks_late": True, "task_track_started": False, **settings}
        self.trace = Trace()
        self.app = Celeriac("shop", broker="memory://", set_as_current=False, **given)
        self.consumer = FakeConsumer(self.trace, keeps_waiting=keeps_waiting)
        self.store = Store(self.trace)
        self.totals = TracedTotals(self.trace)
        self.outbox = Outbox(self.trace)
        self.app._backend, self.app._producer = self.store, self.outbox
        self.events = TaskEvents("w@here", 1, lambda: 1, enabled=False)
        self.ran: list[Any] = []
        self._slots, self._grace_s = slots, grace_s
        self.app.task(self._note, name="note")
        self.app.task(self._fail, name="fail")

    def _note(self, *args: Any) -> Any:
        self.ran.append(args[0] if args else None)
        self.trace.calls.append(("run", args[0] if args else None))
        return args[0] if args else None

    def _fail(self, *args: Any) -> None:
        self._note(*args)
        raise KeyError(*args)

    def start(self) -> Loop:
        wake = Wake()
        executor = Executor(self.app, hostname="w@here", accept=content_types(["json"]), encode=self.store.encode)
        self.pool: Any = ThreadPool(executor, self._slots, wake.done) if self._slots else SoloPool(executor)
        self.loop = Loop(
            app=self.app, consumer=self.consumer, backend=self.store, pool=self.pool, totals=self.totals, events=self.events,
            hostname="w@here", queues=["celery"], grace_s=self._grace_s, wake=wake,
        )  # fmt: skip
        return self.loop

    def send(self, *deliveries: Delivery) -> None:
        self.consumer.ready.extend(deliveries)

    @contextlib.contextmanager
    def running(self, *, until: Callable[[], object] | None = None) -> Iterator[Loop]:
        """The loop runs in a thread of its own until the block ends; `until`: and at least until this holds."""
        loop = self.start()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                loop.run()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield loop
            if until is not None:
                wait_until(lambda: until() or errors, timeout_s=5)
        finally:
            if loop.state != "stopping":  # a second time would end it cold
                loop.stop()
            thread.join(10)
            self.pool.stop()
        assert errors == []
        assert not thread.is_alive()

    def settled_ids(self) -> list[str]:
        return [_id(entry.delivery) for entry in self.consumer.ended]


def ended(worker: Worker, count: int) -> Callable[[], bool]:
    return lambda: sum(len(call) - 1 for call in worker.trace.of("observe")) >= count


def run_all(worker: Worker, *deliveries: Delivery) -> None:
    worker.send(*deliveries)
    with worker.running(until=ended(worker, len(deliveries))):
        """Until every message has ended."""


# -- the order


@pytest.mark.parametrize(
    ("task", "status", "state"),
    [("note", "SUCCESS", "succeeded"), ("fail", "FAILURE", "failed"), ("gone", "FAILURE", "dead_lettered")],
)
def test_store_then_acknowledge_then_observe(task: str, status: str, state: str) -> None:
    worker = Worker()

    run_all(worker, delivery(task, [1], id="a"))

    assert worker.trace.of("store", "settle", "observe") == [
        ("store", f"a {status}"),
        ("settle", "a"),
        ("observe", state),
    ]


def test_a_retry_is_published_with_its_acknowledgement_after_its_record_is_stored() -> None:
    worker = Worker()
    worker.app.task(lambda self: self.retry(countdown=60), bind=True, name="again")

    run_all(worker, delivery("again", id="a"))

    assert worker.trace.of("store", "settle", "observe") == [
        ("store", "a RETRY"),
        ("settle", "a"),
        ("observe", "retried"),
    ]
    [entry] = worker.consumer.ended
    assert [(message.id, message.headers["retries"]) for message in entry.publish] == [("a", 1)]


def test_a_task_whose_result_nobody_wants_stores_nothing() -> None:
    worker = Worker()

    run_all(worker, delivery("note", [1], id="a", ignore_result=True))

    assert worker.trace.of("store", "settle", "observe") == [("settle", "a"), ("observe", "succeeded")]


def test_a_store_that_is_away_holds_back_the_acknowledgement_and_runs_nothing_twice() -> None:
    worker = Worker()
    worker.trace.failing["store"] = 2

    run_all(worker, delivery("note", [1], id="a"))

    steps = worker.trace.of("run", "store", "store failed", "settle", "observe")
    store = ("store", "a SUCCESS")
    assert steps == [("run", 1), *[store, ("store failed",)] * 2, store, ("settle", "a"), ("observe", "succeeded")]
    assert worker.store.fetch("a") is not None


def test_an_acknowledgement_that_fails_is_made_again_and_nothing_is_told_before() -> None:
    worker = Worker()
    worker.trace.failing["settle"] = 1

    run_all(worker, delivery("note", [1], id="a"))

    steps = worker.trace.of("run", "store", "settle", "settle failed", "reconnect", "observe")
    assert [step[0] for step in steps] == [
        "run", "store", "settle", "settle failed", "reconnect", "store", "settle", "observe",
    ]  # fmt: skip


def test_one_refused_record_holds_back_only_its_own_acknowledgement(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(worker_prefetch_multiplier=3)
    worker.store.refuses["b"] = BackendUnavailable("wrong type of key")

    run_all(worker, *(delivery("note", [name], id=name) for name in "abc"))

    assert worker.trace.of("settle") == [("settle", "a", "c"), ("settle", "b")]
    assert worker.trace.of("observe") == [("observe", "succeeded", "succeeded"), ("observe", "succeeded")]
    assert worker.ran == ["a", "b", "c"]
    assert "note[b] was refused, its message is kept: wrong type of key" in caplog.text


def test_a_record_that_can_never_be_written_keeps_no_message(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    worker.store.refuses["a"] = EncodeError("too deep")

    run_all(worker, delivery("note", [1], id="a"), delivery("note", [2], id="b"))

    assert worker.settled_ids() == ["b", "a"]
    assert worker.trace.of("observe") == [("observe", "succeeded"), ("observe", "failed")]
    assert "the record of note[a] cannot be written: too deep" in caplog.text
    found = worker.store.fetch("a")
    assert found is not None
    assert (found.status, found.result["exc_type"]) == ("FAILURE", "EncodeError")


def test_what_came_with_an_acknowledgement_is_taken_once() -> None:
    worker = Worker(worker_prefetch_multiplier=2)
    loop = worker.start()
    claimed = delivery("note", [1], id="claimed")
    loop._settler._claimed = [claimed]
    taken: list[Delivery] = []
    taking = threading.Thread(target=lambda: taken.extend(loop._settler.take_claimed()))
    settle = worker.consumer.settle

    def meanwhile(settled: Sequence[Settled], *, claim: tuple[int, int] = (0, 0)) -> list[Delivery]:
        taking.start()
        taking.join(0.2)
        return settle(settled, claim=claim)

    worker.consumer.settle = meanwhile  # type: ignore[method-assign]
    job = Job(worker.app.tasks["note"], delivery("note", id="a"), Rules())
    loop._settler.ended([Done(job, Ignored(), 0.0, 0.0)])
    loop.flush()
    taking.join()

    assert taken + loop._settler.take_claimed() == [claimed]


def test_started_is_stored_before_the_body_runs() -> None:
    worker = Worker(task_track_started=True)

    run_all(worker, delivery("note", [1], id="a"))

    assert worker.trace.of("run", "store") == [("store", "a STARTED"), ("run", 1), ("store", "a SUCCESS")]


@pytest.mark.parametrize("late", [True, False])
def test_what_waits_behind_a_body_is_not_said_to_have_started(late: bool) -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=4, task_track_started=True, task_acks_late=late)
    worker.events.enabled = True
    gate = threading.Event()
    worker.app.task(lambda: gate.wait(5), name="long")
    worker.send(delivery("long", id="l"), delivery("note", [1], id="a"), delivery("note", [2], id="b"))

    def told() -> list[Any]:
        return [call[1] for call in worker.trace.of("run", "store")]

    with worker.running(until=ended(worker, 3)) as loop:
        wait_until(lambda: loop.running() and loop.intake.reserved() == 2)
        time.sleep(0.02)
        assert told() == ["l STARTED"]
        assert [event["uuid"] for event in worker.events.take() if event["type"] == "task-started"] == ["l"]
        gate.set()

    stored = told()
    for number, name in enumerate("ab", 1):
        assert stored.index(f"{name} STARTED") < stored.index(number) < stored.index(f"{name} SUCCESS")
    assert [event["uuid"] for event in worker.events.take() if event["type"] == "task-started"] == ["a", "b"]


def test_a_store_that_is_away_before_the_start_sends_the_message_back_until_it_is_there() -> None:
    worker = Worker(task_track_started=True)
    worker.trace.failing["store"] = 2

    run_all(worker, delivery("note", [1], id="a"))

    assert worker.trace.of("give back", "run") == [("give back", "a"), ("give back", "a"), ("run", 1)]


# -- what is not run


@pytest.mark.parametrize(
    ("headers", "state", "status"),
    [
        pytest.param({"expires": "2020-01-01T00:00:00+00:00"}, "expired", "REVOKED", id="expired"),
        pytest.param({"eta": "soon"}, "dead_lettered", "FAILURE", id="malformed"),
        pytest.param({"starts": 5}, "dead_lettered", "FAILURE", id="started too often"),
    ],
)
def test_what_may_not_run_ends_in_the_same_order_without_its_body(headers: Any, state: str, status: str) -> None:
    worker = Worker()

    run_all(worker, delivery("note", [1], id="a", **headers))

    assert worker.ran == []
    assert worker.trace.of("store", "settle", "observe") == [
        ("store", f"a {status}"),
        ("settle", "a"),
        ("observe", state),
    ]
    [entry] = worker.consumer.ended
    assert (entry.death is not None) == (state == "dead_lettered")


def test_a_revoked_task_does_not_run() -> None:
    worker = Worker()
    worker.send(delivery("note", [2], id="b"))

    with worker.running(until=ended(worker, 2)) as loop:
        loop.intake.revoke(["a"])
        worker.send(delivery("note", [1], id="a"))

    assert worker.ran == [2]
    record = worker.store.fetch("a")
    assert record is not None
    assert record.status == "REVOKED"


@pytest.mark.parametrize("headers", [{"id": None}, {"id": ["a"]}, {"task": None}, {"task": {"x": 1}}], ids=repr)
def test_a_message_that_is_no_task_is_a_dead_letter_even_while_ids_are_revoked(headers: Any) -> None:
    worker = Worker()
    strange = delivery("note", [1])
    strange.headers.update(headers)

    with worker.running(until=ended(worker, 1)) as loop:
        loop.intake.revoke(["a"])
        worker.send(strange)

    [entry] = worker.consumer.ended
    assert entry.death is not None
    assert entry.death["reason"] == "malformed"


def test_rejected_messages_go_back_or_become_dead_letters() -> None:
    worker = Worker()

    def reject(requeue: bool) -> None:
        raise Reject("no", requeue=requeue)

    worker.app.task(reject, name="reject")

    run_all(worker, delivery("reject", [True], id="back"), delivery("reject", [False], id="dead"))

    back, dead = worker.consumer.ended
    [again] = back.publish
    assert (_id(back.delivery), again.id, again.headers["redelivered"], back.death) == ("back", "back", True, None)
    assert (_id(dead.delivery), dead.death and dead.death["detail"]) == ("dead", "no")
    assert worker.trace.of("store") == [("store", "dead FAILURE")]


def test_an_error_that_cannot_be_shown_does_not_end_the_worker() -> None:
    class Shy(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("no")

        __str__ = __repr__

    worker = Worker()
    worker.events.enabled = True

    def shy() -> None:
        raise Shy

    worker.app.task(shy, name="shy")

    run_all(worker, delivery("shy", id="a"), delivery("note", [1], id="b"))

    assert worker.settled_ids() == ["a", "b"]


def test_task_events_tell_each_step() -> None:
    worker = Worker()
    worker.events.enabled = True
    worker.app.task(lambda self: self.retry(), bind=True, name="again")

    for name in ("note", "fail", "again", "gone"):
        worker.trace.calls.clear()
        run_all(worker, delivery(name, [1] if name != "again" else []))

    events = worker.events.take()
    kinds = [event["type"] for event in events]
    assert events[2]["result"] == "1"
    assert kinds == [
        "task-received", "task-started", "task-succeeded", "task-received", "task-started", "task-failed",
        "task-received", "task-started", "task-retried", "task-received", "task-failed",
    ]  # fmt: skip


# -- early acknowledgement


def test_early_a_message_is_acknowledged_before_it_runs_and_its_result_stored_after() -> None:
    worker = Worker(task_acks_late=False)

    run_all(worker, delivery("note", [1], id="a"))

    assert worker.trace.of("run", "store", "settle", "observe") == [
        ("settle", "a"), ("run", 1), ("store", "a SUCCESS"), ("observe", "succeeded"),
    ]  # fmt: skip


def test_early_a_retry_is_published_on_its_own_after_its_record() -> None:
    worker = Worker(task_acks_late=False)
    worker.app.task(lambda self: self.retry(countdown=1), bind=True, name="again")

    run_all(worker, delivery("again", id="a"))

    assert [call[0] for call in worker.trace.of("settle", "store", "publish", "observe")] == [
        "settle",
        "store",
        "publish",
        "observe",
    ]
    assert [message.headers["retries"] for message in worker.outbox.messages] == [1]


def test_early_a_retry_that_the_broker_did_not_take_is_published_again_and_no_other_forks() -> None:
    worker = Worker(task_acks_late=False, worker_prefetch_multiplier=2)  # both end in one batch
    worker.app.task(lambda self: self.retry(countdown=1), bind=True, name="again")
    published = worker.outbox.publish

    def second_fails(message: TaskMessage) -> None:
        if len(worker.trace.of("publish")) == 1:
            worker.trace.failing["publish"] = 1
        published(message)

    worker.outbox.publish = second_fails  # type: ignore[method-assign]

    run_all(worker, delivery("again", id="a"), delivery("again", id="b"))

    assert sorted(message.id for message in worker.outbox.messages) == ["a", "b"]
    assert len(worker.trace.of("publish failed")) == 1


def test_early_a_rejected_message_is_still_made_a_dead_letter() -> None:
    worker = Worker(task_acks_late=False)

    def reject() -> None:
        raise Reject("no")

    worker.app.task(reject, name="reject")

    run_all(worker, delivery("reject", id="a"))

    [(queue, headers)] = worker.outbox.raw
    assert (queue, headers["id"], headers["celeriac_death"]["reason"]) == ("celery.dead", "a", "rejected")


# -- waiting: for a time, for a limit


def test_what_is_not_due_is_parked_in_the_broker() -> None:
    worker = Worker()
    worker.send(delivery("note", [1], id="a", eta="2100-01-01T00:00:00+00:00"))

    with worker.running(until=lambda: worker.consumer.parked):
        """Until it is parked."""

    assert [(_id(entry), due_at) for entry, due_at in worker.consumer.parked] == [("a", 4102444800.0)]
    assert worker.ran == []


def test_what_a_broker_turns_out_not_to_let_us_park_is_held_here() -> None:
    worker = Worker()
    worker.consumer.may_park = False
    worker.send(delivery("note", [1], id="a", eta="2100-01-01T00:00:00+00:00"), delivery("note", ["now"], id="b"))

    with worker.running(until=lambda: worker.ran) as loop:
        wait_until(lambda: worker.ran)
        assert loop.intake.held() == 1

    assert worker.ran == ["now"]


def test_where_the_broker_keeps_nothing_the_worker_holds_what_is_not_due_until_its_time() -> None:
    worker = Worker(keeps_waiting=False)
    due_at = time.time() + 0.4
    eta = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(due_at)) + f"{due_at % 1:.6f}"[1:] + "+00:00"
    worker.send(delivery("note", ["later"], id="a", eta=eta), delivery("note", ["now"], id="b"))

    with worker.running(until=ended(worker, 2)) as loop:
        wait_until(ended(worker, 1))
        assert loop.intake.held() == 1

    assert worker.ran == ["now", "later"]
    assert time.time() >= due_at
    assert worker.totals.queue_totals()["celery"].received == 2


@pytest.mark.parametrize("keeps_waiting", [True, False], ids=["in the broker", "in the worker"])
@pytest.mark.parametrize("scope", ["worker", "cluster"])
def test_a_rate_limited_type_keeps_its_rate_and_never_delays_another(keeps_waiting: bool, scope: str) -> None:
    worker = Worker(keeps_waiting=keeps_waiting)
    times: list[float] = []
    worker.app.task(lambda: times.append(time.monotonic()), name="slow", rate_limit="20/s", rate_limit_scope=scope)
    worker.consumer.lines.tokens = 2  # of the cluster's
    slow = [delivery("slow") for _ in range(5)]

    worker.send(*slow, *(delivery("note", [number]) for number in range(20)))
    with worker.running() as loop:
        wait_until(lambda: len(worker.ran) == 20, timeout_s=5)
        assert len(times) < 5  # those that came later went before
        if scope == "cluster" and keeps_waiting:
            wait_until(lambda: len(times) == 2)
            time.sleep(0.2)
            assert len(times) == 2
            worker.consumer.lines.tokens = 100
        wait_until(lambda: len(times) == 5, timeout_s=5)
        assert loop.intake.held() == 0

    if scope == "worker" or not keeps_waiting:  # three within a tenth of a second, the others at 20 a second
        assert times[-1] - times[0] > 0.085
    assert worker.totals.task_totals()["slow"].throttled >= 2


def test_a_limit_may_be_changed_while_messages_wait_for_it() -> None:
    worker = Worker(keeps_waiting=False)
    worker.app.task(lambda: worker.ran.append("slow"), name="slow", rate_limit="1/h")
    worker.send(*(delivery("slow") for _ in range(4)))

    with worker.running() as loop:
        wait_until(lambda: loop.intake.held() == 3)
        assert loop.intake.limits()["slow"].per_s == pytest.approx(1 / 3600)
        with pytest.raises(ValueError):
            loop.set_rate_limit("slow", "often")
        with pytest.raises(KeyError):
            loop.set_rate_limit("gone", "1/s")
        loop.set_rate_limit("slow", None)
        wait_until(lambda: len(worker.ran) == 4, timeout_s=3)
        assert loop.intake.limits() == {}


def test_a_limit_that_was_set_is_lifted_to_what_the_code_declares() -> None:
    worker = Worker(keeps_waiting=False)
    worker.app.task(lambda: None, name="slow", rate_limit="100/s")

    with worker.running() as loop:
        loop.set_rate_limit("slow", 7, "worker", "shop/pool")
        assert loop.intake.limits()["slow"].per_s == 7
        assert loop.intake.set_rates()["slow"].by == "shop/pool"
        loop.set_rate_limit("slow", "declared")
        assert loop.intake.limits()["slow"].per_s == 100
        assert loop.intake.set_rates() == {}


def test_an_older_leader_is_not_obeyed_a_person_is_and_each_pool_has_leaders_of_its_own() -> None:
    worker = Worker(keeps_waiting=False)
    worker.app.task(lambda: None, name="slow")

    with worker.running() as loop:
        remote = Remote(
            loop, app=worker.app, pool=loop._pool, events=None, clock=None, beat=lambda: None, incarnation=""
        )
        assert "ok" in remote.rate_limit("slow", 4, "cluster", by="shop/pool", epoch=2)
        assert remote.rate_limit("slow", 9, "cluster", by="shop/pool", epoch=1) == {
            "error": "epoch 1 is older than the last leader's"
        }
        assert loop.intake.limits()["slow"].per_s == 4
        assert "ok" in remote.rate_limit("slow", 5, "cluster", by="shop/other", epoch=1)
        assert "ok" in remote.rate_limit("slow", 6)

        assert "ok" in remote.undrain(epoch=5)
        assert remote.shutdown(epoch=4) == {"error": "epoch 4 is older than the last leader's"}
        assert loop.state == "running"
        assert "ok" in remote.shutdown(epoch=5)
        wait_until(lambda: loop.state == "stopping")


def test_all_limits_may_be_switched_off() -> None:
    worker = Worker(worker_disable_rate_limits=True)
    worker.app.task(lambda: worker.ran.append("slow"), name="slow", rate_limit="1/h")

    run_all(worker, *(delivery("slow") for _ in range(4)))

    assert len(worker.ran) == 4


def test_a_message_that_lost_its_worker_runs_alone() -> None:
    worker = Worker(slots=4)
    together: list[int] = []

    def poison() -> None:
        together.append(len(worker.pool.running()))

    worker.app.task(poison, name="poison")

    run_all(worker, delivery("note", [1], id="a"), delivery("poison", id="p", starts=1), delivery("note", [2], id="b"))

    assert together == [1]
    assert worker.trace.of("give back")[0] == ("give back", "a", "b")
    assert sorted(worker.settled_ids()) == ["a", "b", "p"]
    assert worker.totals.queue_totals()["celery"].redelivered == 1


# -- drain


def test_a_drained_worker_gives_back_finishes_says_so_and_claims_no_more() -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=3)
    gate, started = threading.Event(), threading.Event()

    def long() -> None:
        started.set()
        gate.wait(5)

    worker.app.task(long, name="long")
    worker.send(delivery("long", id="l"), delivery("note", [1], id="a"), delivery("note", [2], id="b"))

    with worker.running() as loop:
        assert started.wait(5)
        wait_until(lambda: loop.intake.reserved() == 2)
        assert (loop.state, loop.drain_state()) == ("running", None)

        assert loop.heard_drain(mark="m", epoch=1, ttl_s=30)
        wait_until(lambda: loop.intake.reserved() == 0)
        assert loop.state == "draining"
        gate.set()
        wait_until(lambda: loop.state == "drained", timeout_s=3)

        mark = loop.drain_state()
        assert mark is not None
        assert (mark[0].id, mark[1], 28 < mark[2] <= 30) == ("m", "drained", True)
        assert worker.trace.of("give back") == [("give back", "a", "b")]
        assert [_id(entry) for entry in worker.consumer.ready] == ["a", "b"]
        claims = worker.consumer.claims
        time.sleep(0.1)
        assert worker.consumer.claims == claims
        assert not loop.heard_drain(mark="old", epoch=0, ttl_s=30)
        assert not loop.heard_undrain(epoch=0)

        assert loop.heard_undrain(epoch=2)
        wait_until(lambda: worker.ran == [1, 2], timeout_s=3)
        assert loop.state == "running"


def test_a_drain_mark_expires_by_itself() -> None:
    worker = Worker()

    with worker.running(until=lambda: worker.ran == [1]) as loop:
        loop.heard_drain(mark="m", epoch=1, ttl_s=0.3)
        wait_until(lambda: loop.state == "drained")
        worker.send(delivery("note", [1]))
        time.sleep(0.1)
        assert worker.ran == []

    assert loop.drain_state() is None


def test_a_drained_worker_gives_back_what_it_holds_for_a_time_or_a_limit() -> None:
    worker = Worker(keeps_waiting=False)
    worker.app.task(lambda: None, name="slow", rate_limit="1/h")
    worker.send(
        delivery("note", id="later", eta="2100-01-01T00:00:00+00:00"),
        delivery("slow", id="s1"),
        delivery("slow", id="s2"),
    )

    with worker.running() as loop:
        wait_until(lambda: loop.intake.held() == 2)
        loop.heard_drain(mark="m", epoch=1, ttl_s=30)
        wait_until(lambda: loop.state == "drained")
        assert loop.intake.held() == 0

    assert worker.trace.of("give back") == [("give back", "later", "s2")]


def test_a_worker_whose_acknowledgement_is_still_open_is_not_drained() -> None:
    worker = Worker()
    worker.trace.failing["settle"] = 2

    with worker.running() as loop:
        worker.send(delivery("note", [1], id="a"))
        wait_until(lambda: worker.trace.of("settle failed"))
        loop.heard_drain(mark="m", epoch=1, ttl_s=30)
        seen = set()
        while not worker.trace.of("observe"):
            seen.add(loop.state)
            time.sleep(0.005)
        wait_until(lambda: loop.state == "drained", timeout_s=3)

    assert "drained" not in seen


# -- leases that were over


def test_early_what_another_worker_has_by_now_does_not_start() -> None:
    worker = Worker(task_acks_late=False, worker_prefetch_multiplier=3)
    sent = [delivery("note", [name], id=name) for name in "abc"]
    worker.consumer.gone = {sent[1].claim}
    worker.send(*sent)

    with worker.running(until=ended(worker, 2)) as loop:
        wait_until(lambda: not loop._settler.busy())

    assert sorted(worker.ran) == ["a", "c"]


@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_what_lost_its_lease_before_it_started_does_not_start_and_what_waits_beside_it_does(late: bool) -> None:
    worker = Worker(slots=1, task_acks_late=late, worker_prefetch_multiplier=4)
    free = threading.Event()
    worker.app.task(lambda: free.wait(5), name="long")
    sent = [delivery("long", id="long"), *(delivery("note", [name], id=name) for name in "abc")]
    worker.send(*sent)

    with worker.running(until=ended(worker, 3)) as loop:
        wait_until(lambda: loop.intake.reserved() == 3)
        loop.intake.drop([sent[2]])
        free.set()
        wait_until(lambda: not loop._settler.busy() and not loop.intake.reserved())

    assert worker.ran == ["a", "c"]
    assert "b" not in worker.settled_ids()


# -- shutdown


def test_an_idle_worker_stops_at_once() -> None:
    worker = Worker(grace_s=60)
    with worker.running() as loop:
        wait_until(lambda: loop.started)
        stopped_at = time.monotonic()

    assert time.monotonic() - stopped_at < 0.5


def test_a_signal_that_comes_while_the_main_thread_holds_a_lock_is_heard() -> None:
    worker = Worker()
    loop = worker.start()
    heard = threading.Thread(target=loop.stop, daemon=True)  # a handler would wait for its own thread, for ever

    with loop.bodies._cond:  # type: ignore[attr-defined]  # as in the middle of set() or clear()
        heard.start()
        heard.join(1.0)
        stuck = heard.is_alive()

    assert not stuck
    assert loop.stopping


def test_a_shutdown_finishes_what_runs_and_gives_back_the_rest() -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=3)
    started = threading.Event()

    def long() -> None:
        started.set()
        time.sleep(0.3)

    worker.app.task(long, name="long")
    worker.send(delivery("long", id="l"), delivery("note", [1], id="a"), delivery("note", [2], id="b"))

    with worker.running() as loop:
        started.wait(5)
        wait_until(lambda: loop.intake.reserved() == 2)
        loop.stop()
        wait_until(lambda: loop.state == "stopping")

    assert worker.trace.of("give back") == [("give back", "a", "b")]
    assert worker.settled_ids() == ["l"]
    assert worker.ran == []


@pytest.mark.parametrize("cold", [False, True], ids=["the grace is over", "asked twice"])
def test_what_runs_on_after_the_grace_goes_back_to_its_queue(cold: bool, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(slots=1, grace_s=60 if cold else 0.3)
    gate, started = threading.Event(), threading.Event()

    def endless() -> None:
        started.set()
        gate.wait(10)

    worker.app.task(endless, name="endless")
    worker.send(delivery("endless", id="e"))

    with worker.running() as loop:
        started.wait(5)
        asked_at = time.monotonic()
        loop.stop()
        if cold:
            loop.stop()
        wait_until(lambda: worker.trace.of("give back"))
        took_s = time.monotonic() - asked_at
    gate.set()

    assert took_s < 0.2 if cold else 0.3 <= took_s < 1.0
    assert ("give back", "e") in worker.trace.of("give back")
    assert worker.settled_ids() == []
    assert "endless[e] did not end within the grace: its message goes back to its queue" in caplog.text


def test_early_what_runs_on_after_the_grace_has_failed_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(slots=1, grace_s=0.1, task_acks_late=False)
    gate, started = threading.Event(), threading.Event()

    def endless() -> None:
        started.set()
        gate.wait(10)

    worker.app.task(endless, name="endless")
    worker.send(delivery("endless", id="e"))

    with worker.running(until=ended(worker, 1)) as loop:
        started.wait(5)
        loop.stop()
    gate.set()

    found = worker.store.fetch("e")
    assert found is not None
    assert (found.status, found.result["exc_type"]) == ("FAILURE", "WorkerLostError")
    assert "cut off by the shutdown" in str(found.result["exc_message"])
    assert worker.trace.of("observe") == [("observe", "failed")]
    assert "endless[e] did not end within the grace: its message was acknowledged before it ran" in caplog.text


def test_early_what_has_not_started_was_not_acknowledged_and_goes_back_when_the_worker_stops() -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=3, task_acks_late=False)
    started = threading.Event()

    def long() -> None:
        started.set()
        time.sleep(0.2)

    worker.app.task(long, name="long")
    worker.send(delivery("long", id="l"), delivery("note", [1], id="a"), delivery("note", [2], id="b"))

    with worker.running() as loop:
        started.wait(5)
        wait_until(lambda: loop.intake.reserved() == 2)

    assert worker.trace.of("give back") == [("give back", "a", "b")]
    assert worker.outbox.raw == []
    assert worker.ran == []


def test_a_shutdown_ends_within_its_grace_while_the_broker_is_away() -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=3, grace_s=0.5)
    started = threading.Event()

    def long() -> None:
        started.set()
        time.sleep(0.2)

    worker.app.task(long, name="long")
    worker.send(delivery("long", id="l"), delivery("note", [1], id="a"))

    with worker.running() as loop:
        started.wait(5)
        wait_until(lambda: loop.intake.reserved() == 1)
        worker.trace.failing.update({"give back": 1000, "settle": 1000, "reconnect": 1000})
        asked_at = time.monotonic()

    assert time.monotonic() - asked_at < 1.5
    assert worker.settled_ids() == []


# -- outages


def test_a_broker_that_is_away_is_connected_again_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    worker.trace.failing.update({"claim": 1, "reconnect": 1})

    with worker.running(until=ended(worker, 1)) as loop:
        worker.send(delivery("note", [1], id="a"))
        wait_until(lambda: not loop.broker_up)

    assert loop.broker_up
    assert len(worker.trace.of("reconnect")) == 2
    assert worker.settled_ids() == ["a"]
    assert "claim is away; trying again in 0.25 s" in caplog.text
    assert "the broker is back" in caplog.text


ETA = {"eta": "2100-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("step", "sent"),
    [
        pytest.param("park", delivery("note", id="x", **ETA), id="while it parks what is not due"),
        pytest.param("limit", delivery("slow", id="x"), id="while it asks whether it may start"),
        pytest.param("settle", delivery("early", id="x"), id="while it acknowledges early"),
        pytest.param("give back", delivery("note", id="x", starts=1), id="while it lets a message run alone"),
    ],
)
def test_what_was_claimed_when_the_broker_went_away_finds_its_place_when_it_is_back(step: str, sent: Delivery) -> None:
    worker = Worker(slots=4)
    worker.app.task(worker._note, name="slow", rate_limit="1/h")
    worker.app.task(worker._note, name="early", acks_late=False)
    worker.trace.failing[step] = 1
    worker.send(delivery("gone", id="g"), delivery("slow", id="first"), sent, delivery("note", [1], id="n"))
    worker.send(delivery("note", id="d", **ETA))

    def placed() -> bool:
        places = [
            *worker.settled_ids(),
            *(_id(entry) for entry, _ in worker.consumer.parked),
            *(_id(entry) for _, entry in worker.consumer.lines.waiting),
        ]
        return {"g", "x", "n", "d"} <= set(places)

    with worker.running(until=placed) as loop:
        """Until each of them has a place."""

    assert (f"{step} failed",) in worker.trace.calls
    assert loop.intake.held() == 0
    assert worker.settled_ids().count("g") == 1
    assert worker.ran.count(1) == 1


def test_what_was_to_go_back_when_the_broker_went_away_runs_here() -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=3)
    gate, started = threading.Event(), threading.Event()

    def long() -> None:
        started.set()
        gate.wait(5)

    worker.app.task(long, name="long")
    worker.send(delivery("long", id="l"), delivery("note", [1], id="a"), delivery("note", [2], id="b"))

    with worker.running(until=ended(worker, 3)) as loop:
        started.wait(5)
        wait_until(lambda: loop.intake.reserved() == 2)
        worker.trace.failing["give back"] = 1
        with pytest.raises(BrokerUnavailable):
            loop.intake.give_back_waiting()
        gate.set()

    assert sorted(worker.ran) == [1, 2]
    assert sorted(worker.settled_ids()) == ["a", "b", "l"]


def test_without_leases_an_outage_forgets_what_comes_again() -> None:
    worker = Worker(slots=1, worker_prefetch_multiplier=4, keeps_waiting=False)
    gate, started = threading.Event(), threading.Event()

    def long() -> None:
        started.set()
        gate.wait(5)

    worker.app.task(long, name="long")
    worker.app.task(worker._note, name="early", acks_late=False)
    worker.send(
        delivery("long", id="l"), delivery("note", ["comes again"], id="a"), delivery("early", ["comes again"], id="b")
    )

    with worker.running(until=lambda: worker.ran) as loop:
        started.wait(5)
        wait_until(lambda: loop.intake.reserved() == 2)
        worker.trace.failing["allow"] = 1
        loop.set_queues(["celery"])  # wakes it
        wait_until(lambda: worker.trace.of("reconnect") and loop.broker_up)
        worker.send(delivery("note", ["next"], id="c"))
        gate.set()
        wait_until(lambda: worker.ran)

    assert worker.ran == ["next"]


@pytest.mark.parametrize("leased", [True, False])
def test_a_call_that_had_its_place_when_the_broker_went_away_holds_one_and_no_more(leased: bool) -> None:
    worker = Worker(slots=4, keeps_waiting=leased, task_track_started=True)
    worker.app.task(worker._note, name="narrow", max_concurrency=1)
    worker.trace.failing["store"] = worker.trace.failing["give back"] = 1  # STARTED, and what cannot start for it
    worker.send(delivery("narrow", [1], id="a"))

    with worker.running(until=lambda: 2 in worker.ran):
        wait_until(lambda: worker.trace.of("give back failed"))
        if not leased:
            wait_until(lambda: worker.trace.of("reconnect"))
        worker.send(delivery("narrow", [2], id="b"))

    assert worker.ran == ([1, 2] if leased else [2])
    assert len(worker.trace.of("limit")) == (2 if leased else 0)


def test_a_rate_is_not_spent_for_what_goes_back_beside_a_message_that_lost_its_worker() -> None:
    worker = Worker(slots=4, keeps_waiting=False)
    worker.app.task(worker._note, name="rare", rate_limit="1/h")
    worker.send(delivery("note", [1], id="a", starts=1), delivery("rare", [2], id="b"))

    with worker.running(until=lambda: len(worker.ran) == 2):
        """Both run: the one that went back found its token still there."""

    assert worker.trace.of("give back")[0] == ("give back", "b")
    assert worker.ran == [1, 2]


# -- the rest


def test_messages_that_wait_behind_long_bodies_cost_nothing() -> None:
    worker = Worker(slots=2, worker_prefetch_multiplier=4)
    gate = threading.Event()
    worker.app.task(lambda: gate.wait(5), name="long", ignore_result=True)
    worker.send(*(delivery("long") for _ in range(8)))

    with worker.running() as loop:
        wait_until(lambda: loop.intake.reserved() == 6)
        before = time.thread_time_ns(), time.process_time()
        time.sleep(0.5)
        spent_s = time.process_time() - before[1]
        gate.set()

    assert spent_s < 0.1


def test_what_waits_behind_long_bodies_goes_back_so_that_others_may_run_it() -> None:
    worker = Worker(slots=2)
    worker.totals.recent_run_s = 0.001  # it has run nothing but short ones
    gate = threading.Event()
    worker.app.task(lambda: gate.wait(5), name="long", ignore_result=True)
    short = [delivery("note", [number], id=f"s{number}") for number in range(10)]
    worker.send(delivery("long"), delivery("long"), *short)

    with worker.running() as loop:
        began = time.monotonic()
        wait_until(lambda: len(worker.consumer.ready) == 10 and len(loop.running()) == 2)
        took_s = time.monotonic() - began
        time.sleep(0.2)
        assert (len(worker.consumer.ready), loop.intake.reserved()) == (10, 0)  # and is not claimed again at once
        gate.set()
        wait_until(ended(worker, 12))

    assert took_s < 1.0
    assert worker.ran == list(range(10))


def test_messages_that_are_not_due_do_not_pass_one_by_one() -> None:
    worker = Worker()
    later = "2100-01-01T00:00:00+00:00"
    worker.send(
        *(delivery("note", [number], id=f"m{number}", eta=later) for number in range(400)), delivery("note", ["now"])
    )

    with worker.running(until=ended(worker, 1)):
        """Until the one that is due has run."""

    assert len(worker.consumer.parked) == 400
    assert len(worker.trace.of("park")) <= 12


def test_the_loop_claims_no_more_than_its_slots_while_it_knows_no_run_time() -> None:
    worker = Worker(slots=3)
    gate = threading.Event()
    worker.app.task(lambda: gate.wait(5), name="long", ignore_result=True)
    worker.send(*(delivery("long") for _ in range(8)))

    with worker.running() as loop:
        wait_until(lambda: len(loop.running()) == 3)
        time.sleep(0.05)
        assert (len(worker.consumer.ready), loop.intake.reserved(), loop.slots) == (5, 0, 3)
        gate.set()
        wait_until(ended(worker, 8))


def test_queues_may_be_changed_but_not_to_none() -> None:
    worker = Worker()

    with worker.running() as loop:
        loop.set_queues(["a", "b"])
        with pytest.raises(ImproperlyConfigured):
            loop.set_queues([])
        assert loop.queues == ["a", "b"]

    assert worker.trace.of("queues") == [("queues", "a", "b")]


def test_waiting_times_are_counted_from_when_a_message_was_due() -> None:
    worker = Worker()
    now = time.time()
    eta = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - 20))

    run_all(worker, delivery("note", sent_at=now - 100), delivery("note", sent_at=now - 100, eta=eta))

    totals = worker.totals.queue_totals()["celery"]
    assert totals.waits == 2
    assert totals.wait_s == pytest.approx(120, abs=3)


# -- messages that come again


def again(task: str, task_id: str, embed: Any = None, **named: Any) -> Delivery:
    return delivery(task, [1], id=task_id, starts=1, embed=embed, **named)


def test_a_call_that_has_succeeded_and_comes_again_is_not_run_again_and_what_follows_it_is_sent() -> None:
    worker = Worker(worker_deduplicate_successful_tasks=True)
    worker.store.store([(ResultMeta("a", "SUCCESS", 7), None)])
    link = worker.app.signature("note").set(task_id="linked")

    run_all(worker, again("note", "a", {"callbacks": [link], "errbacks": None, "chain": None, "chord": None}))

    [entry] = worker.consumer.ended
    assert worker.ran == []
    assert [(message.id, message.headers["parent_id"]) for message in entry.publish] == [("linked", "a")]
    assert worker.store.fetch("a").result == 7
    assert worker.trace.of("observe") == [("observe", "succeeded")]


@pytest.mark.parametrize(
    ("status", "named", "settings"),
    [
        pytest.param("FAILURE", {}, {}, id="it failed"),
        pytest.param("STARTED", {}, {}, id="it was lost"),
        pytest.param(None, {}, {}, id="nothing is stored"),
        pytest.param("SUCCESS", {"ignore_result": True}, {}, id="its result is ignored"),
        pytest.param("SUCCESS", {"starts": 0}, {}, id="it comes for the first time"),
        pytest.param("SUCCESS", {}, {"task_acks_late": False}, id="it is acknowledged early"),
        pytest.param("SUCCESS", {}, {"worker_deduplicate_successful_tasks": False}, id="the setting does not say so"),
    ],
)
def test_any_other_call_that_comes_again_runs(
    status: str | None, named: dict[str, Any], settings: dict[str, Any]
) -> None:
    worker = Worker(**{"worker_deduplicate_successful_tasks": True, **settings})
    if status is not None:
        worker.store.store([(ResultMeta("a", status, 7), None)])

    run_all(worker, delivery("note", [1], id="a", **{"starts": 1, **named}))

    assert worker.ran == [1]


def test_a_call_that_comes_again_while_the_store_is_away_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(worker_deduplicate_successful_tasks=True)
    worker.store.store([(ResultMeta("a", "SUCCESS", 7), None)])
    fetch, asked = worker.store.fetch, []

    def away(task_id: str) -> Any:
        asked.append(task_id)
        if len(asked) < 3:
            raise BackendUnavailable("away")
        return fetch(task_id)

    monkeypatch.setattr(worker.store, "fetch", away)

    run_all(worker, again("note", "a"))

    assert (worker.ran, asked) == ([], ["a"] * 3)


def test_a_store_that_nobody_can_look_into_is_refused_where_it_would_have_to_be() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False, worker_deduplicate_successful_tasks=True)

    with pytest.raises(ImproperlyConfigured, match="worker_deduplicate_successful_tasks looks for results"):
        run_worker(app, Options(pool="solo"))
