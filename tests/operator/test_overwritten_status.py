"""A status that somebody else wrote is put right: a frozen leader of before, a person, a restored backup."""

from collections.abc import Mapping
from typing import Any

import pytest

from celeriac_operator.loop.members import ECHO_S, PoolState
from celeriac_operator.resources.records import PoolRecord

NOW = 1_000.0
OURS = {"state": "Steady", "dryRun": {"podHours": "1"}}
PRUNED = {"state": "Steady"}
OTHERS = {"state": "Draining"}


def record(version: str, status: Mapping[str, Any]) -> PoolRecord:
    return PoolRecord(namespace="shop", name="mails", resource_version=version, status=dict(status))


@pytest.mark.parametrize(
    ("stored", "seen", "after_s", "overwritten"),
    [
        pytest.param(OURS, record("8", OURS), 60, False, id="ours has come back"),
        pytest.param(OURS, record("7", OTHERS), 60, False, id="nothing has come since: the watch is behind"),
        pytest.param(OURS, record("8", OTHERS), ECHO_S - 1, False, id="what came may be from just before"),
        pytest.param(OURS, record("9", OTHERS), 60, True, id="somebody else's"),
        pytest.param(PRUNED, record("8", PRUNED), 60, False, id="ours, of which an old CRD dropped a field"),
        pytest.param(PRUNED, record("9", OTHERS), 60, True, id="somebody else's, with an old CRD"),
    ],
)
def test_a_status_is_somebody_elses_when_it_is_neither_ours_nor_older(
    stored: Mapping[str, Any], seen: PoolRecord, after_s: float, overwritten: bool
) -> None:
    state = PoolState()
    state.wrote(record("7", {}), OURS, stored, NOW)

    assert state.overwritten(seen, NOW + after_s) is overwritten


def test_nothing_is_overwritten_before_anything_was_written() -> None:
    assert not PoolState().overwritten(record("7", OTHERS), NOW)
