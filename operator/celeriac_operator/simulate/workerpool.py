"""Our operator over a world: what its loop would see, handed to `decide`, and what was decided, done."""

from celeriac.telemetry.totals import Histogram
from celeriac.wire.event import WAIT_BUCKETS_S
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.learning import horizon_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample
from celeriac_operator.simulate.world import Pod, QueueView, World

#: A mark that is not repeated expires after so long.
_MARK_S = 60.0

#: Age of a heartbeat as the operator sees it: workers send one every two seconds.
_HEARD_S = 1.0


class Operator:
    """Ticks over a world, first at `first_at`."""

    def __init__(self, world: World, *, first_at: float) -> None:
        self.world = world
        self.spec = world.scenario.spec
        self.memory = Memory()
        self._start_at = world.scenario.start_at
        self._queues: tuple[QueueSample, ...] = ()
        self._limited: tuple[LimitedClass, ...] = ()
        self._sampled_at = 0.0
        self._heard_at = 0.0
        self._was_down = False
        self._first_heard: dict[str, float] = {}
        self._met_workers = False
        self._throttled = [0] * len(world.queues)
        self._waits = [Histogram(WAIT_BUCKETS_S) for _ in world.queues]
        self._counted = [0] * len(world.queues)  # tasks whose waits are in there
        world.at(first_at, self.tick)

    def tick(self) -> None:
        world = self.world
        world.at(world.now + self.spec.interval_s, self.tick)
        decision = decide(self._look(), self.spec, self.memory, self._start_at + world.now)
        self.memory = decision.memory
        self._act(decision)

    def _look(self) -> Signals:
        world = self.world
        now, busy = self._start_at + world.now, world.busy()
        if not world.broker_down:
            self._met_workers = self._met_workers or world.claims()
            views = [
                world.view(index, horizon_s=horizon_s(self.spec, self.memory)) for index in range(len(world.queues))
            ]
            self._limited = tuple(
                limit for index, view in enumerate(views) for limit in self._limit(index, view) if self._met_workers
            )
            self._queues = tuple(self._queue(index, view) for index, view in enumerate(views))
            self._sampled_at, self._heard_at = now, world.now
        pods = tuple(self._pod(pod, busy) for pod in world.pods)
        self._was_down = world.broker_down
        return Signals(
            broker_ok=not world.broker_down,
            broker_error="the broker does not answer" if world.broker_down else "",
            sampled_at=self._sampled_at,
            queues=self._queues,
            limited=self._limited,
            pods=pods,
            target=TargetSample(
                replicas=world.replicas,
                ready_replicas=sum(pod.ready for pod in pods),
                name="workers",
                grace_s=world.scenario.pods.grace_s,
                existing=len(pods),
            ),
            listened_s=world.now,
        )

    def _queue(self, index: int, view: QueueView) -> QueueSample:
        name, throttled = self.world.queues[index].name, self._throttled[index]
        waits, head = self._waits[index], self.world.queues[index].head
        for wait_s in self.world.waits_between(index, self._counted[index], head):
            waits.add(wait_s)
        self._counted[index] = head
        return QueueSample(
            name=name,
            ready=view.waiting - throttled,
            leased=view.running,
            throttled=throttled,
            delayed=view.delayed,
            due_soon=view.due_soon,
            oldest_age_s=view.oldest_age_s,
            started=view.started,
            completed=view.completed,
            busy_s=view.busy_s,
            waits=sum(waits.counts),
            wait_s=waits.sum,
            wait_counts=tuple(waits.counts),
        )

    def _limit(self, index: int, view: QueueView) -> list[LimitedClass]:
        """The limit of a queue's tasks; workers that claim park at once what it holds back."""
        queue = self.world.queues[index]
        if queue.limit_per_s is None:
            return []
        known = self._throttled[index]
        self._throttled[index] = view.waiting if self.world.claims() else min(known, view.waiting)
        return [
            LimitedClass(
                task=f"{queue.name}.task",
                queue=queue.name,
                rate_per_s=queue.limit_per_s,
                throttled=self._throttled[index],
                started=view.started,
                run_s=view.busy_s,
            )
        ]

    def _pod(self, pod: Pod, busy: dict[int, float]) -> PodSample:
        world = self.world
        heard = pod.ready_at <= self._heard_at
        running = [slot for slot in pod.slots if slot in busy]
        drained = world.drained_since(pod, busy) is not None
        if heard:
            # Who starts while the broker is down is heard when it is back.
            self._first_heard.setdefault(pod.name, world.now if self._was_down else pod.ready_at)
        return PodSample(
            name=pod.name,
            uid=pod.name,
            node=f"celeriac@{pod.name}" if heard else "",
            # Half of a cold start is for a node and an image, half for the process.
            phase="Running" if 2 * world.now >= pod.created_at + pod.ready_at else "Pending",
            ready=world.is_ready(pod, busy),
            created_at=self._start_at + pod.created_at,
            ready_at=self._start_at + pod.ready_at if pod.ready_at <= world.now else None,
            heartbeat_age_s=world.now - self._heard_at + _HEARD_S if heard else None,
            first_heartbeat_at=self._start_at + self._first_heard[pod.name] if heard else None,
            slots=len(pod.slots),
            busy=len(running),
            queues=tuple(queue.name for queue in world.queues) if heard else (),
            longest_running_s=max((world.now - world.began_at(slot, busy[slot]) for slot in running), default=0.0),
            drain_state="" if not pod.mark else "drained" if drained else "draining",
            drain_id=pod.mark,
            drain_expires_in_s=max(0.0, pod.marked_until - world.now) if pod.mark else 0.0,
        )

    def _act(self, decision: Decision) -> None:
        world = self.world
        by_name = {pod.name: pod for pod in world.pods}
        if not world.broker_down:  # a command goes over the broker
            for name in decision.undrain:
                world.unmark(by_name[name])
            for name in decision.drain:
                world.mark(by_name[name], decision.drain_id, _MARK_S)
        if decision.replicas is not None:
            world.scale(decision.replicas)
