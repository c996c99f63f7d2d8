"""A burst from zero to many and back, through `decide`, in a small world of events: pods that start late and tasks that run."""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

START = 1_000_000.0


@dataclass
class FakePod:
    name: str
    created_at: float
    slots: int
    started_at: float | None = None
    running: dict[int, float] = field(default_factory=dict)  # task -> since
    mark: str = ""
    marked_until: float = 0.0

    def drained(self, now: float) -> bool:
        return self.drain_state(now) == "drained"

    def drain_state(self, now: float) -> str:
        if not self.mark or now >= self.marked_until:
            return ""
        return "draining" if self.running else "drained"


class World:
    """A queue, a ReplicaSet and an operator that ticks; `run` steps from event to event."""

    def __init__(self, spec: WorkerPoolSpec, *, cold_start_s: float, service_s: float, slots: int) -> None:
        self.spec, self.cold_start_s, self.service_s, self.slots = spec, cold_start_s, service_s, slots
        self.now = START
        self.ready: list[int] = []
        self.pods: list[FakePod] = []
        self.replicas = 0
        self.memory = Memory()
        self.done: list[int] = []
        self.busy_s = 0.0
        self.killed: list[int] = []
        self.decisions: list[tuple[float, Decision]] = []
        self.numbers = itertools.count()
        self.events: list[tuple[float, int, str, Any]] = []
        self.at(START, "tick", None)

    def at(self, when: float, what: str, about: Any) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), what, about))

    def submit(self, count: int, *, at: float) -> None:
        self.at(at, "submit", count)

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            when, _, what, about = heapq.heappop(self.events)
            self.now = when
            match what:
                case "submit":
                    self.ready += [next(self.numbers) for _ in range(about)]
                case "started":
                    about.started_at = when
                case "finished":
                    pod, task = about
                    if task in pod.running:
                        self.busy_s += when - pod.running.pop(task)
                        self.done.append(task)
                case "tick":
                    self.tick()
                    self.at(when + self.spec.interval_s, "tick", None)
            self.claim()

    def claim(self) -> None:
        for pod in self.pods:
            if pod.started_at is None or pod.drain_state(self.now):
                continue
            while self.ready and len(pod.running) < pod.slots:
                task = self.ready.pop(0)
                pod.running[task] = self.now
                self.at(self.now + self.service_s, "finished", (pod, task))

    def tick(self) -> None:
        decision = decide(self.seen(), self.spec, self.memory, self.now)
        self.memory = decision.memory
        self.decisions.append((self.now, decision))
        for pod in self.pods:
            if pod.name in decision.drain:
                pod.mark, pod.marked_until = decision.drain_id, self.now + 60
            if pod.name in decision.undrain:
                pod.mark = ""
        if decision.replicas is not None:
            self.scale(decision.replicas)

    def scale(self, replicas: int) -> None:
        """As a ReplicaSet does it: pods that are not ready go first, then the youngest."""
        self.replicas = replicas
        while len(self.pods) < replicas:
            pod = FakePod(f"w-{next(self.numbers)}", self.now, self.slots)
            self.pods.append(pod)
            self.at(self.now + self.cold_start_s, "started", pod)
        order = sorted(self.pods, key=lambda pod: (self.is_ready(pod), -pod.created_at))
        for pod in order[: len(self.pods) - replicas]:
            self.killed += pod.running
            self.pods.remove(pod)

    def is_ready(self, pod: FakePod) -> bool:
        return pod.started_at is not None and not pod.drained(self.now)

    def seen(self) -> Signals:
        running = sum(len(pod.running) for pod in self.pods)
        so_far_s = sum(self.now - since for pod in self.pods for since in pod.running.values())
        queue = QueueSample(
            name="mails",
            ready=len(self.ready),
            leased=running,
            started=len(self.done) + running,
            completed=len(self.done),
            busy_s=self.busy_s + so_far_s,
        )
        target = TargetSample(
            replicas=self.replicas, ready_replicas=sum(map(self.is_ready, self.pods)), name="mails-worker"
        )
        pods = tuple(self.seen_pod(pod) for pod in self.pods)
        return Signals(sampled_at=self.now, queues=(queue,), pods=pods, target=target, listened_s=self.now - START)

    def seen_pod(self, pod: FakePod) -> PodSample:
        heard = pod.started_at is not None
        return PodSample(
            name=pod.name,
            uid=pod.name,
            node=f"celeriac@{pod.name}" if heard else "",
            phase="Running" if heard else "Pending",
            ready=self.is_ready(pod),
            created_at=pod.created_at,
            ready_at=pod.started_at,
            heartbeat_age_s=0.5 if heard else None,
            first_heartbeat_at=pod.started_at,
            slots=pod.slots,
            busy=len(pod.running),
            queues=("mails",) if heard else (),
            drain_state=pod.drain_state(self.now),
            drain_id=pod.mark,
            drain_expires_in_s=max(0.0, pod.marked_until - self.now),
        )

    def writes(self) -> list[tuple[float, int]]:
        return [(at, decision.replicas) for at, decision in self.decisions if decision.replicas is not None]


def pool(**fields: Any) -> WorkerPoolSpec:
    raw = {
        "targetRef": {"name": "mails-worker"},
        "queues": [{"name": "mails"}],
        "maxReplicas": 10,
        "objective": {"seconds": 30},
        "scaleDown": {"idleTimeout": "30s"},
        "scaleToZero": {"after": "60s"},
    }
    return WorkerPoolSpec.parse({**raw, **fields})


@pytest.fixture(scope="module")
def burst() -> World:
    """500 tasks of 2 s at once, at 0 pods of 4 slots that take 8 s to start."""
    world = World(pool(), cold_start_s=8, service_s=2, slots=4)
    world.submit(500, at=START + 100)
    world.run(until=START + 600)
    return world


def test_a_burst_is_answered_within_one_tick_and_in_one_step(burst: World) -> None:
    first_at, first = burst.writes()[0]

    assert first_at - (START + 100) <= 5
    assert first == 10


def test_every_task_of_the_burst_is_done_once_and_none_is_killed(burst: World) -> None:
    assert burst.killed == []
    assert len(burst.done) == len(set(burst.done)) == 500


def test_the_backlog_of_the_burst_is_done_within_its_objective_and_a_cold_start(burst: World) -> None:
    # 1000 slot-seconds on 40 slots: 25 s, after a tick and 8 s of cold start.
    empty = next(at for at, decision in burst.decisions if at > START + 100 and not decision.queues["mails"]["ready"])

    assert empty - (START + 100) <= 5 + 8 + 30


def test_after_the_burst_the_pool_is_drained_to_nothing(burst: World) -> None:
    last_at, last = burst.writes()[-1]

    assert last == 0
    assert burst.pods == []
    assert last_at - (START + 100) < 40 + 60 + 30


def test_after_the_burst_nothing_is_written_any_more(burst: World) -> None:
    assert all(at < START + 300 for at, _ in burst.writes())


def test_the_cold_start_and_the_service_time_are_learnt_on_the_way(burst: World) -> None:
    learnt = burst.memory

    assert learnt.cold_start_s == pytest.approx(8)
    assert learnt.slots_per_pod == 4
    assert learnt.queues["mails"].overall.value_s == pytest.approx(2, rel=0.05)


def test_a_second_burst_during_the_drain_takes_the_pods_back() -> None:
    world = World(pool(), cold_start_s=8, service_s=2, slots=4)
    world.submit(500, at=START + 100)
    world.run(until=START + 100)
    while not any(decision.drain for _, decision in world.decisions):
        world.run(until=world.now + 5)
    world.submit(500, at=world.now + 1)
    second_at = world.now
    world.run(until=second_at + 11)

    assert any(decision.undrain for at, decision in world.decisions if at > second_at)
    assert not any(pod.drain_state(world.now) for pod in world.pods)
    world.run(until=second_at + 600)
    assert world.killed == []
    assert len(world.done) == 1000
    assert world.pods == []


def test_long_tasks_that_end_one_by_one_let_go_of_their_pods_one_by_one() -> None:
    world = World(pool(maxReplicas=5), cold_start_s=8, service_s=300, slots=1)
    for second in range(5):
        world.submit(1, at=START + 60 + 40 * second)

    world.run(until=START + 1500)

    assert len(world.done) == 5
    assert world.killed == []
    assert world.pods == []


def test_a_steady_stream_settles_on_one_number() -> None:
    world = World(pool(objective={"seconds": 60}, maxReplicas=20), cold_start_s=8, service_s=1, slots=4)
    for tenth in range(6000):
        world.submit(1, at=START + 20 + tenth / 10)

    world.run(until=START + 600)

    # 10 a second of 1 s each: 10 slots and the square root of that, on 4 slots a pod.
    assert world.replicas in (4, 5)
    assert len([at for at, _ in world.writes() if at > START + 240]) <= 2
    assert world.killed == []
