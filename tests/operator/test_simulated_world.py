"""The simulator's world in small: what starts when, who is killed, what an autoscaler can see."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.described import read_scenario
from celeriac_operator.simulate.figures import percentile, run
from celeriac_operator.simulate.keda import KedaSettings
from celeriac_operator.simulate.load import Counts, Herd, QueueLoad, Recorded, ServiceTime, Sine, Steady, draw
from celeriac_operator.simulate.scenario import Scenario, built_in
from celeriac_operator.simulate.world import World

ONE_SECOND: dict[str, Any] = {"mean": "1s", "distribution": "constant"}


def scenario(tmp_path: Path, **fields: Any) -> Scenario:
    """One pod of two slots that starts in ten seconds; tasks of a second; no arrivals unless given."""
    queue = {"name": "q", "serviceTime": ONE_SECOND, "arrivals": fields.pop("arrivals", [])}
    raw = {
        "duration": "10m",
        "pods": {"slots": 2, "coldStart": "10s", "grace": "30s"},
        "pool": {"minReplicas": 1, "maxReplicas": 10},
        "queues": [{**queue, **fields.pop("queue", {})}],
        **fields,
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(raw))
    return read_scenario(path)


def world_of(small: Scenario, seed: int = 1) -> World:
    chance = random.Random(seed)
    return World(small, [draw(load, small.duration_s, chance) for load in small.loads], chance=chance)


# ── tasks start and end ──


def test_tasks_start_in_order_on_slots_that_are_free(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path, arrivals=[{"count": 5, "first": "20s"}]))

    world.run()

    assert list(world.queues[0].waits) == [0, 0, 1, 1, 2]


def test_nothing_starts_before_a_pod_has(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path, arrivals=[{"count": 2, "first": "4s"}]))

    world.run()

    assert list(world.queues[0].waits) == [6, 6]


def test_what_an_autoscaler_sees_adds_up(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path, arrivals=[{"count": 5, "first": "20s"}]))
    seen = []
    world.at(21.5, lambda: seen.append(world.view(0)))

    world.run()

    (view,) = seen
    assert (view.waiting, view.running, view.started, view.completed) == (1, 2, 4, 2)
    assert view.busy_s == pytest.approx(2 * 1 + 2 * 0.5)
    assert view.oldest_age_s == pytest.approx(1.5)


def test_delayed_tasks_are_seen_from_when_they_are_sent_to_when_they_are_due(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path, arrivals=[{"count": 7, "first": "2m", "ahead": "1m"}]))
    seen = {}
    for at in (30, 90, 115, 121):
        world.at(at, lambda at=at: seen.update({at: world.view(0, horizon_s=10)}))  # type: ignore[misc]

    world.run()

    assert {at: (view.delayed, view.due_soon) for at, view in seen.items()} == {
        30: (0, 0),
        90: (7, 0),
        115: (7, 7),
        121: (0, 0),
    }


def test_a_rate_limit_spaces_starts_and_holds_no_slot(tmp_path: Path) -> None:
    limited = world_of(scenario(tmp_path, queue={"limitPerSecond": 4}, arrivals=[{"count": 5, "first": "20s"}]))

    limited.run()

    assert list(limited.queues[0].waits) == pytest.approx([0, 0.25, 1.0, 1.25, 2.0])


def test_of_several_queues_the_first_is_served_first(tmp_path: Path) -> None:
    queues = [
        {"name": name, "serviceTime": ONE_SECOND, "arrivals": [{"count": 2, "first": "20s"}]} for name in ("a", "b")
    ]
    world = world_of(scenario(tmp_path, queues=queues))

    world.run()

    assert [list(queue.waits) for queue in world.queues] == [[0, 0], [1, 1]]


def test_nothing_starts_while_the_broker_is_away(tmp_path: Path) -> None:
    world = world_of(
        scenario(tmp_path, arrivals=[{"count": 1, "first": "105s"}], outages=[{"first": "100s", "for": "20s"}])
    )

    world.run()

    assert list(world.queues[0].waits) == [15]


def test_both_ways_to_advance_agree(tmp_path: Path) -> None:
    """One queue without a limit has a loop of its own; a limit that never binds takes the other one."""
    load = [{"rate": 3}, {"count": 40, "first": "1m", "every": "2m"}]
    fast = world_of(scenario(tmp_path, arrivals=load))
    slow = world_of(scenario(tmp_path, arrivals=load, queue={"limitPerSecond": 1e9}))

    fast.run()
    slow.run()

    assert list(fast.queues[0].waits) == pytest.approx(list(slow.queues[0].waits), abs=1e-5)
    assert len(fast.queues[0].waits) > 1500


# ── pods ──


def test_a_marked_pod_claims_nothing_until_the_mark_is_lifted(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path, arrivals=[{"count": 2, "first": "20s"}]))
    world.at(15, lambda: world.mark(world.pods[0], "drain", 60))
    world.at(40, lambda: world.unmark(world.pods[0]))

    world.run()

    assert list(world.queues[0].waits) == [20, 20]


def test_a_mark_that_is_not_repeated_expires(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path, arrivals=[{"count": 2, "first": "20s"}]))
    world.at(15, lambda: world.mark(world.pods[0], "drain", 60))
    world.at(80, lambda: None)

    world.run()

    assert list(world.queues[0].waits) == [60, 60]


def test_a_pod_that_is_removed_ends_what_fits_its_grace_and_the_rest_runs_anew(tmp_path: Path) -> None:
    small = scenario(
        tmp_path,
        queue={"serviceTime": {"mean": "40s", "distribution": "constant"}},
        arrivals=[{"count": 1, "first": "15s"}, {"count": 1, "first": "35s"}],
    )
    world = world_of(small)
    world.at(40, lambda: world.scale(0))  # the first has 15 s to run, the second 35: more than the grace of 30
    world.at(41, lambda: world.scale(1))

    world.run()

    assert world.killed == 1
    assert world.lost_s == 35
    assert list(world.queues[0].waits) == [0, 35]  # killed at 70, and started again then by the new pod
    assert world.writes == 2
    # The first pod from 0 to 70, the second from 41 to the end.
    assert world.pod_s == 70 + (600 - 41)
    assert world.view(0).completed == 2
    assert world.view(0).busy_s == pytest.approx(40 + 35 + 40)


def test_pods_that_are_not_ready_go_before_those_that_are(tmp_path: Path) -> None:
    world = world_of(scenario(tmp_path))
    world.at(20, lambda: world.scale(3))
    world.at(25, lambda: world.scale(1))

    world.run()

    assert [pod.name for pod in world.pods] == ["workers-0"]


# ── loads ──


def count_of(shape: object, duration_s: float, seed: int = 1) -> int:
    load = QueueLoad(name="q", service=ServiceTime(mean_s=1), shapes=(shape,))  # type: ignore[arg-type]
    return len(draw(load, duration_s, random.Random(seed)).due_at)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Steady(rate_per_s=10), 36_000),
        (Steady(rate_per_s=10, first_at=100, every_s=1000, for_s=200), 4 * 2000),
        (Sine(low_per_s=0, high_per_s=20, period_s=600), 36_000),
        (Counts(counts=(1000, 0, 5000), span_s=600), 6000),
        (Herd(count=500, first_at=0, every_s=1200), 1500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_load_brings_as_many_tasks_as_it_says(shape: object, expected: int) -> None:
    assert count_of(shape, 3600) == pytest.approx(expected, rel=0.05)


def test_the_same_seed_draws_the_same_tasks_and_another_draws_others() -> None:
    load = QueueLoad(name="q", service=ServiceTime(mean_s=1), shapes=(Steady(rate_per_s=1),))
    first, again, other = (draw(load, 600, random.Random(seed)) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_recorded_tasks_keep_their_times_and_run_times() -> None:
    load = QueueLoad(name="q", service=ServiceTime(mean_s=9), shapes=(Recorded(tasks=((1.0, 2.0), (5.0, 0.5))),))
    tasks = draw(load, 600, random.Random(1))

    assert (list(tasks.due_at), list(tasks.run_s)) == ([1, 5], [2, 0.5])


# ── scenarios ──


def test_every_built_in_scenario_can_be_read() -> None:
    found = {name: read_scenario(path) for name, path in built_in().items()}

    assert {"a", "b", "c", "d", "e", "daily", "objectives", "flapping"} <= set(found)
    assert all(len(known.loads) == len(known.spec.queues) for known in found.values())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"duration": None}, "duration is missing"),
        ({"pods": {"slot": 3}}, "pods has 'slot', known are slots"),
        ({"arrivals": [{"rat": 3}]}, r"queues\[0\].arrivals\[0\] is .*, must have rate"),
        ({"queue": {"serviceTime": {"mean": "1s", "distribution": "normal"}}}, "must be one of constant"),
        ({"pool": {"maxReplica": 3}}, "pool.maxReplica is not a field"),
        ({"queues": []}, "queues is missing"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_with_a_scenario_is_said_by_file_and_field(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(SetupError, match=rf"small.yaml: .*{said}"):
        scenario(tmp_path, **fields)


# ── figures ──


def test_the_percentile_counts_those_that_did_not_wait() -> None:
    assert percentile([1.0, 2.0, 3.0], 0.95, of=100) == 0.0
    assert percentile([float(n) for n in range(1, 11)], 0.95, of=100) == 6.0
    assert percentile([], 0.95, of=0) == 0.0


def test_a_run_is_repeatable_and_ours_kills_nothing(tmp_path: Path) -> None:
    small = scenario(tmp_path, arrivals=[{"rate": 1}, {"rate": 20, "first": "2m", "every": "5m", "for": "1m"}])

    first, again = (run(small, None, 3) for _ in range(2))

    assert first == again
    assert first.killed == 0
    assert first.writes > 2


def test_what_does_not_count_draws_nothing_anew(tmp_path: Path) -> None:
    """The spelling of a number, the name of a file and a field that changes nothing leave every figure as it is."""
    small = scenario(tmp_path, pool={"maxReplicas": 4}, arrivals=[{"rate": 3}])
    keda = KedaSettings(value=5, min_replicas=0, max_replicas=4)

    first = run(small, keda, 1)

    for other, settings in (
        (small, replace(keda, value=5.0)),
        (replace(small, name="copied", title="Copied"), keda),
        (small, replace(keda, cooldown_s=301.0)),
    ):
        assert replace(run(other, settings, 1), keda=keda) == first
    assert replace(run(replace(small, name="copied"), None, 1), keda=None) == run(small, None, 1)


def test_a_queue_has_the_same_tasks_whatever_stands_beside_it(tmp_path: Path) -> None:
    queue = {"name": "a", "serviceTime": ONE_SECOND, "arrivals": [{"rate": 1}]}
    other = {"name": "b", "serviceTime": {"mean": "1s"}, "arrivals": [{"count": 1, "first": "9m"}]}
    spare = {"minReplicas": 5, "maxReplicas": 5}  # nobody waits once the pods have started
    keda = KedaSettings(value=1, min_replicas=5, max_replicas=5)

    alone, beside = (
        run(scenario(tmp_path, pool=spare, pods={"slots": 2, "coldStart": "1m"}, queues=queues), keda, 1)
        for queues in ([queue], [other, queue])
    )

    assert alone.p95_s["a"] == beside.p95_s["a"] > 0


def test_keda_kills_what_outlives_the_grace_and_ours_does_not(tmp_path: Path) -> None:
    small = scenario(
        tmp_path,
        duration="2h",
        pool={"maxReplicas": 20},
        queue={"serviceTime": {"mean": "200s", "distribution": "lognormal"}},
        arrivals=[{"rate": 0.05}],
    )
    keda = KedaSettings(value=2, min_replicas=0, max_replicas=20, down_window_s=60)

    assert run(small, keda, 1).killed > 0
    assert run(small, None, 1).killed == 0
