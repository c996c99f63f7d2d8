"""Rate limits: Celery's grammar to the letter, and a bucket whose time the test brings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import Celeriac
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy.ratelimit import TokenBucket, parse_rate


@pytest.mark.parametrize(
    ("rate", "per_s"),
    [
        (None, None), ("", None), (0, None), (0.0, None), ("0", None), ("0/m", None),
        (10, 10.0), (0.5, 0.5), ("10", 10.0), ("0.5", 0.5), ("10/s", 10.0), ("1.5/s", 1.5),
        ("100/m", 100 / 60), ("60/m", 1.0), ("7200/h", 2.0), ("7/h", 7 / 3600), ("0.5/m", 0.5 / 60), (" 10/s", 10.0),
    ],
    ids=repr,
)  # fmt: skip
def test_a_rate_is_starts_a_second(rate: object, per_s: float | None) -> None:
    assert parse_rate(rate) == (pytest.approx(per_s) if per_s is not None else None)


@pytest.mark.parametrize(
    "rate",
    [
        "often", "10/d", "10/S", "10/", "/s", "/", "10/s/m", "10 / s", "10/ s", "ten/m", -1, -0.5, "-1/s", float("inf"), float("-inf"),
        float("nan"), "inf", "nan", "nan/s", True, False, [], (10,), {"s": 1}, b"10/s",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_rate_is_refused_by_name_and_with_an_example(rate: object) -> None:
    with pytest.raises(ValueError) as raised:
        parse_rate(rate)

    assert repr(rate) in str(raised.value)
    assert "'10/s'" in str(raised.value)


def test_a_bucket_starts_full_and_then_gives_its_rate() -> None:
    bucket = TokenBucket(per_s=2.0)

    assert bucket.take(1, 100.0) == (1, pytest.approx(0.5))
    assert bucket.take(1, 100.0) == (0, pytest.approx(0.5))
    assert bucket.take(1, 100.2) == (0, pytest.approx(0.3))
    assert bucket.take(1, 100.5) == (1, pytest.approx(0.5))


def test_an_idle_bucket_saves_no_more_than_its_capacity() -> None:
    bucket = TokenBucket(per_s=10.0, capacity=3.0)
    bucket.take(3, 0.0)

    assert bucket.take(10, 1000.0)[0] == 3
    assert bucket.take(10, 1000.0)[0] == 0


def test_a_clock_that_runs_backwards_gives_nothing_and_takes_nothing() -> None:
    bucket = TokenBucket(per_s=1.0)
    bucket.take(1, 100.0)

    assert bucket.take(1, 50.0) == (0, pytest.approx(1.0))
    assert bucket.take(1, 100.5)[0] == 0
    assert bucket.take(1, 101.0)[0] == 1


def test_nothing_is_granted_beyond_what_was_asked_for() -> None:
    bucket = TokenBucket(per_s=100.0, capacity=10.0)

    assert [bucket.take(wanted, 0.0)[0] for wanted in (0, 4, 4, 4)] == [0, 4, 4, 2]


@given(
    per_s=st.floats(0.01, 1000),
    capacity=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(0, 60)), min_size=1, max_size=60),
)
def test_never_more_than_the_capacity_and_the_rate_allow(
    per_s: float, capacity: int, steps: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(per_s=per_s, capacity=float(capacity))
    now, granted = 0.0, 0

    for pause_s, wanted in steps:
        now += pause_s
        given_, wait_s = bucket.take(wanted, now)
        granted += given_
        assert 0 <= given_ <= wanted
        assert wait_s >= 0
        if given_ < wanted:
            assert wait_s <= 1 / per_s + 1e-6

    start = steps[0][0]
    assert granted <= capacity + (now - start) * per_s + 1e-3


@given(per_s=st.floats(0.01, 1000))
def test_a_token_is_there_when_the_bucket_said_it_would_be(per_s: float) -> None:
    bucket = TokenBucket(per_s=per_s)
    _, wait_s = bucket.take(1, 1000.0)

    assert bucket.take(1, 1000.0 + wait_s)[0] == 1


@given(
    rate=st.none()
    | st.text(max_size=12)
    | st.integers()
    | st.floats()
    | st.from_regex(r"[0-9.]{1,6}/?[smhd]?", fullmatch=True)
)
def test_any_rate_is_one_or_is_refused_where_its_task_is_defined(rate: object) -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    try:
        per_s = parse_rate(rate)
    except ValueError:
        with pytest.raises(ImproperlyConfigured, match="task mails"):
            app.task(lambda: None, name="mails", rate_limit=rate)
        return
    assert app.task(lambda: None, name="mails", rate_limit=rate).rate_limit == rate
    assert per_s is None or 0 <= per_s < float("inf")
