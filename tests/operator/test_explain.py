"""What would change a decision: the demand of a status, computed again."""

import re
from pathlib import Path
from typing import Any

import pytest

import celeriac_operator
from celeriac_operator.cli.explain import _alternatives_of, _change, words
from celeriac_operator.resources.conditions import merged
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.resources.status import fault_status
from celeriac_operator.scaling.decision import decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample
from celeriac_operator.scaling.whatif import GUARDS, alternatives

NOW = 1_000_000.0


def spec(**more: Any) -> WorkerPoolSpec:
    return WorkerPoolSpec.parse(
        {"targetRef": {"name": "mail"}, "queues": [{"name": "mail"}], "maxReplicas": 100, **more}
    )


def status(**row: Any) -> dict[str, Any]:
    queue = {
        "name": "mail",
        "ready": 0,
        "reserved": 0,
        "running": 0,
        "delayed": 0,
        "throttled": 0,
        "arrivalRate": "0",
        "serviceSeconds": "0.5",
        **row,
    }
    return {
        "replicas": 7, "readyReplicas": 7, "idleReplicas": 2, "queues": [queue],
        "learned": {"slotsPerPod": "4", "coldStartSeconds": "20", "queues": [{"name": "mail", "serviceSeconds": "0.5", "limitedTasks": []}]},
        "decision": {"summary": "7", "limitedBy": "none"},
    }  # fmt: skip


def test_steady_work_is_the_sum_of_the_specification() -> None:
    """40/s of 0.5 s tasks on pods of 4 slots: 20 busy slots and a square root, 7 pods (research/operator.md 2.5)."""
    found = {one.change: one.replicas for one in alternatives(spec(), status(arrivalRate="40", running=20), NOW)}
    assert found["as it is"] == 7
    assert found['headroom "0" instead of "1"'] == 5
    assert found["8 slots a pod instead of 4"] == 4


def test_a_backlog_needs_more_in_half_the_time() -> None:
    first, *others = alternatives(spec(), status(ready=20_000), NOW)
    found = {one.change: one.replicas for one in others}
    assert found["objective.seconds 30 instead of 60"] > first.replicas > found["objective.seconds 120 instead of 60"]


def test_what_changes_nothing_is_not_told() -> None:
    assert [one.change for one in alternatives(spec(headroom="0.0"), status(), NOW)] == ["as it is"]


def test_a_rate_limit_in_the_way_is_told() -> None:
    limited = {
        **status(ready=100, throttled=20_000, arrivalRate="100"),
        "rateLimits": [{"task": "t", "queue": "mail", "perSecond": "10", "scope": "cluster", "throttled": 20_000}],
    }
    limited["learned"]["queues"][0]["limitedTasks"] = [{"task": "t", "share": "1.00", "serviceSeconds": "0.5"}]
    first, *others = alternatives(spec(), limited, NOW)
    without = next(one.replicas for one in others if one.change.startswith("without rate limits"))
    assert without > 5 * first.replicas


@pytest.mark.parametrize("nothing", [{}, {"queues": []}])
def test_a_status_that_tells_nothing_changes_nothing(nothing: dict[str, Any]) -> None:
    assert alternatives(spec(), nothing, NOW) == []


def test_every_guard_that_may_have_the_last_word_is_explained() -> None:
    scaling = Path(celeriac_operator.__file__).parent / "scaling"
    told = re.search(
        r"limited_by  the guard that had the last word: (.*?)\.\n", (scaling / "decision.py").read_text(), re.S
    )
    assert told
    assert set(re.findall(r"[a-z_]+", told[1])) == set(GUARDS)


def test_it_reads_as_lines() -> None:
    raw = {"targetRef": {"name": "mail"}, "queues": [{"name": "mail"}]}
    lines = _change({"spec": raw, "status": status(arrivalRate="40", running=20)})
    assert lines[1] == "  limited by none: demand alone: nothing holds it"
    assert '    5 with headroom "0" instead of "1"' in lines
    assert "cannot be told" in _change({"spec": {}, "status": status()})[-1]
    assert _change({"spec": raw}) == []


def test_what_messages_wait_is_told_beside_the_objective() -> None:
    of_queue = {"type": "Latency", "seconds": 15, "percentile": 99}
    raw = {"targetRef": {"name": "mail"}, "queues": [{"name": "mail", "objective": of_queue}]}
    found = {"spec": raw, "status": status(waitSeconds="12")}

    assert "  p99 wait of mail: about 12 s (objective 15 s)" in words("shop/mail", found)
    assert not any("wait of" in line for line in words("shop/mail", {"spec": raw, "status": status()}))
    assert not any("wait of" in line for line in words("shop/mail", {**found, "spec": {}}))


def conditions_of_a_healthy_pool() -> list[dict[str, Any]]:
    pod = PodSample(name="mail-0", node="w@mail-0", heartbeat_age_s=1.0, slots=1, queues=("mail",))
    signals = Signals(
        sampled_at=NOW,
        queues=(QueueSample(name="mail"),),
        pods=(pod,),
        target=TargetSample(replicas=1, ready_replicas=1),
    )
    decision = decide(signals, spec(minReplicas=1), Memory(), NOW)
    return merged([], decision.conditions, generation=1, now=NOW)


def test_nothing_of_a_healthy_pool_is_told_as_wrong() -> None:
    healthy = {**status(), "conditions": conditions_of_a_healthy_pool()}
    assert [line for line in words("shop/mail", {"status": healthy}) if "=" in line] == []


@pytest.mark.parametrize("of", [each["type"] for each in conditions_of_a_healthy_pool()])
def test_every_condition_is_told_when_it_is_not_as_in_a_healthy_pool(of: str) -> None:
    turned = [
        {**each, "status": {"True": "False", "False": "True"}[each["status"]]} if each["type"] == of else each
        for each in conditions_of_a_healthy_pool()
    ]
    told = [line for line in words("shop/mail", {"status": {**status(), "conditions": turned}}) if "=" in line]
    assert [line.split("=")[0].strip() for line in told] == [of]


@pytest.mark.parametrize(("decided", "told"), [(7, True), (6, True), (1, False)])
def test_alternatives_that_contradict_the_decision_are_not_told(decided: int, told: bool) -> None:
    """In its first minutes a pool reckons with less than the arrival rate that its status shows."""
    raw = {"targetRef": {"name": "mail"}, "queues": [{"name": "mail"}]}

    lines = _change({"spec": raw, "status": {**status(arrivalRate="40", running=20), "unclampedReplicas": decided}})

    assert any("demand alone asks for 7 now" in line for line in lines) is told
    assert any("more cannot be told yet" in line for line in lines) is not told


def test_the_fault_of_a_pool_that_was_never_decided_on_is_told() -> None:
    fault = fault_status({}, "SecretNotFound", "key 'url' of Secret shop/broker cannot be read", 1, NOW)
    first, *others = words("shop/mail", {"status": fault})
    assert "Is an operator" not in first
    assert "  Ready=False SecretNotFound: key 'url' of Secret shop/broker cannot be read" in others
    assert words("shop/mail", {}) == ["shop/mail: no decision yet. Is an operator serving this namespace?"]


def test_where_nothing_would_change_the_number_that_is_said() -> None:
    found = {"spec": {"targetRef": {"name": "mail"}, "queues": [{"name": "mail"}]}, "status": status()}

    lines = _change(found)

    assert lines[-1].endswith("and for as many with half or twice of what the spec says")
    assert not any(line.endswith("ask for") for line in lines)


def test_programs_get_what_would_change_it_too() -> None:
    found = {
        "spec": {"targetRef": {"name": "mail"}, "queues": [{"name": "mail"}]},
        "status": status(arrivalRate="40", running=20),
    }

    told = _alternatives_of(found)

    assert told[0] == {"change": "as it is", "replicas": 7}
    assert {"change": "8 slots a pod instead of 4", "replicas": 4} in told
    assert _alternatives_of({"spec": {}, "status": {}}) == []
