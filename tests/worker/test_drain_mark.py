"""The drain mark: the newest leader's counts, a repeated one lasts longer, and all of them expire."""

import pytest

from celeriac.policy.drain import FORGOTTEN_S, Mark, heard, lifted, still

MARK = Mark("m1", 3, 160.0)


@pytest.mark.parametrize(
    ("mark", "highest", "id", "epoch", "after"),
    [
        pytest.param(None, 0, "m1", 3, (Mark("m1", 3, 160.0), 3), id="the first"),
        pytest.param(Mark("m1", 3, 110.0), 3, "m1", 3, (Mark("m1", 3, 160.0), 3), id="repeated: it lasts longer"),
        pytest.param(MARK, 3, "m2", 4, (Mark("m2", 4, 160.0), 4), id="a new leader's"),
        pytest.param(MARK, 3, "m2", 3, (Mark("m2", 3, 160.0), 3), id="another of the same leader"),
        pytest.param(MARK, 3, "m0", 2, (MARK, 3), id="an old leader's is ignored"),
        pytest.param(None, 3, "m0", 2, (None, 3), id="an old leader's, while none holds"),
    ],
)
def test_a_mark_that_is_heard(
    mark: Mark | None, highest: int, id: str, epoch: int, after: tuple[Mark | None, int]
) -> None:
    assert heard(mark, highest, id=id, epoch=epoch, ttl_s=60.0, now=100.0) == after


@pytest.mark.parametrize(
    ("mark", "highest", "epoch", "after"),
    [
        pytest.param(MARK, 3, 3, (None, 3), id="the same leader"),
        pytest.param(MARK, 3, 4, (None, 4), id="a new leader"),
        pytest.param(MARK, 3, 2, (MARK, 3), id="an old leader is ignored"),
        pytest.param(None, 3, 3, (None, 3), id="none was there"),
    ],
)
def test_a_mark_that_is_lifted(mark: Mark | None, highest: int, epoch: int, after: tuple[Mark | None, int]) -> None:
    assert lifted(mark, highest, epoch=epoch) == after


@pytest.mark.parametrize(
    ("mark", "now", "holds"),
    [
        pytest.param(None, 0.0, False, id="none"),
        pytest.param(MARK, 159.9, True, id="before its end"),
        pytest.param(MARK, 160.0, False, id="at its end"),
        pytest.param(MARK, 999.0, False, id="long after"),
    ],
)
def test_a_mark_holds_until_it_expires(mark: Mark | None, now: float, holds: bool) -> None:
    assert still(mark, now) == (mark if holds else None)


def test_a_leader_that_was_replaced_cannot_drain_after_an_undrain_of_its_successor() -> None:
    mark, highest = heard(None, 0, id="old", epoch=1, ttl_s=60.0, now=0.0)
    mark, highest = lifted(mark, highest, epoch=2)

    mark, highest = heard(mark, highest, id="old", epoch=1, ttl_s=60.0, now=1.0)

    assert (mark, highest) == (None, 2)


@pytest.mark.parametrize("undrained", [False, True], ids=["after its mark", "after its undrain"])
def test_a_leader_whose_clock_was_set_back_is_heeded_once_its_predecessor_has_been_silent_for_long(
    undrained: bool,
) -> None:
    mark, highest = heard(None, 0, id="ahead", epoch=9, ttl_s=60.0, now=0.0)
    if undrained:
        mark, highest = lifted(mark, highest, epoch=9)
    mark, highest = heard(mark, highest, id="back", epoch=5, ttl_s=60.0, now=1.0)
    assert (mark.id if mark else "", highest) == ("" if undrained else "ahead", 9)

    before, highest = heard(mark, highest, id="back", epoch=5, ttl_s=60.0, now=FORGOTTEN_S - 1)
    after, highest = heard(before, highest, id="back", epoch=5, ttl_s=60.0, now=FORGOTTEN_S + 1)

    assert before == mark
    assert (after, highest) == (Mark("back", 5, FORGOTTEN_S + 61.0), 5)


def test_a_leader_that_goes_on_talking_is_not_forgotten() -> None:
    mark, highest = heard(None, 0, id="new", epoch=9, ttl_s=60.0, now=0.0)

    for now in range(10, 1000, 10):
        mark, highest = heard(mark, highest, id="new", epoch=9, ttl_s=60.0, now=float(now))
        mark, highest = heard(mark, highest, id="old", epoch=5, ttl_s=60.0, now=now + 1.0)

    assert (mark.id if mark else "", highest) == ("new", 9)
