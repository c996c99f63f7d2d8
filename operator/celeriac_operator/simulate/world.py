"""A world of queues, slots and pods: what happens between two looks of an autoscaler, and what it can see when it looks.

Tasks of a queue start in the order they came, each on the slot that has been free for longest. Everything that changes
who may claim (a pod that starts, a drain mark, a scale-in, an outage) is an event of its own; between two events tasks
only start and end, which is one loop over slots sorted by when they are free. A pod told to stop claims nothing more and
is killed when its grace is over; a task that it still ran then goes back to its queue, and runs anew.
"""

import math
import random
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

from celeriac_operator.simulate.load import Tasks
from celeriac_operator.simulate.scenario import Scenario

#: From drained to not ready, as a kubelet that asks every five seconds sees it at the latest.
READINESS_S = 5.0

#: What a pod takes to end when nothing runs in it.
EXIT_S = 1.0

#: A slot that is not started yet, or has started nothing.
_NOTHING = -1


@dataclass(slots=True, eq=False)
class Pod:
    """A pod. ready_at: when its worker starts to claim. mark: the drain it follows. slots: their numbers."""

    name: str
    created_at: float
    ready_at: float
    slots: tuple[int, ...]
    mark: str = ""
    marked_at: float = 0.0
    marked_until: float = 0.0


@dataclass(slots=True, eq=False)
class Queue:
    """A queue. head: how many of its tasks have started. waits: by task, negative while it waits. starts: runs begun."""

    name: str
    tasks: Tasks
    limit_per_s: float | None
    waits: "array[float]"
    head: int = 0
    starts: int = 0
    started_s: float = 0.0
    token_at: float = 0.0
    returned: "deque[tuple[float, int]]" = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Sample:
    """The world at one moment, for a plot.

    came_s: slot-seconds that came in since the sample before. longest_wait_s: of what waits now.
    """

    at: float
    came_s: float
    waiting: int
    longest_wait_s: float
    running: int
    slots: int
    pods: int


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue at one moment: waiting are due and not started; busy_s counts running tasks by what they ran so far."""

    waiting: int
    running: int
    started: int
    completed: int
    busy_s: float
    oldest_age_s: float | None
    delayed: int
    due_soon: int


class World:
    """`run` the whole of it; an autoscaler asks for `at` to be called, and calls `view`, `scale` and `mark`.

    Of several queues workers claim in the order of the list.
    """

    def __init__(self, scenario: Scenario, tasks: Sequence[Tasks], *, chance: random.Random) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.replicas = scenario.spec.min_replicas
        self.pods: list[Pod] = []
        self.writes = 0
        self.killed = 0
        self.lost_s = 0.0
        self.pod_s = 0.0
        self.broker_down = False
        self.samples: list[Sample] = []
        self.queues = [
            Queue(load.name, drawn, load.limit_per_s, array("d", [-1.0]) * len(drawn.due_at))
            for load, drawn in zip(scenario.loads, tasks, strict=True)
        ]
        self._chance = chance
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._free: list[tuple[float, int]] = []  # (free at, slot) of every slot that claims, a heap
        self._held: dict[int, float] = {}  # slot -> free at, of slots that claim nothing more or nothing now
        self._runs: list[
            int
        ] = []  # slot -> the task it runs or ran last: its number x the number of queues + its queue
        self._leaving: dict[str, tuple[Pod, float]] = {}
        self._cut_s = [0.0] * len(self.queues)  # of runs that were cut off: what they had still to run
        self._cuts = [0] * len(self.queues)
        self._sampled = [0] * len(self.queues)

    def run(self, *, samples: int = 0) -> None:
        """From zero to the end of the scenario."""
        duration_s = self.scenario.duration_s
        for outage in self.scenario.outages:
            for begin, end in outage.spans(duration_s):
                self.at(begin, self._lose_broker)
                self.at(end, self._find_broker)
        for n in range(samples):
            self.at(n * duration_s / samples, self._sample)
        replicas, self.replicas = self.replicas, 0
        self._resize(replicas)
        while self._events and self._events[0][0] < duration_s:
            when, _, event = heappop(self._events)
            self._advance(when)
            self.now = when
            event()
        self._advance(duration_s)
        self.now = duration_s
        everybody = [*((pod, duration_s) for pod in self.pods), *self._leaving.values()]
        self.pod_s += sum(min(end, duration_s) - pod.created_at for pod, end in everybody)

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have `event` called at that moment."""
        self._numbers += 1
        heappush(self._events, (when, self._numbers, event))

    # -- what an autoscaler sees

    def view(self, index: int, *, horizon_s: float = 0.0) -> QueueView:
        """The queue of that number, now. horizon_s: how far ahead delayed tasks count as due soon."""
        queue, now = self.queues[index], self.now
        running, left_s = self._running(index)
        arrived = bisect_right(queue.tasks.due_at, now)
        waiting = arrived - queue.head + len(queue.returned)
        oldest = queue.tasks.due_at[queue.head] if queue.head < arrived else now
        if queue.returned:
            oldest = min(oldest, *(queue.tasks.due_at[task] for _, task in queue.returned))
        delayed = queue.tasks.delayed
        first = bisect_right(delayed, now, key=_due)
        soon = bisect_right(delayed, now + horizon_s, lo=first, key=_due)
        return QueueView(
            waiting=waiting,
            running=running,
            started=queue.starts,
            completed=queue.starts - running - self._cuts[index],
            busy_s=queue.started_s - left_s - self._cut_s[index],
            oldest_age_s=now - oldest if waiting else None,
            delayed=bisect_right(queue.tasks.sent_at, now) - first,
            due_soon=sum(sent <= now for sent, _ in delayed[first:soon]),
        )

    def waits_between(self, index: int, first: int, last: int) -> list[float]:
        """The waits of the tasks of those numbers, in the order they came; not of those that were cut off and wait again."""
        return [wait for wait in self.queues[index].waits[first:last] if wait >= 0.0]

    def busy(self) -> dict[int, float]:
        """Slot -> until when it runs a task, of all slots that do."""
        running = {slot: until for until, slot in self._free if until > self.now}
        running.update((slot, until) for slot, until in self._held.items() if until > self.now)
        return running

    def began_at(self, slot: int, until: float) -> float:
        """When the run began that occupies the slot until then."""
        task, index = divmod(self._runs[slot], len(self.queues))
        return until - self.queues[index].tasks.run_s[task]

    def drained_since(self, pod: Pod, busy: dict[int, float]) -> float | None:
        """Since when a marked pod runs nothing; None while it does, or when it is not marked."""
        if not pod.mark or any(slot in busy for slot in pod.slots):
            return None
        return max([pod.marked_at, *(self._held.get(slot, 0.0) for slot in pod.slots)])

    def is_ready(self, pod: Pod, busy: dict[int, float]) -> bool:
        since = self.drained_since(pod, busy)
        return pod.ready_at <= self.now and (since is None or self.now - since < READINESS_S)

    def claims(self) -> bool:
        """Whether any pod's worker takes up work."""
        return bool(self._free)

    # -- what an autoscaler does

    def scale(self, replicas: int) -> None:
        """Write /scale. The ReplicaSet follows at once."""
        self.writes += replicas != self.replicas
        self._resize(replicas)

    def mark(self, pod: Pod, mark: str, ttl_s: float) -> None:
        """Tell a pod's worker to claim nothing more for ttl_s."""
        if not pod.mark:
            pod.marked_at = self.now
            self._hold(pod)
        pod.mark, pod.marked_until = mark, self.now + ttl_s

    def unmark(self, pod: Pod) -> None:
        if pod.mark:
            pod.mark = ""
            if pod.ready_at <= self.now:
                self._release(pod)

    # -- what happens by itself

    def _resize(self, replicas: int) -> None:
        self.replicas = replicas
        now, kind = self.now, self.scenario.pods
        while len(self.pods) < replicas:
            first = len(self._runs)
            self._runs += [_NOTHING] * kind.slots
            slots = tuple(range(first, first + kind.slots))
            pod = Pod(f"workers-{first // kind.slots}", now, now + kind.cold_start_s, slots)
            self.pods.append(pod)
            self.at(pod.ready_at, lambda pod=pod: self._start(pod))  # type: ignore[misc]
        if len(self.pods) > replicas:
            busy = self.busy()
            order = sorted(self.pods, key=lambda pod: self._victim(pod, busy))
            for pod in order[: len(self.pods) - replicas]:
                self._end(pod, busy)

    def _victim(self, pod: Pod, busy: dict[int, float]) -> tuple[object, ...]:
        """Sorts as a ReplicaSet does: not ready first, then the youngest by powers of two, then by chance."""
        age_s = max(1.0, self.now - pod.ready_at)
        return (self.is_ready(pod, busy), math.floor(math.log2(age_s)), self._chance.random())

    def _start(self, pod: Pod) -> None:
        if pod in self.pods and not pod.mark:
            self._release(pod)

    def _end(self, pod: Pod, busy: dict[int, float]) -> None:
        """SIGTERM: the pod claims no more, finishes what it can within its grace, and is gone."""
        self.pods.remove(pod)
        self._hold(pod)
        latest = self.now + self.scenario.pods.grace_s
        last = max((busy[slot] for slot in pod.slots if slot in busy), default=self.now + EXIT_S)
        end = min(last, latest)
        self._leaving[pod.name] = (pod, end)
        self.at(end, lambda: self._gone(pod))

    def _gone(self, pod: Pod) -> None:
        del self._leaving[pod.name]
        self.pod_s += self.now - pod.created_at
        for slot in pod.slots:
            until = self._held.pop(slot, 0.0)
            if until <= self.now:
                continue
            task, index = divmod(self._runs[slot], len(self.queues))
            queue = self.queues[index]
            self.killed += 1
            self.lost_s += queue.tasks.run_s[task] - (until - self.now)
            self._cut_s[index] += until - self.now
            self._cuts[index] += 1
            queue.waits[task] = -1.0
            queue.returned.append((self.now, task))

    def _hold(self, pod: Pod) -> None:
        """Take a pod's slots out of those that claim."""
        mine = set(pod.slots)
        self._held.update((slot, until) for until, slot in self._free if slot in mine)
        self._free = [entry for entry in self._free if entry[1] not in mine]
        heapify(self._free)

    def _release(self, pod: Pod) -> None:
        """Let a pod's slots claim from now on."""
        for slot in pod.slots:
            heappush(self._free, (max(self._held.pop(slot, 0.0), self.now), slot))

    def _lose_broker(self) -> None:
        self.broker_down = True

    def _find_broker(self) -> None:
        self.broker_down = False
        self._free = [(max(until, self.now), slot) for until, slot in self._free]
        heapify(self._free)

    def _advance(self, until: float) -> None:
        """Start everything that can be started before `until`."""
        for pod in self.pods:
            if pod.mark and pod.marked_until <= self.now:
                self.unmark(pod)
        if self.broker_down or not self._free:
            return
        if len(self.queues) == 1 and self.queues[0].limit_per_s is None:
            self._advance_one(self.queues[0], until)
        else:
            self._advance_many(until)

    def _advance_one(self, queue: Queue, until: float) -> None:
        """The same as `_advance_many` for one queue without a limit, in a tenth of the time."""
        free, runs, waits, returned = self._free, self._runs, queue.waits, queue.returned
        due_at, run_s = queue.tasks.due_at, queue.tasks.run_s
        while returned:
            since, task = returned[0]
            begin = max(since, free[0][0])
            if begin >= until:
                return
            returned.popleft()
            self._begin(queue, 0, task, begin)
        head, count, started_s = queue.head, len(due_at), queue.started_s
        while head < count:
            begin, slot = free[0]
            due = due_at[head]
            if due > begin:  # noqa: PLR1730  max() would double the time that this loop takes
                begin = due
            if begin >= until:
                break
            took_s = run_s[head]
            heapreplace(free, (begin + took_s, slot))
            waits[head] = begin - due
            runs[slot] = head
            started_s += took_s
            head += 1
        queue.starts += head - queue.head
        queue.head, queue.started_s = head, started_s

    def _advance_many(self, until: float) -> None:
        queues, free = self.queues, self._free
        while True:
            free_at = free[0][0]
            best, best_at = -1, until
            for index, queue in enumerate(queues):
                begin = max(free_at, self._next_at(queue))
                if begin < best_at:
                    best, best_at = index, begin
            if best < 0:
                return
            queue = queues[best]
            if queue.returned and max(queue.returned[0][0], queue.token_at) <= best_at:
                task = queue.returned.popleft()[1]
            else:
                task = queue.head
                queue.head += 1
            self._begin(queue, best, task, best_at)

    def _next_at(self, queue: Queue) -> float:
        """When the queue's next task may start as far as the queue is concerned."""
        at = queue.tasks.due_at[queue.head] if queue.head < len(queue.tasks.due_at) else math.inf
        if queue.returned:
            at = min(at, queue.returned[0][0])
        return max(at, queue.token_at)

    def _begin(self, queue: Queue, index: int, task: int, begin: float) -> None:
        took_s = queue.tasks.run_s[task]
        slot = self._free[0][1]
        heapreplace(self._free, (begin + took_s, slot))
        self._runs[slot] = task * len(self.queues) + index
        queue.waits[task] = begin - queue.tasks.due_at[task]
        queue.starts += 1
        queue.started_s += took_s
        if queue.limit_per_s is not None:
            queue.token_at = begin + 1.0 / queue.limit_per_s

    def _running(self, index: int) -> tuple[int, float]:
        """How many tasks of a queue run, and how many seconds they have still to run."""
        count, left_s = 0, 0.0
        for slot, until in self.busy().items():
            if self._runs[slot] % len(self.queues) == index:
                count += 1
                left_s += until - self.now
        return count, left_s

    def _sample(self) -> None:
        busy = self.busy()
        arrived = [bisect_right(queue.tasks.due_at, self.now) for queue in self.queues]
        before, self._sampled = self._sampled, arrived
        views = [self.view(index) for index in range(len(self.queues))]
        self.samples.append(
            Sample(
                at=self.now,
                came_s=sum(
                    sum(queue.tasks.run_s[first:last])
                    for queue, first, last in zip(self.queues, before, arrived, strict=True)
                ),
                waiting=sum(view.waiting for view in views),
                longest_wait_s=max(view.oldest_age_s or 0.0 for view in views),
                running=len(busy),
                slots=sum(len(pod.slots) for pod in self.pods if pod.ready_at <= self.now),
                pods=len(self.pods) + len(self._leaving),
            )
        )


def _due(entry: tuple[float, float]) -> float:
    return entry[1]
