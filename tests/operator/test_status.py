"""The status that a decision leaves: its fields against the CRD, its history, and when it is worth a write."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from celeriac_operator.resources.noticed import noticeable, worth_writing
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.resources.status import fault_status, status_of
from celeriac_operator.scaling.decision import decide
from celeriac_operator.scaling.memory import Memory, QueueMemory
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample

AT = 1_767_261_600.0  # 2026-01-01T10:00:00Z
CRD = Path(__file__).parents[2] / "charts/celeriac-operator/files/crds/workerpools.celeriac.dev.yaml"
SCHEMA = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]


def spec_of(**fields: Any) -> WorkerPoolSpec:
    return WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}, {"name": "bulk"}], **fields})


def sees(replicas: int = 2, **fields: Any) -> Signals:
    pods = tuple(
        PodSample(name=f"w-{i}", node=f"celeriac@w-{i}", heartbeat_age_s=1.0, slots=4, busy=i, queues=("mails", "bulk"))
        for i in range(replicas)
    )
    usual: dict[str, Any] = {
        "sampled_at": AT,
        "queues": (
            QueueSample(name="mails", ready=7, leased=3, reserved=1, delayed=4, dead=2, oldest_age_s=47.3),
            QueueSample(name="bulk", throttled=5),
        ),
        "limited": (LimitedClass(task="crawl", queue="bulk", rate_per_s=0.5, throttled=5),),
        "pods": pods,
        "target": TargetSample(replicas=replicas, ready_replicas=replicas, name="w"),
    }
    return Signals(**{**usual, **fields})


def told(
    signals: Signals,
    before: dict[str, Any] | None = None,
    *,
    now: float = AT,
    memory: Memory | None = None,
    **spec: Any,
) -> dict[str, Any]:
    decision = decide(signals, spec_of(**spec), memory or Memory(), now)
    return status_of(decision, signals, spec_of(**spec), before or {}, 3, now)


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused: the API server would prune them without a word."""
    if isinstance(schema, dict):
        closed = {name: strict(part) for name, part in schema.items()}
        return {**closed, "additionalProperties": False} if "properties" in closed else closed
    return [strict(part) for part in schema] if isinstance(schema, list) else schema


def waited(seconds: float, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The status of a pool whose mails waited so long, as found just now."""
    queue = QueueMemory(headroom=1.0, headroom_of=1.0, waited_s=seconds, waited_at=AT, judged_at=AT, sampled_at=AT)
    memory = Memory(sampled_at=AT, queues={"mails": queue})
    return told(sees(), before, memory=memory, objective={"type": "Latency", "seconds": 15})


@pytest.mark.parametrize(
    "status",
    [
        told(sees()),
        told(sees(0)),
        told(sees(broker_ok=False, broker_error="refused", sampled_at=AT - 100)),
        told(sees(target=TargetSample(error="no such Deployment"))),
        told(sees(9), maxReplicas=5, minReplicas=1),
        told(sees(1), minReplicas=4, mode="DryRun"),
        told(sees(target=TargetSample(replicas=2, selector="app=w"))),
        waited(12.0),
        fault_status({}, "InvalidSpec", "spec.queues is missing", 3, AT),
    ],
    ids=["work", "zero", "broker away", "no target", "too many", "dry run", "selector", "waits", "fault"],
)
def test_every_field_of_a_status_is_in_the_schema(status: dict[str, Any]) -> None:
    errors = [error.message for error in jsonschema.Draft202012Validator(strict(SCHEMA)).iter_errors(status)]

    assert errors == []


def test_figures_are_integers_or_rounded_strings() -> None:
    status = told(sees())

    assert status["backlog"] == 7 + 1 + 5
    assert status["oldest"] == "45s"
    mails = status["queues"][0]
    assert (mails["ready"], mails["reserved"], mails["running"], mails["delayed"], mails["dead"]) == (7, 1, 2, 4, 2)
    assert (mails["oldestAgeSeconds"], mails["serviceSeconds"], mails["arrivalRate"]) == (45, "1", "0")
    assert (status["replicas"], status["readyReplicas"], status["idleReplicas"]) == (2, 2, 1)
    assert status["queueNames"] == "mails, bulk"
    assert status["decision"]["time"] == "2026-01-01T10:00:00Z"
    assert set(status["decision"]["terms"]) <= {"steady", "headroom", "backlog", "eta", "floor", "cap"}


def test_what_messages_waited_is_told_of_queues_where_it_is_known() -> None:
    mails, bulk = waited(12.34)["queues"]

    assert mails["waitSeconds"] == "12"
    assert "waitSeconds" not in bulk


@pytest.mark.parametrize(
    ("shown", "found_s", "expected"),
    [
        pytest.param(None, 0.034, "0.034", id="the first"),
        pytest.param(None, 7200.0, "7200", id="beyond the buckets"),
        pytest.param("12", 15.7, "12", id="a quarter of the objective is noise"),
        pytest.param("12", 16.1, "16", id="more is not"),
        pytest.param("12", 8.3, "12", id="downwards too"),
        pytest.param("12", 8.1, "8.1", id="and more downwards"),
        pytest.param("0.05", 3.7, "0.05", id="far below the objective"),
        pytest.param("400", 310.0, "400", id="far beyond it, a quarter of what is shown"),
        pytest.param("400", 290.0, "290", id="and more than that"),
        pytest.param(7, 7.1, "7", id="whatever somebody wrote there"),
        pytest.param({}, 7.1, "7.1", id="unreadable"),
    ],
)
def test_a_wait_that_goes_up_and_down_is_no_news(shown: object, found_s: float, expected: str) -> None:
    before = waited(12.0)
    if shown is None:
        del before["queues"][0]["waitSeconds"]
    else:
        before["queues"][0]["waitSeconds"] = shown

    assert waited(found_s, before)["queues"][0]["waitSeconds"] == expected


def test_a_status_that_would_only_have_a_new_time_is_the_old_one() -> None:
    before = told(sees())

    after = told(sees(), before, now=AT)

    assert after == before
    assert not worth_writing(before, after, written_s_ago=3600, settled=True)


CRASHING = tuple(
    PodSample(name=name, uid=name, phase="Running", ready=False, created_at=AT - 600, pending_reason="CrashLoopBackOff")
    for name in ("a", "b")
)


@pytest.mark.parametrize(
    ("signals", "spec", "expected"),
    [
        (sees(2), {"minReplicas": 2, "maxReplicas": 2}, "Steady"),
        (sees(0, queues=(QueueSample(name="mails"),), limited=()), {}, "Asleep"),
        (sees(1), {"minReplicas": 4}, "ScalingUp"),
        (sees(9), {"maxReplicas": 5}, "Draining"),
        (sees(2, pods=CRASHING), {}, "Blocked"),
        (sees(2, pods=CRASHING), {"replicas": 2}, "Blocked"),
        (sees(2, pods=CRASHING), {"mode": "ScaleUpOnly"}, "Blocked"),
        (sees(2, pods=CRASHING), {"mode": "Paused"}, "Paused"),
        (sees(2, pods=CRASHING), {"minReplicas": 4}, "ScalingUp"),
        (sees(2), {"mode": "Paused"}, "Paused"),
        (sees(2), {"mode": "DryRun"}, "DryRun"),
        (sees(2), {"replicas": 2}, "Override"),
        (sees(2, broker_ok=False, sampled_at=AT - 100), {}, "BrokerUnreachable"),
        (sees(target=TargetSample(error="no such Deployment")), {}, "TargetUnavailable"),
        (sees(target=TargetSample(replicas=2, foreign_manager="HPA x")), {}, "Conflict"),
        (sees(target=TargetSample(replicas=2, foreign_unread="500")), {}, "ConflictUnknown"),
        (sees(target=TargetSample(replicas=2, foreign_manager="HPA x")), {"mode": "DryRun"}, "DryRun"),
        (sees(target=TargetSample(replicas=2, foreign_unread="500")), {"mode": "Paused"}, "Paused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_state_is_one_word(signals: Signals, spec: dict[str, Any], expected: str) -> None:
    assert told(signals, **spec)["state"] == expected


def test_a_target_that_cannot_be_read_leaves_the_counts_as_they_were() -> None:
    before = told(sees(2))

    after = told(sees(target=TargetSample(error="forbidden"), pods=()), before)

    assert (after["replicas"], after["readyReplicas"]) == (2, 2)
    assert after["history"] == before["history"]


def test_the_selector_of_the_targets_pods_is_told_and_stays_while_the_target_cannot_be_read() -> None:
    before = told(sees(target=TargetSample(replicas=2, selector="app=w")))

    after = told(sees(target=TargetSample(error="forbidden"), pods=()), before)

    assert before["selector"] == after["selector"] == "app=w"


def test_a_write_goes_into_the_history_with_its_reason() -> None:
    status = told(sees(1), minReplicas=4)

    (change,) = status["history"]
    assert (change["time"], change["from"], change["to"]) == ("2026-01-01T10:00:00Z", 1, 4)
    assert "minReplicas 4" in change["reason"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"contested_by": "helm"}, "changed by helm"),
        ({}, "changed by somebody else"),
        ({"ours": True}, "written by the operator"),
    ],
)
def test_a_change_that_was_seen_names_who_made_it(target: dict[str, Any], said: str) -> None:
    before = told(sees(2), minReplicas=2, maxReplicas=2)

    after = told(sees(4, target=TargetSample(replicas=4, **target)), before, minReplicas=4)

    assert after["history"][-1]["reason"].startswith(said)


def test_a_dry_run_keeps_a_record_of_what_it_would_have_done_and_of_what_the_target_had() -> None:
    first = told(sees(1), minReplicas=4, mode="DryRun")
    later = told(sees(1, sampled_at=AT + 3600), first, now=AT + 3600, minReplicas=6, mode="DryRun")
    last = told(sees(3, sampled_at=AT + 5400), later, now=AT + 5400, minReplicas=6, mode="DryRun")

    assert [(c["time"], c["from"], c["to"]) for c in last["dryRun"]["changes"]] == [
        ("2026-01-01T10:00:00Z", 1, 4),
        ("2026-01-01T11:00:00Z", 4, 6),
    ]
    assert "minReplicas 4" in last["dryRun"]["changes"][0]["reason"]
    assert (last["dryRun"]["since"], last["dryRun"]["until"]) == ("2026-01-01T10:00:00Z", "2026-01-01T11:30:00Z")
    assert (last["dryRun"]["podHours"], last["dryRun"]["targetPodHours"]) == ("7.0000", "1.5000")
    assert [(c["from"], c["to"]) for c in last["history"]] == [(1, 3)]


def test_the_record_of_a_dry_run_stays_as_it_is_while_nothing_changes_or_is_known() -> None:
    before = told(sees(1), minReplicas=4, mode="DryRun")

    same = told(sees(1, sampled_at=AT + 600), before, now=AT + 600, minReplicas=4, mode="DryRun")
    blind = told(sees(2, broker_ok=False, sampled_at=AT - 100), same, now=AT + 700, minReplicas=5, mode="DryRun")
    gone = told(sees(target=TargetSample(error="gone")), same, now=AT + 700, minReplicas=5, mode="DryRun")

    assert same["dryRun"] == blind["dryRun"] == gone["dryRun"] == before["dryRun"]


def test_the_record_of_a_dry_run_ends_with_its_mode_and_keeps_ten_changes() -> None:
    status = told(sees(1), mode="DryRun")
    for least in (2, 3, 4, 5, 6, 7, 8, 9, 10, 2, 3):
        status = told(sees(1), status, now=AT, minReplicas=least, mode="DryRun")

    assert [c["to"] for c in status["dryRun"]["changes"]] == [3, 4, 5, 6, 7, 8, 9, 10, 2, 3]
    assert "dryRun" not in told(sees(1), status)


@pytest.mark.parametrize("error", ["", "quota exceeded"], ids=["lost a race", "refused"])
def test_a_number_that_was_not_written_is_not_told_as_done(error: str) -> None:
    decision = decide(sees(1), spec_of(minReplicas=4), Memory(), AT).unwritten(error)

    status = status_of(decision, sees(1), spec_of(minReplicas=4), {}, 3, AT)

    active = next(condition for condition in status["conditions"] if condition["type"] == "ScalingActive")
    assert status["history"] == []
    assert {event[1] for event in decision.events} & {"ScaledUp", "ScaledDown"} == set()
    if error:
        assert (active["status"], active["reason"], status["state"]) == ("False", "ScaleRefused", "ScaleRefused")
        assert "quota exceeded" in active["message"]
        assert "quota exceeded" in status["decision"]["summary"]
    else:
        assert (active["status"], status["state"]) == ("True", "ScalingUp")


def test_our_own_change_is_not_taken_for_somebody_else_s() -> None:
    before = told(sees(1), minReplicas=4)

    after = told(sees(4), before, now=AT + 5, minReplicas=4, maxReplicas=4)

    assert len(after["history"]) == 1


def test_a_change_by_somebody_else_goes_into_the_history_with_a_name() -> None:
    before = told(sees(2), minReplicas=2, maxReplicas=2)

    after = told(
        sees(3, target=TargetSample(replicas=3, contested_by="helm")), before, now=AT + 5, minReplicas=3, maxReplicas=3
    )

    assert after["history"][-1] == {
        "time": "2026-01-01T10:00:05Z",
        "from": 2,
        "to": 3,
        "reason": "changed by helm",
    }


def test_the_history_keeps_the_last_ten_changes() -> None:
    status: dict[str, Any] = {}
    for i in range(13):
        status = told(sees(1), status, now=AT + i, minReplicas=2 + i, maxReplicas=100)

    assert [change["to"] for change in status["history"]] == list(range(5, 15))


BEFORE = told(sees(2), minReplicas=2, maxReplicas=2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"backlog": 900, "oldest": "90s"}, False),
        ({"replicas": 3}, True),
        ({"readyReplicas": 1}, False),
        ({"desiredReplicas": 3}, False),
        ({"observedGeneration": 4}, True),
        ({"state": "Paused"}, True),
        ({"decision": {**BEFORE["decision"], "summary": "other words"}}, False),
        ({"decision": {**BEFORE["decision"], "limitedBy": "step"}}, True),
        ({"conditions": [{**condition, "message": "other words"} for condition in BEFORE["conditions"]]}, False),
        ({"conditions": [{**condition, "reason": "Other"} for condition in BEFORE["conditions"]]}, True),
        ({"history": [{"time": "t", "from": 1, "to": 2}]}, True),
    ],
    ids=[
        "nothing",
        "figures",
        "replicas",
        "ready replicas",
        "desired replicas",
        "a new generation",
        "the state",
        "the summary's words",
        "what limits",
        "a condition's words",
        "a condition's reason",
        "the history",
    ],
)
def test_what_a_person_would_notice(change: dict[str, Any], expected: bool) -> None:
    after = {**BEFORE, **change}

    assert noticeable(BEFORE, after) is expected
    assert worth_writing(BEFORE, after, written_s_ago=1, settled=False) is expected
    assert worth_writing(BEFORE, after, written_s_ago=30, settled=True) is bool(change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"backlog": BEFORE["backlog"] + 3}, False, id="three messages more"),
        pytest.param({"backlog": BEFORE["backlog"] + 10}, True, id="ten messages more"),
        pytest.param({"oldest": "45s"}, False, id="the same age"),
        pytest.param({"oldest": "90s"}, True, id="twice the age"),
        pytest.param({"readyReplicas": 1}, True, id="one pod less"),
        pytest.param({"queueNames": "others"}, True, id="a word"),
        pytest.param({"replicas": 2, "predictedDrainSeconds": "900"}, True, id="a figure kept as text"),
        pytest.param({"queues": [{**BEFORE["queues"][0], "delayed": 90}, BEFORE["queues"][1]]}, True, id="of a queue"),
        pytest.param(
            {"queues": [{**BEFORE["queues"][0], "delayed": 6}, BEFORE["queues"][1]]}, False, id="of one, a bit"
        ),
        pytest.param({"decision": {**BEFORE["decision"], "summary": "other words"}}, False, id="a sentence"),
    ],
)
def test_figures_that_go_up_and_down_are_written_when_they_moved_or_came_to_rest(
    change: dict[str, Any], expected: bool
) -> None:
    after = {**BEFORE, **change}

    assert worth_writing(BEFORE, after, written_s_ago=30, settled=False) is expected
    assert worth_writing(BEFORE, after, written_s_ago=29, settled=False) is False
    assert worth_writing(BEFORE, after, written_s_ago=30, settled=True) is (after != BEFORE)


def test_a_pool_that_cannot_be_served_keeps_what_was_known_and_says_why() -> None:
    status = fault_status(BEFORE, "SecretNotFound", "Secret shop/redis does not exist", 4, AT + 60)

    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert (status["state"], status["observedGeneration"], status["replicas"]) == ("SecretNotFound", 4, 2)
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", "SecretNotFound")
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Stalled"]["message"] == "Secret shop/redis does not exist"


def test_a_secret_that_was_not_answered_is_waited_for() -> None:
    status = fault_status(BEFORE, "SecretNotRead", "no answer", 4, AT + 60)

    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert [conditions[kind]["status"] for kind in ("Ready", "Reconciling", "Stalled")] == ["False", "True", "False"]
    assert conditions["Reconciling"]["message"] == "no answer"


def test_what_was_learnt_is_kept_in_the_status() -> None:
    memory = Memory(cold_start_s=12.0, slots_per_pod=4.0)

    status = told(sees(), memory=memory)

    assert Memory.from_status(status).cold_start_s == 12
    assert status["coldStartSeconds"] == 12
