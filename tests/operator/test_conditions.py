"""Conditions as a list by type, in which a transition has a time."""

from celeriac_operator.resources.conditions import merged, moment

AT = 1_767_261_600.0  # 2026-01-01T10:00:00Z


def test_a_new_condition_has_its_transition_now() -> None:
    (ready,) = merged([], {"Ready": (True, "Decided", "fine")}, generation=3, now=AT)

    assert ready == {
        "type": "Ready",
        "status": "True",
        "reason": "Decided",
        "message": "fine",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T10:00:00Z",
    }


def test_a_status_that_stays_keeps_its_time_while_reason_and_message_may_change() -> None:
    before = merged([], {"Ready": (False, "NoAnswer", "refused")}, generation=3, now=AT)

    (ready,) = merged(before, {"Ready": (False, "Conflict", "an HPA")}, generation=4, now=AT + 60)

    assert (ready["lastTransitionTime"], ready["reason"], ready["observedGeneration"]) == (moment(AT), "Conflict", 4)


def test_a_status_that_changes_has_a_new_time() -> None:
    before = merged([], {"Ready": (False, "NoAnswer", "refused")}, generation=3, now=AT)

    (ready,) = merged(before, {"Ready": (True, "Decided", "")}, generation=3, now=AT + 60)

    assert ready["lastTransitionTime"] == "2026-01-01T10:01:00Z"


def test_unknown_is_a_status_of_its_own() -> None:
    (reachable,) = merged([], {"BrokerReachable": (None, "NoSampleYet", "")}, generation=1, now=AT)

    assert reachable["status"] == "Unknown"


def test_conditions_keep_their_order_and_those_of_others_stay() -> None:
    before = [{"type": "Theirs", "status": "True", "reason": "X", "message": "", "lastTransitionTime": moment(AT)}]

    after = merged(before, {"Ready": (True, "Decided", ""), "Stalled": (False, "Fine", "")}, generation=1, now=AT)

    assert [condition["type"] for condition in after] == ["Theirs", "Ready", "Stalled"]
    assert after[0] == before[0]


def test_a_message_is_cut_to_what_a_person_reads() -> None:
    (ready,) = merged([], {"Ready": (False, "Long", "x" * 9000)}, generation=1, now=AT)

    assert len(ready["message"]) == 1024


def test_a_previous_condition_without_a_time_is_no_obstacle() -> None:
    (ready,) = merged([{"type": "Ready", "status": "True"}], {"Ready": (True, "Decided", "")}, generation=1, now=AT)

    assert ready["lastTransitionTime"] == moment(AT)
