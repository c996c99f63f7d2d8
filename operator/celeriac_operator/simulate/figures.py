"""One run of a scenario and its figures; many runs, in processes; and whether one setting beats another."""

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from celeriac_operator.simulate.hpa import SYNC_S
from celeriac_operator.simulate.keda import Keda, KedaSettings
from celeriac_operator.simulate.load import Tasks, draw
from celeriac_operator.simulate.scenario import Scenario
from celeriac_operator.simulate.workerpool import Operator
from celeriac_operator.simulate.world import Sample, World

#: What "by over 10 %" leaves: to beat is to have less than this part of the other's.
BEATEN_BELOW = 0.9

#: KEDA's settings as the whole grid has them.
GRID_VALUES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 75, 100, 200, 300, 500, 1000)
GRID_MINIMUMS = (0, 1)
GRID_WINDOWS_S = (60.0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run cost, and what it was worth.

    keda        None: our operator.
    tasks       that arrived.
    p95_s       the 95th percentile of waits by queue: from when a task is due to the start of the run that completes
                it; of one that has not started by the end, what it had waited by then.
    strain      the largest of p95 over objective: up to 1 the objective is met. None: no queue has one in seconds.
    late        the part of those queues' tasks that waited for longer than the objective; None as well.
    pod_hours   from a pod's order to its end, whether it serves or starts or stops.
    killed      runs that were cut off by a scale-in, and lost_s the work that was lost with them.
    writes      of /scale.
    """

    keda: KedaSettings | None
    seed: int
    tasks: int
    p95_s: Mapping[str, float]
    strain: float | None
    late: float | None
    pod_hours: float
    killed: int
    lost_s: float
    writes: int
    unstarted: int
    samples: tuple[Sample, ...] = ()

    @property
    def met(self) -> bool | None:
        return None if self.strain is None else self.strain <= 1.0

    @property
    def wait(self) -> float:
        """What waits are compared by: the strain, or the longest p95 in seconds."""
        return max(self.p95_s.values()) if self.strain is None else self.strain

    def beats(self, other: "Figures") -> bool:
        """Whether this is better by over 10 % in both: the wait, as a part of its objective, and the pod-hours."""
        return self.wait < BEATEN_BELOW * other.wait and self.pod_hours < BEATEN_BELOW * other.pod_hours


def run(scenario: Scenario, keda: KedaSettings | None, seed: int, *, samples: int = 0) -> Figures:
    """Simulate the scenario once, under KEDA as set, or under our operator.

    Chance follows from the seed alone, and a queue's tasks from the seed and its name: whatever else differs, runs of
    one seed meet the same tasks, and look for the first time at the same part of their period.
    """
    world = World(scenario, _tasks(scenario, seed), chance=random.Random(f"{seed} victims"))
    moments = random.Random(f"{seed} moments")
    look, sync = moments.random(), moments.random()
    if keda is None:
        Operator(world, first_at=look * scenario.spec.interval_s)
    else:
        Keda(world, keda, first_poll_at=look * keda.polling_s, first_sync_at=sync * SYNC_S)
    world.run(samples=samples)
    return _figures(world, keda, seed)


def run_all(
    scenario: Scenario, settings: Sequence[KedaSettings | None], seeds: Sequence[int], *, processes: int
) -> Iterator[Figures]:
    """`run` for all settings with all seeds, seed by seed, over so many processes."""
    jobs = [(scenario, keda, seed) for seed in seeds for keda in settings]
    if processes <= 1 or len(jobs) == 1:
        for job in jobs:
            yield run(*job)
        return
    with ProcessPoolExecutor(processes) as pool:
        # Jobs of one seed next to each other: a process draws its tasks once for all of them.
        yield from pool.map(run, *zip(*jobs, strict=True), chunksize=max(1, len(settings) // (2 * processes)))


def grid(scenario: Scenario, *, ready_only: bool = False) -> list[KedaSettings]:
    """Every setting of KEDA that ours is compared with."""
    return [
        KedaSettings(
            value=value,
            min_replicas=least,
            max_replicas=scenario.spec.max_replicas,
            down_window_s=window_s,
            ready_only=ready_only,
        )
        for window_s in GRID_WINDOWS_S
        for least in GRID_MINIMUMS
        for value in GRID_VALUES
    ]


@lru_cache(maxsize=1)
def _tasks(scenario: Scenario, seed: int) -> tuple[Tasks, ...]:
    return tuple(draw(load, scenario.duration_s, random.Random(f"{seed} queue {load.name}")) for load in scenario.loads)


def _figures(world: World, keda: KedaSettings | None, seed: int) -> Figures:
    p95_s: dict[str, float] = {}
    late = count = judged = unstarted = 0
    strains: list[float] = []
    for queue in world.queues:
        objective_s = world.scenario.objective_s(queue.name)
        due_at = queue.tasks.due_at
        waits = [
            wait if wait >= 0 else world.now - due for wait, due in zip(queue.waits, due_at, strict=True) if wait != 0.0
        ]
        unstarted += sum(wait < 0 for wait in queue.waits)
        count += len(due_at)
        p95_s[queue.name] = percentile(sorted(waits), 0.95, of=len(due_at))
        if objective_s is not None:
            late += sum(wait > objective_s for wait in waits)
            judged += len(due_at)
            strains.append(p95_s[queue.name] / objective_s)
    return Figures(
        keda=keda,
        seed=seed,
        tasks=count,
        p95_s=p95_s,
        strain=max(strains, default=None),
        late=late / max(1, judged) if strains else None,
        pod_hours=world.pod_s / 3600.0,
        killed=world.killed,
        lost_s=world.lost_s,
        writes=world.writes,
        unstarted=unstarted,
        samples=tuple(world.samples),
    )


def percentile(positive: Sequence[float], part: float, *, of: int) -> float:
    """The nearest-rank percentile of `of` values, of which `positive` (sorted) are the ones that are not zero."""
    rank = int(part * of) - (of - len(positive))
    return positive[min(rank, len(positive) - 1)] if positive and rank >= 0 else 0.0
