"""Which part of a queue's demand each of several pools takes."""

from typing import Any

import pytest

from celeriac_operator.loop.members import Member, PoolState, Sight
from celeriac_operator.loop.sharing import split_shared
from celeriac_operator.resources.records import PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.signals import PodSample, TargetSample


def sight(name: str, *, on: str = "", slots: int = 0, queues: str = "q", mode: str = "Active", **target: Any) -> Sight:
    raw = {"targetRef": {"name": on or name}, "queues": [{"name": queue} for queue in queues.split()], "mode": mode}
    record = PoolRecord(namespace="shop", name=name, spec=raw)
    return Sight(
        member=Member(record=record, spec=WorkerPoolSpec.parse(raw), state=PoolState()),
        target=TargetSample(name=on or name, **target),
        pods=(PodSample(name=f"{on or name}-0", slots=slots),) if slots else (),
    )


KEDAS = {"foreign_manager": "ScaledObject/x"}


@pytest.mark.parametrize(
    ("sights", "parts"),
    [
        pytest.param([sight("a", slots=4)], {}, id="alone, all of it"),
        pytest.param(
            [sight("a", slots=6), sight("b", slots=2)], {"a": {"q": 0.75}, "b": {"q": 0.25}}, id="two share by their slots"
        ),
        pytest.param(
            [sight("a", slots=3), sight("b")], {"a": {"q": 0.75}, "b": {"q": 0.25}}, id="one without pods counts as a slot"
        ),
        pytest.param(
            [sight("a", slots=4, queues="q r"), sight("b", slots=4, queues="r s")],
            {"a": {"r": 0.5}, "b": {"r": 0.5}},
            id="of the queue that both consume alone",
        ),
        pytest.param(
            [sight("a", slots=4), sight("b", on="a", slots=4, mode="DryRun")], {}, id="a dry run on the same target takes nothing"
        ),
        pytest.param(
            [sight("a", slots=4), *(sight(n, on="a", slots=4, mode="DryRun") for n in "bcd")], {}, id="nor do three of them"
        ),
        pytest.param([sight("a", slots=4), sight("b", on="a", slots=4, mode="Paused")], {}, id="nor does a paused pool"),
        pytest.param(
            [sight("a", slots=4), sight("b", on="a", slots=4, foreign_manager="WorkerPool/a")], {}, id="nor does one in conflict"
        ),
        pytest.param(
            [sight("a", slots=2), sight("b", slots=6), sight("dry", on="a", slots=2, mode="DryRun")],
            {"a": {"q": 0.25}, "b": {"q": 0.75}, "dry": {"q": 0.25}},
            id="a dry run sees the part of its target",
        ),
        pytest.param(
            [sight("a", slots=4), sight("b", error="Deployment shop/b does not exist")], {}, id="a missing target takes nothing"
        ),
        pytest.param([sight("a", slots=4), sight("b", mode="DryRun")], {}, id="a dry run without pods takes nothing"),
        pytest.param(
            [sight("a", slots=4), sight("b", slots=4, mode="DryRun", **KEDAS)],
            {"a": {"q": 0.5}, "b": {"q": 0.5}},
            id="pods that another autoscaler scales do their part",
        ),
        pytest.param([sight("a", slots=4), sight("b", **KEDAS)], {}, id="another autoscaler's target without pods takes nothing"),
    ],
)  # fmt: skip
def test_the_demand_of_a_queue_is_split_by_targets(sights: list[Sight], parts: dict[str, dict[str, float]]) -> None:
    assert {key[1]: part for key, part in split_shared(sights).items()} == parts
