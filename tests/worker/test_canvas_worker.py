"""Workflows in a worker's loop: what stands in for a call, what is added, what fails on the way, and what the broker refuses for a while."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest
from turning import TurningWorker

from celeriac import Celeriac, Task, chain, chord, group
from celeriac.exceptions import BrokerUnavailable, ChordError, Ignore, MessageRefused

QUEUE = "canvas-worker"


class Shop:
    """An app with its worker; `seen` is what bodies noted."""

    def __init__(self, **settings: Any) -> None:
        given = {"task_acks_late": True, "task_default_queue": QUEUE, **settings}
        self.app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False, **given)
        self.seen: list[Any] = []

        @self.app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @self.app.task(name="total")
        def total(values: Any) -> int:
            return sum(values)

        @self.app.task(name="note")
        def note(*args: Any) -> Any:
            self.seen.append(args)
            return args[0] if args else None

        @self.app.task(name="fail")
        def fail(*args: Any) -> None:
            raise KeyError("no")

        self.add, self.total, self.note, self.fail = add, total, note, fail
        self.twice = self.replacing(lambda: self.add.s(4, 4))

    @cached_property
    def worker(self) -> TurningWorker:
        """Made at its first use: a worker knows the tasks that there are when it starts."""
        return TurningWorker(self.app, queue=QUEUE)

    def get(self, sig: Any, *args: Any, **options: Any) -> Any:
        """The value of a workflow that the worker has run whole."""
        result = self.worker.until_ready(sig.apply_async(args, **options))
        return result.get(timeout=1) if hasattr(result, "results") else result.get(timeout=1, follow_parents=False)

    def replacing(self, make: Callable[[], Any]) -> Any:
        """A task that is replaced by what `make` gives."""

        @self.app.task(name=f"replaced-{len(self.app.tasks)}", bind=True)
        def replaced(self: Task, *args: Any) -> Any:
            return self.replace(make())

        return replaced


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.worker.close()
    shop.app.close()


@pytest.fixture
def early() -> Iterator[Shop]:
    """Acknowledges before it runs, as the guide says."""
    shop = Shop(task_acks_late=False)
    yield shop
    shop.worker.close()
    shop.app.close()


# -- what the broker refuses


def test_a_body_that_the_broker_does_not_take_for_a_while_is_sent_later_with_early_ack(
    early: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.worker.settling.AGAIN_S", 0.05)
    result = chord([early.add.s(1, 1), early.add.s(2, 2)], early.total.s()).apply_async()
    publish, refusals = early.app.producer.publish, [1, 1]

    def refusing(message: Any) -> None:
        if message.headers["task"] == "total" and refusals:
            refusals.pop()
            raise BrokerUnavailable("away")
        publish(message)

    monkeypatch.setattr(early.app.producer, "publish", refusing)

    assert early.worker.until_ready(result).get(timeout=1) == 6
    assert refusals == []


def test_a_body_that_the_broker_never_takes_has_failed_and_its_error_callback_is_told(
    early: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = early.app.producer.publish

    def refusing(message: Any) -> None:
        if message.headers["task"] == "total":
            raise MessageRefused("too large")
        publish(message)

    monkeypatch.setattr(early.app.producer, "publish", refusing)
    body = early.total.s().on_error(early.note.si("told"))
    result = (chord([early.add.s(1, 1), early.add.s(2, 2)], body) | early.add.s(1)).apply_async()

    with pytest.raises(ChordError, match="Callback error"):
        early.worker.until_ready(result).get(timeout=1)
    assert result.parent.state == "FAILURE"
    assert early.seen == [("told",)]


# -- replace


@pytest.mark.parametrize(
    ("make", "value"),
    [
        pytest.param(lambda s: s.add.s(1, 2), 3, id="a task"),
        pytest.param(lambda s: s.add.s(1, 2) | s.add.s(3), 6, id="a chain"),
        pytest.param(lambda s: group(s.add.s(1, 1), s.add.s(2, 2)), [2, 4], id="a group"),
        pytest.param(lambda s: group(s.add.s(1, 1)), [2], id="a group of one"),
        pytest.param(
            lambda s: s.add.s(1, 1) | group(s.add.s(1), s.add.s(2)), [3, 4], id="a chain that ends in a group"
        ),
        pytest.param(lambda s: chord([s.add.s(1, 1), s.add.s(2, 2)], s.total.s()), 6, id="a chord"),
        pytest.param(
            lambda s: chord([s.add.s(1, 1)], group(s.total.s(), s.total.s())),
            [2, 2],
            id="a chord whose body is a group",
        ),
        pytest.param(lambda s: s.twice.s(), 8, id="a task that is replaced itself"),
        pytest.param(lambda s: s.add.chunks([(1, 1), (2, 2), (3, 3)], 2), [[2, 4], [6]], id="chunks"),
        pytest.param(lambda s: s.add.starmap([(1, 1), (2, 2)]), [2, 4], id="a starmap"),
    ],
)
@pytest.mark.parametrize(
    ("around", "then"),
    [
        pytest.param(lambda s, one: one, lambda value: value, id="alone"),
        pytest.param(lambda s, one: one | s.note.s(), lambda value: value, id="in a chain"),
        pytest.param(
            lambda s, one: chain(s.add.s(1, 1), one, s.note.s()), lambda value: value, id="in the middle of a chain"
        ),
        pytest.param(
            lambda s, one: chord([one, s.add.s(5, 5)], s.note.s()), lambda value: [value, 10], id="in a header"
        ),
        pytest.param(
            lambda s, one: chord([s.add.s(5, 5)], one), lambda value: value, id="as a body"
        ),
        pytest.param(
            lambda s, one: chord([chain(s.add.s(1, 1), one), s.add.s(5, 5)], s.note.s()), lambda value: [value, 10],
            id="at the end of a header's chain",
        ),
        pytest.param(lambda s, one: group(one, s.add.s(5, 5)), lambda value: [value, 10], id="in a group"),
    ],
)  # fmt: skip
def test_what_replaces_a_call_has_its_id_its_successors_and_its_place(
    shop: Shop, make: Any, value: Any, around: Any, then: Any
) -> None:
    replaced = shop.replacing(lambda: make(shop))

    assert shop.get(around(shop, replaced.s())) == then(value)


def test_callbacks_of_a_call_are_those_of_what_replaces_it(shop: Shop) -> None:
    replaced = shop.replacing(lambda: shop.add.s(1, 2) | shop.add.s(3))
    sig = replaced.s()
    sig.link(shop.note.s())

    assert shop.get(sig) == 6
    assert shop.seen == [(6,)]


def test_error_callbacks_of_a_call_are_those_of_what_replaces_it(shop: Shop) -> None:
    replaced = shop.replacing(lambda: shop.add.s(1, 2) | shop.fail.s())

    with pytest.raises(KeyError):
        shop.get(replaced.s().on_error(shop.note.si("told")))
    assert shop.seen == [("told",)]


def test_what_replaces_a_call_knows_how_deep_it_is(shop: Shop) -> None:
    @shop.app.task(name="deep", bind=True)
    def deep(self: Task, left: int) -> Any:
        return self.replace(deep.s(left - 1)) if left else self.request.replaced_task_nesting

    assert shop.get(deep.s(3)) == 3


def test_a_replacement_runs_eagerly_where_its_call_does(shop: Shop) -> None:
    replaced = shop.replacing(lambda: group(shop.add.s(1, 1), shop.add.s(2, 2)) | shop.total.s())

    assert replaced.apply().get() == 6
    assert (replaced.s() | shop.add.s(1)).apply().get() == 7
    assert chord([replaced.s(), shop.add.s(1, 1)], shop.total.s()).apply().get() == 8


# -- members that are added


def test_a_member_that_is_added_to_its_chord_is_waited_for(shop: Shop) -> None:
    @shop.app.task(name="grows", bind=True)
    def grows(self: Task) -> int:
        self.add_to_chord(shop.add.s(10, 10))
        return 1

    assert shop.get(chord([grows.s(), shop.add.s(1, 1)], shop.total.s())) == 23


def test_a_member_that_is_added_and_sent_by_hand_is_waited_for(shop: Shop) -> None:
    @shop.app.task(name="grows", bind=True)
    def grows(self: Task) -> int:
        self.add_to_chord(shop.add.s(10, 10), lazy=True).delay()
        return 1

    assert shop.get(chord([grows.s(), shop.add.s(1, 1)], shop.total.s())) == 23


def test_a_call_that_runs_twice_adds_its_members_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    @shop.app.task(name="grows", bind=True)
    def grows(self: Task) -> int:
        shop.seen.append("grows")
        self.add_to_chord(shop.add.s(10, 10))
        self.add_to_chord(shop.add.s(100, 100) | shop.add.s(1))
        return 1

    publish_many = shop.app.publish_many
    monkeypatch.setattr(shop.app, "publish_many", lambda messages: publish_many([messages[0], *messages]))

    assert shop.get(chord([grows.s(), shop.add.s(1, 1)], shop.total.s())) == 1 + 20 + 201 + 2
    assert shop.seen == ["grows"] * 2


def test_a_group_is_not_one_member(shop: Shop) -> None:
    @shop.app.task(name="grows", bind=True)
    def grows(self: Task) -> None:
        with pytest.raises(ValueError, match="one by one"):
            self.add_to_chord(group(shop.add.s(1, 1), shop.add.s(2, 2)))

    assert shop.get(chord([grows.s()], shop.note.s())) == [None]


def test_nothing_can_be_added_by_a_call_that_is_in_no_chord(shop: Shop) -> None:
    @shop.app.task(name="lonely", bind=True)
    def lonely(self: Task) -> None:
        self.add_to_chord(shop.add.s(1, 1))

    with pytest.raises(ValueError, match="member of no chord"):
        shop.get(lonely.s())


# -- what ends badly


def test_a_chord_whose_member_fails_fails_with_the_members_error_in_words(shop: Shop) -> None:
    result = chord([shop.add.s(1, 1), shop.fail.s()], shop.total.s()).apply_async()
    shop.worker.until_ready(result)

    with pytest.raises(ChordError, match=r"Dependency [0-9a-f-]{36} raised KeyError\('no'\)"):
        result.get(timeout=1, follow_parents=False)


def test_a_body_that_follows_a_failed_chord_fails_too_and_so_on_outwards(shop: Shop) -> None:
    inner = chord([shop.fail.s()], shop.total.s())
    result = chord([inner, shop.add.s(1, 1)], shop.total.s() | shop.add.s(1)).apply_async()

    shop.worker.until_ready(result)

    assert result.state == result.parent.state == "FAILURE"
    with pytest.raises(ChordError):
        result.get(timeout=1, follow_parents=False)


def test_members_whose_results_are_ignored_count_all_the_same(shop: Shop) -> None:
    @shop.app.task(name="quiet", ignore_result=True)
    def quiet(x: int) -> int:
        return x

    assert shop.get(chord([quiet.s(1), quiet.s(2), shop.add.s(1, 1)], shop.total.s())) == 5


def test_a_member_that_is_retried_counts_once_with_what_it_returned_at_last(shop: Shop) -> None:
    @shop.app.task(name="flaky", bind=True)
    def flaky(self: Task) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries

    assert shop.get(chord([flaky.s(), shop.add.s(1, 1)], shop.total.s())) == 4


def test_a_member_whose_value_cannot_be_written_fails_the_chord(shop: Shop) -> None:
    @shop.app.task(name="unwritable")
    def unwritable() -> object:
        return object()

    with pytest.raises(ChordError):
        shop.get(chord([unwritable.s(), shop.add.s(1, 1)], shop.total.s()))


def test_an_unknown_member_fails_the_chord_and_its_message_is_a_dead_letter(shop: Shop) -> None:
    with pytest.raises(ChordError):
        shop.get(chord([shop.app.signature("stranger"), shop.add.s(1, 1)], shop.total.s()))


def test_a_member_that_has_expired_fails_the_chord(shop: Shop) -> None:
    with pytest.raises(ChordError):
        shop.get(chord([shop.add.s(1, 1).set(expires=-1), shop.add.s(1, 1)], shop.total.s()))


def test_a_member_that_is_revoked_fails_the_chord(shop: Shop) -> None:
    result = chord([shop.add.s(1, 1), shop.add.s(2, 2)], shop.total.s()).apply_async()
    shop.worker.loop.revoke([result.parent[0].id])

    with pytest.raises(ChordError):
        shop.worker.until_ready(result).get(timeout=1, follow_parents=False)


def test_a_member_that_asks_to_be_ignored_is_waited_for(shop: Shop) -> None:
    @shop.app.task(name="silent")
    def silent() -> None:
        raise Ignore

    result = chord([silent.s(), shop.add.s(1, 1)], shop.total.s()).apply_async()
    shop.worker.until_idle()

    assert result.state == "PENDING", "it said that somebody else says how it ended"


@pytest.mark.parametrize("on_header", [False, True], ids=["of the body", "of the header too"])
def test_error_callbacks_of_a_chord(shop: Shop, on_header: bool) -> None:
    shop.app.conf.task_allow_error_cb_on_chord_header = on_header
    sig = chord([shop.fail.s(), shop.fail.s(), shop.add.s(1, 1)], shop.total.s())
    sig.link_error(shop.note.si("told"))

    with pytest.raises(ChordError):
        shop.get(sig)

    assert shop.seen == [("told",)] * (3 if on_header else 1)


@pytest.mark.parametrize("eager", [False, True], ids=["", "eager"])
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda s, t: group(s.note.s(), s.note.s()).on_error(t), [0, 1], id="of a group"),
        pytest.param(lambda s, t: group(s.note.s().on_error(t), s.note.s()), [0], id="of one member"),
        pytest.param(lambda s, t: group(s.note.s().on_error(t), s.note.s().on_error(t)), [0, 1], id="of each member"),
        pytest.param(lambda s, t: group(group(s.note.s(), s.note.s()), s.note.s()).on_error(t), [0, 1, 2], id="of a group in a group"),
        pytest.param(lambda s, t: s.note.s().on_error(t), [0], id="of a call"),
    ],
)  # fmt: skip
def test_an_error_callback_of_a_body_is_told_once_of_each_call_in_it(
    shop: Shop, make: Any, expected: list[int], eager: bool
) -> None:
    """As with Celery 5.7, measured: also when all members have the same one."""

    @shop.app.task(name="told")
    def told(failed_id: str) -> None:
        shop.seen.append(failed_id)

    sig = chord([shop.fail.s(), shop.add.s(1, 1)], make(shop, told.s()))

    result = sig.apply() if eager else shop.worker.until_ready(sig.apply_async())

    ids = [leaf.id for leaf in leaves(result)]
    assert shop.seen == [ids[place] for place in expected]


def leaves(result: Any) -> list[Any]:
    """The handles of the calls in a handle."""
    return [leaf for one in result.results for leaf in leaves(one)] if hasattr(result, "results") else [result]


def test_an_error_callback_of_one_argument_gets_the_failed_calls_id(shop: Shop) -> None:
    @shop.app.task(name="old")
    def old(failed_id: str) -> None:
        shop.seen.append(failed_id)

    result = shop.fail.apply_async(link_error=old.s())
    shop.worker.until_ready(result)

    assert shop.seen == [result.id]


def test_an_error_callback_of_three_arguments_gets_request_exception_and_traceback(shop: Shop) -> None:
    @shop.app.task(name="new")
    def new(request: Any, error: Any, traceback: str) -> None:
        shop.seen.append((request.id, request.task, list(request.args), repr(error), traceback.splitlines()[-1]))

    result = shop.fail.apply_async((1,), link_error=new.s())
    shop.worker.until_ready(result)

    assert shop.seen == [(result.id, "fail", [1], "KeyError('no')", "KeyError: 'no'")]


def test_an_error_callback_that_is_a_workflow_runs_whole(shop: Shop) -> None:
    told = group(shop.note.si(1), shop.note.si(2)) | shop.note.si(3)

    shop.worker.until_ready(shop.fail.apply_async(link_error=told))

    assert shop.seen[-1] == (3,)
    assert sorted(shop.seen) == [(1,), (2,), (3,)]


def test_a_chord_without_members_calls_its_body_with_an_empty_list(shop: Shop) -> None:
    assert shop.get(chord([], shop.total.s())) == 0
    assert shop.get(chord([], shop.total.s()) | shop.add.s(1)) == 1
    assert shop.get(chord([chord([], shop.total.s()), shop.add.s(1, 1)], shop.total.s())) == 2


# -- calls that tasks make


def test_what_a_body_sends_has_its_root_and_its_parent(shop: Shop) -> None:
    @shop.app.task(name="ids", bind=True)
    def ids(self: Task, *_: Any) -> None:
        shop.seen.append((self.request.id, self.request.root_id, self.request.parent_id))

    @shop.app.task(name="sends", bind=True)
    def sends(self: Task) -> None:
        (ids.s() | ids.s()).apply_async()
        group(ids.s()).apply_async()
        chord([ids.s()], ids.s()).apply_async()

    result = sends.delay()
    shop.worker.until_ready(result)
    shop.worker.until_idle()

    assert len(shop.seen) == 5
    assert {root for _, root, _ in shop.seen} == {result.id}
    assert sum(parent == result.id for _, _, parent in shop.seen) == 3
