"""What was revoked, as a worker knows it."""

import time
from typing import Any

import pytest

from celeriac.exceptions import BackendUnavailable
from celeriac.worker import revokes as module
from celeriac.worker.revokes import LOOK_S, Revokes


class Store:
    """A coordination store with what others have revoked."""

    def __init__(self) -> None:
        self.others: dict[str, float] = {}
        self.kept: list[str] = []
        self.looks = 0
        self.away = False

    def revoke(self, ids: Any) -> None:
        self._called()
        self.kept += ids

    def newly_revoked(self) -> dict[str, float]:
        self._called()
        self.looks += 1
        return self.others

    def _called(self) -> None:
        if self.away:
            raise BackendUnavailable("the store is away")


def revoked(revokes: Revokes, *ids: str) -> list[str]:
    return [task_id for task_id in ids if revokes.names({"id": task_id}, time.time())]


def test_a_revoke_holds_here_at_once_and_is_kept_for_the_others() -> None:
    store = Store()
    revokes = Revokes(store, 60.0)  # type: ignore[arg-type]
    assert not revokes.any

    revokes.revoke(["a", "b"])
    revokes.hear(["c"])

    assert (revokes.any, revoked(revokes, "a", "b", "c", "d")) == (True, ["a", "b", "c"])
    assert store.kept == ["a", "b"]


def test_a_store_that_is_away_does_not_stop_a_revoke(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    store.away = True
    revokes = Revokes(store, 60.0)  # type: ignore[arg-type]

    revokes.revoke(["a"])

    assert revoked(revokes, "a") == ["a"]
    assert "the revoke holds in this worker only" in caplog.text


def test_others_revokes_are_read_at_start_and_then_every_ten_seconds() -> None:
    store = Store()
    store.others = {"x": time.time() + 60, "old": time.time() - 1}
    revokes = Revokes(store, 60.0)  # type: ignore[arg-type]

    for now in (3.0, 3.5, 3.0 + LOOK_S - 0.1, 3.0 + LOOK_S):
        revokes.look(now)

    assert store.looks == 2
    assert revoked(revokes, "x", "old") == ["x"]


def test_a_revoke_ends_and_the_oldest_of_too_many_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REVOKED", 3)
    revokes = Revokes(None, 60.0)

    revokes.hear(["a", "b", "c"])
    revokes.hear(["a"])  # again: it is the newest now
    revokes.hear(["d"])

    assert list(revokes.ids) == ["c", "a", "d"]
    assert not revokes.names({"id": "a"}, time.time() + 61)


@pytest.mark.parametrize(
    ("stamps", "hit"),
    [
        ({"tenant": "ann"}, True), ({"tenant": ["bob", "ann"]}, True), ({"tenant": "eve"}, False), ({"other": "ann"}, False),
        ({"order": 42}, True), ({"order": [41, "42"]}, True), ({"order": 4}, False), ({"tenant": {"no": "text"}}, False),
        ({"tenant": [["ann"]]}, False), ({}, False), (None, False), ("ann", False),
    ],
    ids=repr,
)  # fmt: skip
def test_what_carries_a_revoked_stamp_is_revoked(stamps: Any, hit: bool) -> None:
    revokes = Revokes(None, 60.0)
    revokes.revoke_stamps({"tenant": ["ann", "kim"], "order": 42})

    assert (revokes.any, revokes.names({"id": "a", "stamps": stamps}, time.time())) == (True, hit)
