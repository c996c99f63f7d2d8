"""The drain mark: the newest leader's counts, a repeated one lasts longer, and all of them expire."""

import pytest

from celeriac.policy.drain import FORGOTTEN_S, Heeded, Mark, followed, heard, lifted, still

MARK = Mark("m1", 3, 160.0)
NOTHING = Heeded()
MARKED = Heeded(MARK, 3, 99.0)


@pytest.mark.parametrize(
    ("before", "id", "epoch", "after"),
    [
        pytest.param(NOTHING, "m1", 3, Heeded(Mark("m1", 3, 160.0), 3, 100.0), id="the first"),
        pytest.param(
            Heeded(Mark("m1", 3, 110.0), 3, 50.0), "m1", 3, Heeded(MARK, 3, 100.0), id="repeated: it lasts longer"
        ),
        pytest.param(MARKED, "m2", 4, Heeded(Mark("m2", 4, 160.0), 4, 100.0), id="a new leader's"),
        pytest.param(MARKED, "m2", 3, Heeded(Mark("m2", 3, 160.0), 3, 100.0), id="another of the same leader"),
        pytest.param(MARKED, "m0", 2, MARKED, id="an old leader's is ignored"),
        pytest.param(Heeded(None, 3, 99.0), "m0", 2, Heeded(None, 3, 99.0), id="an old leader's, while none holds"),
    ],
)
def test_a_mark_that_is_heard(before: Heeded, id: str, epoch: int, after: Heeded) -> None:
    assert heard(before, id=id, epoch=epoch, ttl_s=60.0, now=100.0) == after


@pytest.mark.parametrize(
    ("before", "epoch", "after"),
    [
        pytest.param(MARKED, 3, Heeded(None, 3, 100.0), id="the same leader"),
        pytest.param(MARKED, 4, Heeded(None, 4, 100.0), id="a new leader"),
        pytest.param(MARKED, 2, MARKED, id="an old leader is ignored"),
        pytest.param(Heeded(None, 3, 99.0), 3, Heeded(None, 3, 100.0), id="none was there"),
    ],
)
def test_a_mark_that_is_lifted(before: Heeded, epoch: int, after: Heeded) -> None:
    assert lifted(before, epoch=epoch, now=100.0) == after


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
    heeded = heard(NOTHING, id="old", epoch=1, ttl_s=60.0, now=0.0)
    heeded = lifted(heeded, epoch=2, now=0.5)

    heeded = heard(heeded, id="old", epoch=1, ttl_s=60.0, now=1.0)

    assert (heeded.mark, heeded.epoch) == (None, 2)


@pytest.mark.parametrize("undrained", [False, True], ids=["after its mark", "after its undrain"])
def test_a_leader_whose_clock_was_set_back_is_heeded_once_its_predecessor_has_been_silent_for_long(
    undrained: bool,
) -> None:
    heeded = heard(NOTHING, id="ahead", epoch=9, ttl_s=60.0, now=0.0)
    if undrained:
        heeded = lifted(heeded, epoch=9, now=0.0)

    before = heard(heeded, id="back", epoch=5, ttl_s=60.0, now=FORGOTTEN_S - 1)
    after = heard(before, id="back", epoch=5, ttl_s=60.0, now=FORGOTTEN_S)

    assert before == heeded
    assert (after.mark, after.epoch) == (Mark("back", 5, FORGOTTEN_S + 60.0), 5)


def test_a_leader_that_goes_on_talking_is_not_forgotten() -> None:
    heeded = heard(NOTHING, id="new", epoch=9, ttl_s=60.0, now=0.0)

    for now in range(10, 1000, 10):
        heeded = heard(heeded, id="new", epoch=9, ttl_s=60.0, now=float(now))
        heeded = heard(heeded, id="old", epoch=5, ttl_s=60.0, now=now + 1.0)

    assert (heeded.mark.id if heeded.mark else "", heeded.epoch) == ("new", 9)


@pytest.mark.parametrize(
    ("epoch", "now", "obeyed"),
    [
        pytest.param(3, 100.0, True, id="the next leader"),
        pytest.param(2, 100.0, True, id="the same"),
        pytest.param(1, 100.0, False, id="an old one"),
        pytest.param(1, 1000.0, True, id="an old number, after a long silence"),
    ],
)
def test_what_else_a_leader_orders_is_obeyed_as_its_marks_are(epoch: int, now: float, obeyed: bool) -> None:
    known = Heeded(Mark("a", 2, 160.0), 2, 90.0)

    found = followed(known, epoch=epoch, now=now)

    assert found == (known._replace(epoch=epoch, heard_at=now) if obeyed else None)
