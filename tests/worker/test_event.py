"""Heartbeats on the wire: Celery's fields for everybody, ours under one key, and what a reader may meet."""

import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.wire.event import (
    OWN_FIELDS,
    WAIT_BUCKETS_S,
    DrainState,
    Heartbeat,
    QueueTotals,
    RateLimit,
    TaskTotals,
    heartbeat_from_wire,
    heartbeat_to_wire,
)  # fmt: skip

counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e9)
names = st.text(min_size=1, max_size=10)

KINDS = {int: counts, float: seconds, str: names}
queue_totals, task_totals = (
    st.builds(cls, **{name: KINDS[kind] for name, kind in get_type_hints(cls).items()})
    for cls in (QueueTotals, TaskTotals)
)
heartbeats = st.builds(
    Heartbeat,
    hostname=names, timestamp=seconds, freq=seconds, active=counts, processed=counts, loadavg=st.tuples(seconds, seconds, seconds), pid=counts,
    clock=counts, utcoffset=st.floats(-14, 14), sw_ident=names, sw_ver=names, sw_sys=names,
    incarnation=names, namespace=names, pod=names, pod_uid=names, slots=counts, busy=counts, reserved=counts, held=counts,
    queues=st.lists(names, max_size=3).map(tuple), state=st.sampled_from(["running", "draining", "drained", "stopping"]),
    drain=st.none() | st.builds(DrainState, id=names, epoch=counts, state=names, expires_in_s=seconds),
    longest_running_s=seconds, started_at=seconds, commands=names, queue_totals=st.dictionaries(names, queue_totals, max_size=2),
    task_totals=st.dictionaries(names, task_totals, max_size=2),
    limits=st.lists(st.builds(RateLimit, task=names, per_s=seconds, scope=st.sampled_from(["worker", "cluster"])), max_size=2).map(tuple),
    queue_waits=st.dictionaries(names, st.lists(counts, max_size=16).map(tuple), max_size=2),
)  # fmt: skip


@given(heartbeats)
def test_a_heartbeat_survives_the_wire_whole(beat: Heartbeat) -> None:
    assert heartbeat_from_wire(json.loads(json.dumps(heartbeat_to_wire(beat)))) == beat


def test_celerys_fields_stand_where_celerys_monitors_look_and_ours_under_one_key() -> None:
    body = heartbeat_to_wire(Heartbeat(hostname="a@b", timestamp=1.0, slots=4, incarnation="i"), "worker-online")

    assert body["type"] == "worker-online"
    assert set(body) - {OWN_FIELDS} == {
        "type", "hostname", "timestamp", "freq", "active", "processed", "loadavg", "pid", "clock", "utcoffset", "sw_ident", "sw_ver", "sw_sys",
    }  # fmt: skip
    assert (body[OWN_FIELDS]["slots"], body[OWN_FIELDS]["incarnation"]) == (4, "i")


def test_a_stock_celery_workers_heartbeat_is_read_and_is_not_ours() -> None:
    beat = heartbeat_from_wire(
        {
            "type": "worker-heartbeat", "hostname": "celery@x", "timestamp": 5.0, "freq": 2.0, "active": 3, "processed": 90, "loadavg": [1, 2, 3],
            "sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux", "pid": 7, "clock": 11, "utcoffset": 0.0, "local_received": 5.1,
        }
    )  # fmt: skip

    assert (beat.hostname, beat.active, beat.processed, beat.sw_ident) == ("celery@x", 3, 90, "py-celery")
    assert not beat.ours
    assert Heartbeat(hostname="a", timestamp=1.0, incarnation="i").ours


def test_fields_of_a_newer_worker_are_passed_over() -> None:
    body = heartbeat_to_wire(
        Heartbeat(
            hostname="a", timestamp=1.0, incarnation="i", drain=DrainState(id="m", epoch=1, state="drained", expires_in_s=5.0),
            queue_totals={"q": QueueTotals(started=3)}, task_totals={"t": TaskTotals(started=2)}, limits=(RateLimit(task="t", per_s=1.0),),
        )
    )  # fmt: skip
    own = body[OWN_FIELDS]
    own["mood"] = "good"
    for part in (own["drain"], own["queue_totals"]["q"], own["task_totals"]["t"], own["limits"][0]):
        part["mood"] = "good"

    beat = heartbeat_from_wire(body)

    assert beat.drain is not None
    assert (beat.drain.id, beat.queue_totals["q"].started, beat.task_totals["t"].started) == ("m", 3, 2)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param({}, {}, id="an older worker tells none"),
        pytest.param({"queue_waits": None}, {}, id="null is none"),
        pytest.param({"queue_waits": {"q": []}}, {"q": ()}, id="no counts"),
        pytest.param({"queue_waits": {"q": [3, 0, 7]}}, {"q": (3, 0, 7)}, id="zeros at the end left out"),
        pytest.param({"queue_waits": {"q": [1] * 16}}, {"q": (1,) * 16}, id="every bucket, and what is beyond"),
        pytest.param({"queue_waits": {"q": [3.0, 2]}}, {"q": (3, 2)}, id="whole numbers as JSON of another language may have them"),
    ],
)  # fmt: skip
def test_counts_of_waits_are_read_by_queue(own: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    assert heartbeat_from_wire({"hostname": "a", "timestamp": 1.0, OWN_FIELDS: own}).queue_waits == expected


def test_the_bounds_of_waits_are_those_that_every_worker_and_operator_has_ever_used() -> None:
    assert WAIT_BUCKETS_S == (
        0.05,
        0.1,
        0.25,
        0.5,
        1.0,
        2.5,
        5.0,
        10.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        1800.0,
        7200.0,
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"hostname": ...}, id="no hostname"),
        pytest.param({"timestamp": ...}, id="no timestamp"),
        pytest.param({"timestamp": None}, id="a timestamp that is null"),
        pytest.param({"timestamp": "soon"}, id="a timestamp that is no number"),
        pytest.param({OWN_FIELDS: "text"}, id="own fields that are text"),
        pytest.param({OWN_FIELDS: {"queue_totals": [1]}}, id="totals that are a list"),
        pytest.param({OWN_FIELDS: {"queue_totals": {"q": 7}}}, id="totals of a queue that are a number"),
        pytest.param({OWN_FIELDS: {"drain": {"id": "m"}}}, id="half a drain mark"),
        pytest.param({OWN_FIELDS: {"limits": [{}]}}, id="a limit without a task"),
        pytest.param({"loadavg": 7}, id="a load that is a number"),
        pytest.param({"freq": None}, id="a frequency that is null"),
        pytest.param({"freq": float("nan")}, id="a frequency that is not a number"),
        pytest.param({"processed": -1}, id="a count below zero"),
        pytest.param({"active": True}, id="a count that is a truth"),
        pytest.param({"pid": 10**400}, id="a number beyond every bound"),
        pytest.param({"hostname": 7}, id="a host name that is a number"),
        pytest.param({OWN_FIELDS: {"busy": "1"}}, id="a count that is text"),
        pytest.param({OWN_FIELDS: {"slots": float("inf")}}, id="slots without end"),
        pytest.param({OWN_FIELDS: {"pod": 7}}, id="a pod that is a number"),
        pytest.param({OWN_FIELDS: {"queues": "mails"}}, id="queues that are text"),
        pytest.param({OWN_FIELDS: {"queues": [["mails"]]}}, id="a queue that is a list"),
        pytest.param({OWN_FIELDS: {"queue_totals": {"q": {"started": "7"}}}}, id="a total that is text"),
        pytest.param({OWN_FIELDS: {"queue_totals": {"q": {"busy_s": -1.0}}}}, id="a total below zero"),
        pytest.param({OWN_FIELDS: {"task_totals": {"t": {"queue": None}}}}, id="a task without a queue"),
        pytest.param({OWN_FIELDS: {"queue_waits": [1]}}, id="waits that are a list"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": 7}}}, id="waits of a queue that are a number"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": "12"}}}, id="waits of a queue that are text"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": {"0.05": 1}}}}, id="waits of a queue by name"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [1] * 17}}}, id="more counts of waits than buckets"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [1, -1]}}}, id="a count of waits below zero"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [1, "1"]}}}, id="a count of waits that is text"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [1, True]}}}, id="a count of waits that is a truth"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [1, None]}}}, id="a count of waits that is null"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [float("nan")]}}}, id="a count of waits that is no number"),
        pytest.param({OWN_FIELDS: {"queue_waits": {"q": [float("inf")]}}}, id="waits without end"),
        pytest.param({OWN_FIELDS: {"busy": 10**308}}, id="more than anybody can run"),
        pytest.param({OWN_FIELDS: {"slots": 10**400}}, id="slots beyond a float"),
        pytest.param({OWN_FIELDS: {"longest_running_s": 1e300}}, id="a time beyond all times"),
        pytest.param({OWN_FIELDS: {"limits": [{"task": "t", "per_s": "10/s"}]}}, id="a rate that is text"),
        pytest.param({OWN_FIELDS: {"limits": [{"task": "t", "per_s": -1}]}}, id="a rate below zero"),
        pytest.param(
            {OWN_FIELDS: {"drain": {"id": "m", "epoch": None, "state": "x", "expires_in_s": 1}}},
            id="a mark of no leader",
        ),
    ],
)
def test_what_is_no_heartbeat_is_a_value_error(change: dict[str, Any]) -> None:
    body = {"hostname": "a", "timestamp": 1.0, **change}

    with pytest.raises(ValueError, match="not a worker heartbeat"):
        heartbeat_from_wire({name: value for name, value in body.items() if value is not ...})
