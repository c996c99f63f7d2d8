"""What is learnt from samples, and the slots that each term asks for."""

import math
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import pytest

from celeriac_operator.resources.spec import Objective, ObjectiveType, WorkerPoolSpec
from celeriac_operator.scaling.demand import Slots, Stream, bursting, slots_for, staff, streams_of
from celeriac_operator.scaling.learning import (
    arrivals_per_s,
    cold_start_s,
    completions_per_s,
    learn,
    longest_run_s,
    waited_s,
)
from celeriac_operator.scaling.memory import Memory, QueueMemory, Service, shares
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample

NOW = 1_000_000.0


def spec_of(**fields: Any) -> WorkerPoolSpec:
    return WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "q"}], **fields})


# ── slots_for: one stream, term by term ──


@dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    stream: Stream
    cold_s: float = 20
    expected: dict[str, float | None]


TIMED = [
    Case(id="nothing asks for nothing", stream=Stream(queue="q"), expected={"slots": 0}),
    Case(
        id="Little and the square root",
        stream=Stream(queue="q", rate_per_s=40, service_s=0.5, running=20),
        expected={"steady": 20, "headroom": math.sqrt(20), "slots": 24.472},
    ),
    Case(
        id="no head-room when beta is zero",
        stream=Stream(queue="q", rate_per_s=40, service_s=0.5, headroom=0),
        expected={"headroom": 0, "slots": 20},
    ),
    Case(
        id="a fresh backlog has eight tenths of the objective",
        stream=Stream(queue="q", ready=480, service_s=1),
        expected={"backlog": 10},
    ),
    Case(
        id="the age of the oldest message shortens the time left",
        stream=Stream(queue="q", ready=480, service_s=1, oldest_age_s=24),
        expected={"backlog": 20},
    ),
    Case(
        id="late work pushes at most about threefold, at a quarter of the objective",
        stream=Stream(queue="q", ready=480, service_s=1, oldest_age_s=10_000),
        expected={"backlog": 32},
    ),
    Case(
        id="the time left is a tick at the least",
        stream=Stream(queue="q", ready=480, service_s=1, objective=Objective(seconds=1)),
        expected={"backlog": 96},
    ),
    Case(
        id="work that comes due soon is staffed like a backlog",
        stream=Stream(queue="q", soon=480, service_s=1),
        expected={"eta": 10, "backlog": 0, "slots": 10},
    ),
    Case(
        id="never more slots than tasks, those counted that arrive within a cold start and a tick",
        stream=Stream(queue="q", ready=3, running=2, rate_per_s=0.01, service_s=600, oldest_age_s=5),
        cold_s=40,
        expected={"work_cap": 5.45, "slots": 5.45},
    ),
    Case(
        id="a rate limit caps its stream at what it can feed, with head-room",
        stream=Stream(queue="q", task="crawl", throttled=20_000, service_s=0.5, limit_per_s=10),
        expected={"rate_cap": 5 + math.sqrt(5), "slots": 5 + math.sqrt(5)},
    ),
    Case(
        id="a rate limit that is not reached caps nothing",
        stream=Stream(queue="q", task="crawl", throttled=48, service_s=0.5, limit_per_s=10),
        expected={"rate_cap": None, "slots": 0.5},
    ),
    Case(
        id="tasks that outlive a cold start keep their slot",
        stream=Stream(queue="q", running=7, service_s=21),
        expected={"floor": 7, "slots": 7},
    ),
    Case(
        id="tasks that end before a pod starts keep none",
        stream=Stream(queue="q", running=7, service_s=19),
        expected={"floor": None, "slots": 0},
    ),
    Case(
        id="messages a slot, running ones included",
        stream=Stream(
            queue="q", ready=80, running=20, soon=10, objective=Objective(type=ObjectiveType.BACKLOG, target=10)
        ),
        expected={"backlog": 10, "eta": 1, "slots": 11},
    ),
    Case(
        id="all slots busy, and something waits: one more",
        stream=Stream(queue="q", running=4, ready=9, objective=Objective(type=ObjectiveType.UTILIZATION, target=100)),
        expected={"steady": 5, "slots": 5},
    ),
    Case(
        id="all slots busy, and nothing waits",
        stream=Stream(queue="q", running=4, objective=Objective(type=ObjectiveType.UTILIZATION, target=100)),
        expected={"steady": 4, "slots": 4},
    ),
    Case(
        id="a part of the slots busy",
        stream=Stream(queue="q", running=14, ready=100, objective=Objective(type=ObjectiveType.UTILIZATION, target=70)),
        expected={"steady": 20, "slots": 20},
    ),
]


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.id)
def test_slots_for_a_stream(case: Case) -> None:
    slots = slots_for(case.stream, cold_start_s=case.cold_s, tick_s=5)

    for name, value in case.expected.items():
        assert getattr(slots, name) == (None if value is None else pytest.approx(value, rel=1e-3)), slots


# ── streams_of: a queue taken apart by rate limits ──


def test_a_queue_without_limits_is_one_stream() -> None:
    sample = QueueSample(name="q", ready=10, leased=9, reserved=3, expired=2, throttled=0, due_soon=4)
    known = QueueMemory(slow_per_s=2.0, overall=Service(value_s=3.0))

    (stream,) = streams_of(spec_of().queues[0], sample, Signals(), spec_of(), known)

    assert (stream.ready, stream.running, stream.soon) == (10 + 3 + 2, 9 - 3 - 2, 4)
    assert (stream.rate_per_s, stream.service_s, stream.limit_per_s) == (2.0, 3.0, None)


def test_a_queue_is_split_by_what_was_claimed_of_each_limited_type() -> None:
    spec = spec_of()
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=10, throttled=50)
    memory = Memory.from_status(
        {
            "learned": {
                "queues": [
                    {
                        "name": "q",
                        "serviceSeconds": "2",
                        "limitedTasks": [{"task": "crawl", "share": "0.25", "serviceSeconds": "6"}],
                    }
                ]
            }
        }
    )
    sample = QueueSample(name="q", ready=100, leased=30, throttled=55)

    rest, crawl = streams_of(spec.queues[0], sample, Signals(limited=(limit,)), spec, memory.queues["q"])

    assert (rest.ready, crawl.ready) == (75, 25)
    assert (rest.throttled, crawl.throttled) == (5, 50)
    assert crawl.service_s == 6
    # What runs is split by time: 0.75 x 2 s against 0.25 x 6 s.
    assert (rest.running, crawl.running) == (15, 15)


def test_the_weight_of_a_queue_multiplies_its_headroom() -> None:
    spec = spec_of(queues=[{"name": "q", "weight": 3}], headroom="0.5")

    (stream,) = streams_of(spec.queues[0], QueueSample(name="q"), Signals(), spec, QueueMemory())

    assert stream.headroom == 1.5


def test_demand_of_several_queues_is_added_before_it_is_divided_by_slots() -> None:
    spec = spec_of(queues=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    queues = tuple(QueueSample(name=name, ready=48) for name in "abc")

    demand = staff(Signals(queues=queues), spec, Memory(slots_per_pod=4), NOW)

    # One slot each: three slots, one pod; not three pods.
    assert demand.slots == pytest.approx(3)
    assert demand.pods == 1


def test_each_queue_has_its_own_objective() -> None:
    spec = spec_of(queues=[{"name": "a", "objective": {"seconds": 10}}, {"name": "b"}])
    queues = tuple(QueueSample(name=name, ready=480) for name in "ab")

    demand = staff(Signals(queues=queues), spec, Memory(), NOW)

    assert demand.terms["backlog"] == pytest.approx(480 / 8 + 480 / 48)


def test_a_queue_that_was_not_read_asks_for_nothing() -> None:
    demand = staff(Signals(queues=()), spec_of(), Memory(), NOW)

    assert demand.pods == 0


def test_throttled_work_keeps_a_slot_though_its_limit_is_zero() -> None:
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=0.0, throttled=9)

    demand = staff(Signals(queues=(QueueSample(name="q", throttled=9),), limited=(limit,)), spec_of(), Memory(), NOW)

    assert demand.slots == 1
    assert demand.drained_in_s(1) is None


def test_a_limit_below_zero_is_taken_for_zero() -> None:
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=-3.0, throttled=9)

    demand = staff(Signals(queues=(QueueSample(name="q", throttled=9),), limited=(limit,)), spec_of(), Memory(), NOW)

    assert demand.slots == 1


def test_a_limited_type_leaves_the_slots_of_the_rest_alone() -> None:
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=1, throttled=5000)
    signals = Signals(queues=(QueueSample(name="q", ready=960, throttled=5000),), limited=(limit,))

    capped = staff(signals, spec_of(), Memory(), NOW)
    alone = staff(replace(signals, limited=(), queues=(QueueSample(name="q", ready=960),)), spec_of(), Memory(), NOW)

    assert capped.slots == pytest.approx(alone.slots + 2)
    assert capped.limits == (("crawl", 1),)


# ── learn: rates, service times, cold starts ──


@dataclass
class Watch:
    """Feeds samples of one queue to `learn`, at times of its own."""

    spec: WorkerPoolSpec = field(default_factory=spec_of)
    memory: Memory = field(default_factory=Memory)
    now: float = NOW

    def see(self, after_s: float, limited: tuple[LimitedClass, ...] = (), **queue: Any) -> QueueMemory:
        self.now += after_s
        signals = Signals(sampled_at=self.now, queues=(QueueSample(name="q", **queue),), limited=limited)
        self.memory = learn(signals, self.spec, self.memory, self.now)
        return self.memory.queues["q"]


def test_the_first_sample_is_a_baseline_and_no_arrival() -> None:
    queue = Watch().see(0, ready=5000, completed=70_000, busy_s=9e6)

    assert (queue.fast_per_s, queue.slow_per_s, queue.arrived_at) == (0, 0, None)
    assert queue.overall.value_s == 1.0


@pytest.mark.parametrize("ticks", [(5,) * 60, (1,) * 300, (1, 4, 9, 16, 30) * 5], ids=["even", "fast", "irregular"])
def test_a_steady_arrival_rate_is_learnt_whatever_the_ticks(ticks: tuple[float, ...]) -> None:
    watch = Watch()
    watch.see(0)
    done = 0.0
    for tick in ticks:
        done += 8 * tick
        queue = watch.see(tick, completed=int(done))

    assert queue.fast_per_s == pytest.approx(8, rel=0.02)
    assert queue.slow_per_s == pytest.approx(8 * (1 - math.exp(-sum(ticks) / 120)), rel=0.02)


def test_a_burst_is_seen_by_the_fast_rate_in_one_tick() -> None:
    watch = Watch()
    watch.see(0)

    queue = watch.see(5, ready=100)

    assert queue.fast_per_s == pytest.approx(20 * (1 - math.exp(-0.5)))
    assert bursting(queue, 5)


def test_a_batch_is_no_surge_until_the_next_look_sees_as_much() -> None:
    watch = Watch()
    watch.see(0)

    batch = watch.see(5, ready=400)
    still = watch.see(5, ready=800)

    assert batch.surge_per_s == 0
    # 400 in each: 80 a second, less two standard deviations of a Poisson count.
    assert still.surge_per_s == pytest.approx((400 - 2 * 20) / 5)


def test_a_surge_is_forgotten_within_seconds() -> None:
    watch = Watch()
    for ready in (0, 400, 800):
        watch.see(5, ready=ready)

    queue = [watch.see(5, ready=800) for _ in range(6)][-1]

    assert queue.surge_per_s < 0.06 * 72


def test_what_was_delayed_and_comes_due_is_no_arrival() -> None:
    watch = Watch()
    watch.see(0, delayed=3000)

    queue = watch.see(5, ready=3010, delayed=0)

    assert queue.latest_per_s == pytest.approx(10 / 5)


def test_a_retry_that_comes_due_is_owed_once_and_hides_nothing() -> None:
    watch = Watch()
    watch.see(0, leased=1)
    watch.see(5, leased=0, delayed=1, retried=1)

    back = watch.see(5, ready=1, delayed=0, retried=1)
    more = watch.see(5, ready=3, delayed=0, retried=1)

    assert (back.latest_per_s, back.owed) == (0, 0)
    assert more.latest_per_s == pytest.approx(2 / 5)


def test_the_slow_rate_remembers_for_as_long_as_the_objective_allows() -> None:
    """A batch must not be taken for a rate that outweighs it: 600 tasks at once, to be done within ten minutes."""
    rates = {}
    for seconds in (60, 600):
        watch = Watch(spec=spec_of(objective={"seconds": seconds}))
        for _ in range(200):
            watch.see(5)
        rates[seconds] = watch.see(5, ready=600).slow_per_s

    assert rates[60] == pytest.approx(600 / 120, rel=0.05)
    assert rates[600] == pytest.approx(600 / 600, rel=0.05)


def test_retries_at_once_and_redeliveries_are_no_arrivals() -> None:
    watch = Watch()
    watch.see(0, leased=10)

    queue = watch.see(5, leased=4, ready=6, retried=3, redelivered=3)

    assert (queue.fast_per_s, queue.arrived_at) == (0, None)


def test_a_retry_that_waits_for_its_time_is_no_arrival_when_it_comes_back() -> None:
    watch = Watch()
    watch.see(0, leased=10)
    watch.see(5, leased=0, delayed=10, retried=10)

    queue = watch.see(5, ready=10, retried=10)

    assert (queue.fast_per_s, queue.arrived_at) == (0, None)


def test_a_purge_is_not_owed() -> None:
    watch = Watch()
    watch.see(0, ready=20_000)
    watch.see(5, ready=0)

    queue = watch.see(5, ready=50)

    assert queue.fast_per_s > 3
    assert queue.arrived_at == watch.now


def test_service_time_is_busy_time_over_runs_with_one_second_for_a_start() -> None:
    watch = Watch()
    watch.see(0, completed=1000, busy_s=50.0)

    queue = watch.see(5, completed=1009, busy_s=50.0 + 4.0)

    assert queue.overall.value_s == pytest.approx((1 + 4) / (1 + 9))


def test_running_tasks_that_have_not_ended_make_the_service_time_grow() -> None:
    watch = Watch()
    watch.see(0)

    queue = watch.see(60, leased=4, busy_s=240.0)

    assert queue.overall.value_s == pytest.approx(241)


def test_a_retried_run_is_a_run() -> None:
    watch = Watch()
    watch.see(0)

    queue = watch.see(5, retried=9, busy_s=9.0)

    assert queue.overall.value_s == pytest.approx(1.0)


def test_old_runs_leave_the_window() -> None:
    watch = Watch()
    watch.see(0)
    done, busy_s = 0, 0.0
    for _ in range(120):  # ten minutes of 10 s tasks
        done, busy_s = done + 5, busy_s + 50
        watch.see(5, completed=done, busy_s=busy_s)
    for _ in range(70):  # then of 1 s tasks, for longer than the window
        done, busy_s = done + 50, busy_s + 50
        queue = watch.see(5, completed=done, busy_s=busy_s)

    assert queue.overall.value_s == pytest.approx(1.0, rel=0.01)


def test_an_idle_queue_keeps_its_service_time() -> None:
    watch = Watch()
    watch.see(0)
    watch.see(5, completed=99, busy_s=499.0)
    learnt = watch.memory.queues["q"].overall.value_s
    for _ in range(200):
        queue = watch.see(30, completed=99, busy_s=499.0)

    assert queue.overall.value_s == pytest.approx(learnt)


def test_totals_that_fall_are_a_new_baseline() -> None:
    watch = Watch()
    watch.see(0, completed=1000, busy_s=1000.0)
    watch.see(5, completed=1099, busy_s=1199.0)
    learnt = watch.memory.queues["q"].overall.value_s

    queue = watch.see(5, completed=3, busy_s=1.0)

    assert queue.overall.value_s == learnt


def test_the_share_of_a_limited_type_is_that_of_its_claims() -> None:
    watch = Watch()
    watch.see(0, limited=(LimitedClass(task="crawl", queue="q", rate_per_s=1),))
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=1, started=10, throttled=20)

    queue = watch.see(5, limited=(limit,), started=40)

    # 30 of the limited type were claimed, parked or started, and 30 others.
    assert shares(queue) == {"crawl": pytest.approx(0.5)}


def test_limited_types_have_a_service_time_of_their_own() -> None:
    watch = Watch()
    watch.see(0, limited=(LimitedClass(task="crawl", queue="q", rate_per_s=1),))
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=1, started=99, run_s=999.0)

    queue = watch.see(5, limited=(limit,), started=198, completed=198, busy_s=999.0 + 9.0)

    assert queue.classes["crawl"].service.value_s == pytest.approx(10)
    assert queue.service.value_s == pytest.approx(0.1)


def test_a_missed_answer_teaches_nothing_and_forgets_nothing() -> None:
    watch = Watch()
    watch.see(0)
    watch.see(5, completed=50, busy_s=5.0)
    missed = Signals(broker_ok=False, sampled_at=watch.now)

    memory = learn(missed, watch.spec, replace(watch.memory, quiet_since=NOW), watch.now + 5)

    assert (memory.queues, memory.steady_since, memory.quiet_since) == (watch.memory.queues, NOW, NOW)


def test_a_gap_in_the_signals_starts_the_windows_of_scale_in_anew() -> None:
    watch = Watch()
    watch.see(0)
    blind = Signals(broker_ok=False, sampled_at=watch.now)

    memory = learn(blind, watch.spec, replace(watch.memory, quiet_since=NOW, wants=((NOW, 3),)), watch.now + 16)

    assert (memory.steady_since, memory.quiet_since, memory.wants) == (None, None, ())
    assert memory.queues == watch.memory.queues


@pytest.mark.parametrize("running", [7, 0], ids=["long tasks run", "the broker does not know of what runs"])
def test_more_short_messages_behind_long_tasks_never_ask_for_fewer_slots(running: int) -> None:
    spec = spec_of(queues=[{"name": "q"}, {"name": "short"}], objective={"seconds": 600}, headroom="0")
    memory = Memory(
        queues={"q": QueueMemory(overall=Service(value_s=20)), "short": QueueMemory(overall=Service(value_s=0.001))},
        slots_per_pod=4,
        cold_start_s=30,
    )
    pods = tuple(PodSample(name=name, slots=4, busy=4, heartbeat_age_s=1.0) for name in "ab")

    def slots(short: int) -> float:
        long_ones = QueueSample(name="q", ready=1000, leased=running)
        signals = Signals(
            queues=(long_ones, QueueSample(name="short", ready=short)), pods=pods, target=TargetSample(replicas=2)
        )
        return staff(signals, spec, memory, NOW).slots

    assert slots(0) < slots(100) < slots(1000) < slots(10_000)


def test_cold_start_is_thirty_seconds_until_one_was_seen() -> None:
    assert cold_start_s(spec_of(), Memory()) == 30
    assert cold_start_s(spec_of(), Memory(cold_start_s=8)) == 8
    assert cold_start_s(spec_of(coldStart="0s"), Memory(cold_start_s=8)) == 0


def test_a_wait_for_a_node_is_no_cold_start() -> None:
    made = PodSample(name="a", uid="a", phase="Pending", ready=False, created_at=NOW)
    waits = replace(made, pending_reason="Unschedulable")
    runs = replace(made, phase="Running", ready=True, first_heartbeat_at=NOW + 3599, heartbeat_age_s=1.0)

    memory = Memory()
    for after_s, pod in ((0, made), (60, waits), (3600, runs), (3605, runs)):
        memory = learn(Signals(pods=(pod,), sampled_at=NOW + after_s), spec_of(), memory, NOW + after_s)

    assert memory.cold_start_s is None
    assert learn(Signals(sampled_at=NOW + 3610), spec_of(), memory, NOW + 3610).homeless == frozenset()


@pytest.mark.parametrize(
    ("seen", "longest_s"),
    [
        pytest.param([], 0.0, id="nothing ran"),
        pytest.param([(0, 600.0), (5, 2.0)], 600.0, id="a long one stays in mind"),
        pytest.param([(0, 600.0), (3599, 2.0)], 600.0, id="for almost an hour"),
        pytest.param([(0, 600.0), (3600, 2.0)], 2.0, id="and no longer"),
        pytest.param([(0, 600.0), (1800, 60.0), (3600, 2.0)], 60.0, id="then the longest since"),
        pytest.param([(0, 600.0), (1800, 900.0), (3600, 2.0)], 900.0, id="a longer one counts from when it was seen"),
        pytest.param([(float(t), 600.0 - t / 10) for t in range(0, 3600, 5)], 600.0, id="ever shorter ones"),
    ],
)
def test_the_longest_run_of_the_last_hour_is_known(seen: list[tuple[float, float]], longest_s: float) -> None:
    memory = Memory()
    for after_s, runs_s in seen:
        pod = PodSample(name="a", busy=1, longest_running_s=runs_s, heartbeat_age_s=1.0)
        memory = learn(Signals(pods=(pod,), sampled_at=NOW + after_s), spec_of(), memory, NOW + after_s)

    assert longest_run_s(memory) == longest_s
    assert len(memory.long_runs) <= 60


def test_no_cold_start_is_learnt_above_ten_minutes() -> None:
    slow = PodSample(name="a", uid="a", created_at=NOW, first_heartbeat_at=NOW + 3599, heartbeat_age_s=1.0)

    memory = learn(Signals(pods=(slow,), sampled_at=NOW + 3600), spec_of(), Memory(), NOW + 3600)

    assert memory.cold_start_s == 600
    assert cold_start_s(spec_of(), Memory(cold_start_s=3599)) == 600
    assert cold_start_s(spec_of(coldStart="1h"), Memory()) == 3600


@pytest.mark.parametrize("watched_s", [5.0, 30.0, 3600.0])
def test_a_rate_that_is_still_rising_is_shown_as_what_it_rises_to(watched_s: float) -> None:
    known = QueueMemory(
        slow_per_s=10 * (1 - math.exp(-watched_s / 120)),
        done_per_s=8 * (1 - math.exp(-watched_s / 30)),
        watched_s=watched_s,
    )

    assert (arrivals_per_s(known), completions_per_s(known)) == (pytest.approx(10), pytest.approx(8))
    assert arrivals_per_s(QueueMemory()) == completions_per_s(QueueMemory()) == 0


def test_cold_start_is_the_p90_of_pods_made_since_the_operator_runs() -> None:
    def made(name: str, took_s: float, ago_s: float = 100) -> PodSample:
        return PodSample(
            name=name, uid=name, created_at=NOW - ago_s, first_heartbeat_at=NOW - ago_s + took_s, heartbeat_age_s=1.0
        )

    pods = (*(made(f"p{i}", 10) for i in range(9)), made("slow", 40), made("older", 9000, ago_s=100_000))
    signals = Signals(sampled_at=NOW, pods=pods, listened_s=1000, target=TargetSample(replicas=11))

    once = learn(signals, spec_of(), Memory(), NOW)
    twice = learn(signals, spec_of(), once, NOW + 5)

    assert once.cold_start_s == 10
    assert len(twice.starts) == 10


def test_slots_a_pod_are_those_of_pods_that_were_heard_lately() -> None:
    pods = (
        PodSample(name="a", slots=8, heartbeat_age_s=1.0),
        PodSample(name="b", slots=4, heartbeat_age_s=1.0),
        PodSample(name="c", slots=1),
        PodSample(name="d", slots=99, heartbeat_age_s=60.0),
    )

    memory = learn(Signals(sampled_at=NOW, pods=pods), spec_of(), Memory(), NOW)
    later = learn(Signals(sampled_at=NOW + 5), spec_of(), memory, NOW + 5)

    assert memory.slots_per_pod == later.slots_per_pod == 6


# ── beta ──


@dataclass(frozen=True, kw_only=True)
class Beta:
    id: str
    waits: int = 100
    mean_wait_s: float = 1.0
    after_s: float = 60
    limited_by: str = "none"
    expected: float


BETAS = [
    # The p95 of an exponential with mean 10 s is 30 s: three times the objective.
    Beta(id="waits above the objective raise it", mean_wait_s=10, expected=math.sqrt(math.log(20))),
    Beta(id="waits below it lower it", mean_wait_s=10 / math.log(20) * 0.49, expected=0.7),
    Beta(id="it is at most doubled at a time", mean_wait_s=1000, expected=2.0),
    Beta(id="it is at most halved at a time", mean_wait_s=0, expected=0.5),
    Beta(id="it is frozen with fewer than twenty waits", waits=19, mean_wait_s=10, expected=1.0),
    Beta(id="it is judged once a minute", after_s=55, mean_wait_s=10, expected=1.0),
    Beta(id="it is frozen at the maximum", limited_by="max", mean_wait_s=10, expected=1.0),
    Beta(id="it is frozen by a rate limit", limited_by="rate_limit", mean_wait_s=10, expected=1.0),
    Beta(id="it is frozen by pending pods", limited_by="pending_pods", mean_wait_s=10, expected=1.0),
    Beta(id="it is frozen by bad signals", limited_by="signal", mean_wait_s=10, expected=1.0),
]


@pytest.mark.parametrize("case", BETAS, ids=lambda case: case.id)
def test_headroom_follows_the_waits(case: Beta) -> None:
    watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
    watch.see(0, waits=7, wait_s=3.0)
    watch.memory = replace(watch.memory, limited_by=case.limited_by)

    queue = watch.see(case.after_s, waits=7 + case.waits, wait_s=3.0 + case.waits * case.mean_wait_s)

    assert queue.headroom == pytest.approx(case.expected)


#: 94 of 100 start at once, and six wait for 25 s: a mean of 1.5 s, so that an exponential's p95 would be 4.5 s.
TAIL = {"waits": 100, "wait_s": 150.0, "wait_counts": (94, *(0,) * 7, 6)}
TAIL_P95_S = 10 + 20 / 6


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(TAIL, math.sqrt(TAIL_P95_S / 10), id="a long tail raises it although the mean is low"),
        pytest.param(TAIL | {"wait_counts": ()}, math.sqrt(0.15 * math.log(20)), id="nobody tells counts: by the mean"),
        pytest.param(TAIL | {"wait_counts": (13, *(0,) * 7, 6)}, math.sqrt(0.15 * math.log(20)), id="too few told: by the mean"),
        pytest.param(TAIL | {"wait_counts": (14, *(0,) * 7, 6)}, math.sqrt((10 + 20 * 5 / 6) / 10), id="a part of the workers tell"),
        pytest.param({"waits": 100, "wait_s": 600.0, "wait_counts": (0,) * 6 + (50, 50)}, math.sqrt(0.95), id="even waits lower it"),
        pytest.param({"waits": 100, "wait_s": 9e5, "wait_counts": (90, *(0,) * 14, 10)}, 2.0, id="beyond the last bucket"),
    ],
)  # fmt: skip
def test_headroom_follows_the_percentile_of_what_was_counted_since(seen: dict[str, Any], expected: float) -> None:
    watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
    before = (1000,) * 16 if seen["wait_counts"] else ()
    watch.see(0, waits=16_000, wait_s=9e6, wait_counts=before)

    counts = tuple(map(sum, zip_longest(before, seen["wait_counts"], fillvalue=0)))
    queue = watch.see(60, waits=16_000 + seen["waits"], wait_s=9e6 + seen["wait_s"], wait_counts=counts)

    assert queue.headroom == pytest.approx(expected)


def test_a_percentile_beyond_the_buckets_is_judged_by_the_mean_and_no_less_than_the_last_bound() -> None:
    for wait_s, expected_s in ((1.0, 7200.0), (100 * 10_000.0, 10_000.0 * math.log(20))):
        watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 20_000, "percentile": 95}))
        watch.see(0)

        queue = watch.see(60, waits=100, wait_s=wait_s, wait_counts=(90, *(0,) * 14, 10))

        assert queue.headroom == pytest.approx(math.sqrt(expected_s / 20_000))


def test_waits_while_headroom_is_frozen_are_told_and_not_judged() -> None:
    watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
    watch.see(0)
    watch.memory = replace(watch.memory, limited_by="max")
    watch.see(5, wait_counts=(), waits=0)  # a window begins in which all is frozen

    queue = watch.see(60, **TAIL)

    assert (queue.headroom, queue.waited_s) == (1.0, pytest.approx(TAIL_P95_S))

    watch.memory = replace(watch.memory, limited_by="none")
    watch.see(55, waits=200, wait_s=1300.0, wait_counts=(148, *(0,) * 7, 52))  # another begins, in which nothing is
    queue = watch.see(60, waits=300, wait_s=1300.0, wait_counts=(248, *(0,) * 7, 52))

    assert queue.headroom == 0.5


def test_a_good_minute_lowers_headroom_only_when_the_last_half_hour_was_good() -> None:
    watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
    watch.see(0)
    found = [
        watch.see(60, waits=waits, wait_s=250.0, wait_counts=(waits - 10, *(0,) * 7, 10)).headroom
        for waits in (100, 130, 160, 400, 800)
    ]

    # Ten of a hundred waited for 25 s, and then nobody: fewer than a twentieth of all from the fourth minute on.
    raised = math.sqrt(2.0)
    assert found == pytest.approx([raised, raised, raised, 0.5 * raised, 0.25 * raised])


def test_what_people_are_told_of_waits_is_of_half_an_hour_and_is_gone_when_none_came_for_an_hour() -> None:
    watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
    watch.see(0)
    watch.see(60, waits=100, wait_s=250.0, wait_counts=(90, *(0,) * 7, 10))

    judged = watch.see(60, waits=120, wait_s=250.0, wait_counts=(110, *(0,) * 7, 10))

    weight = math.exp(-60 / 1800)
    rank = 0.95 * (100 * weight + 20) - (90 * weight + 20)
    assert waited_s(judged) == judged.waited_s == pytest.approx(10 + 20 * rank / (10 * weight))
    quiet: dict[str, Any] = {"waits": 120, "wait_s": 250.0, "wait_counts": (110, *(0,) * 7, 10)}
    assert waited_s(watch.see(3600, **quiet)) == judged.waited_s
    assert waited_s(watch.see(5, **quiet)) is None


def test_headroom_stays_between_a_quarter_and_three() -> None:
    for mean_wait_s, end in ((1000.0, 3.0), (0.0, 0.25)):
        watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
        watch.see(0)
        for minute in range(1, 9):
            queue = watch.see(60, waits=100 * minute, wait_s=100 * minute * mean_wait_s)

        assert queue.headroom == end


def test_without_a_latency_objective_headroom_is_the_spec_s() -> None:
    watch = Watch()
    watch.see(0)

    assert watch.see(60, waits=100, wait_s=9000.0).headroom is None


def test_with_another_objective_than_latency_what_was_learnt_of_waits_goes() -> None:
    watch = Watch(spec=spec_of(objective={"type": "Latency", "seconds": 10, "percentile": 95}))
    watch.see(0)
    assert watch.see(60, **TAIL).waited_s is not None

    watch.spec = spec_of()
    queue = watch.see(5, **TAIL)

    assert (queue.headroom, queue.waited_s, queue.waits_lately) == (None, None, ())


# ── what outlives the operator ──


def test_what_was_learnt_survives_the_operator() -> None:
    watch = Watch()
    limit = LimitedClass(task="crawl", queue="q", rate_per_s=1)
    watch.see(0, limited=(limit,))
    watch.see(5, limited=(replace(limit, started=10, run_s=29.0),), started=40, completed=39, busy_s=199.0)
    memory = replace(watch.memory, cold_start_s=12.34, slots_per_pod=4.0)

    read = Memory.from_status({"learned": memory.to_status()})

    assert read.cold_start_s == 12.3
    assert read.slots_per_pod == 4
    assert read.queues["q"].overall.value_s == 5
    assert shares(read.queues["q"]) == {"crawl": pytest.approx(0.25)}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"learned": None},
        {"learned": []},
        {"learned": {"coldStartSeconds": "soon", "queues": "many"}},
        {"learned": {"coldStartSeconds": "-1", "queues": [7, {"name": "q"}, {"serviceSeconds": "1"}]}},
        {"learned": {"coldStartSeconds": "nan", "queues": [{"name": "q", "serviceSeconds": "inf"}]}},
    ],
    ids=["empty", "null", "a list", "words", "gaps", "not numbers"],
)
def test_a_status_that_cannot_be_read_teaches_nothing(status: dict[str, Any]) -> None:
    assert Memory.from_status(status) == Memory()


def test_slots_of_nothing_are_zero() -> None:
    assert Slots().uncapped == 0
