"""Records that the result store does not take: whoever waits gets a smaller one, or an operator gets a dead letter; nobody waits for ever."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from servers import RedisServer
from turning import TurningWorker

from celeriac import Celeriac, chord
from celeriac.backends.memory import MemoryBackend
from celeriac.broker.deadletters import dead_letters
from celeriac.exceptions import BackendUnavailable, ChordError, EncodeError
from celeriac.wire.result import ResultMeta

LARGE = "x" * 2_000_000


class Choosy(MemoryBackend):
    """Results in memory, but for those of which `objection` says why not."""

    objection: Callable[[ResultMeta], Exception | None] = staticmethod(lambda _: None)

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        errors = [self.objection(meta) for meta, _ in records]
        super().store([record for record, error in zip(records, errors, strict=True) if error is None])
        return errors


class Shop:
    """An app with its worker, on that store."""

    def __init__(self, backend: Any = None, **settings: Any) -> None:
        self.queue = f"refused-{uuid.uuid4().hex[:8]}"  # the memory broker's queues live as long as the process
        self.app = Celeriac(
            "shop", broker="memory://", backend=backend or "cache+memory://", task_default_queue=self.queue, set_as_current=False, **settings
        )  # fmt: skip
        self.store = Choosy()
        if backend is None:
            self.app._backend = self.store
        self.add = self.app.task(name="add")(lambda *numbers: sum(numbers))
        self.total = self.app.task(name="total")(sum)
        self.big = self.app.task(name="big", ignore_result=True)(lambda: LARGE)
        self.loud = self.app.task(name="loud", ignore_result=True)(self._loud)
        self.fail = self.app.task(name="fail")(self._fail)
        self.told = self.app.task(name="told")(lambda *_: self.ran.append("told"))
        self.ran: list[str] = []
        self.worker = TurningWorker(self.app, queue=self.queue)

    def _loud(self, *_: Any) -> None:
        raise ValueError(LARGE)

    def _fail(self, *_: Any) -> None:
        self.ran.append("fail")
        raise KeyError("no")

    def error(self, result: Any) -> BaseException:
        """What a handle's get raises once the worker has nothing left to do for it."""
        self.worker.until_ready(result)
        with pytest.raises(Exception) as raised:
            result.get(timeout=1, follow_parents=False)
        return raised.value

    def dead(self) -> list[Any]:
        return dead_letters(self.app.broker_address(), self.queue, 10)

    def close(self) -> None:
        self.worker.close()
        self.app.close()


@pytest.fixture(params=[True, False], ids=["acknowledged late", "acknowledged early"])
def shop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr("celeriac.worker.settling.AGAIN_S", 0.0)
    shop = Shop(task_acks_late=request.param)
    yield shop
    shop.close()


def larger_than(size: int) -> Callable[[ResultMeta], Exception | None]:
    return lambda meta: EncodeError(f"{meta.task_id} is too large") if len(repr(meta.result)) > size else None


def test_what_follows_a_failure_whose_error_is_too_large_has_failed_in_few_words(shop: Shop) -> None:
    shop.store.objection = larger_than(2000)
    last = (shop.loud.s() | shop.add.s(1) | shop.add.s(2)).apply_async()

    errors = [shop.error(last), shop.error(last.parent)]

    for error in errors:
        assert isinstance(error, EncodeError)
        assert f"{last.parent.parent.id} failed with ValueError; the result store does not take that error: " in str(
            error
        )
    assert shop.dead() == []


def test_the_body_of_a_chord_whose_error_is_too_large_has_failed_in_few_words(shop: Shop) -> None:
    shop.store.objection = larger_than(2000)
    result = (chord([shop.loud.s(), shop.add.s(1)], shop.total.s()) | shop.add.s(1)).apply_async()

    assert isinstance(shop.error(result), EncodeError)
    assert "failed with ChordError; the result store does not take" in str(shop.error(result.parent))


def test_a_call_of_which_the_store_never_takes_a_record_leaves_a_dead_letter_of_its_cause(shop: Shop) -> None:
    shop.store.objection = lambda meta: EncodeError("no such id can be stored") if meta.task_id == "odd" else None
    last = (shop.fail.s() | shop.add.s(1).set(task_id="odd") | shop.add.s(2)).apply_async()

    assert isinstance(shop.error(last), KeyError)

    [letter] = shop.dead()
    assert (letter.id, letter.task, letter.reason) == (last.parent.parent.id, "fail", "result_refused")
    assert letter.detail == "odd will not run, and the result store takes no record of it: no such id can be stored"
    assert last.parent.parent.state == "FAILURE"
    assert shop.ran == ["fail"]


def test_a_chord_is_told_of_a_member_that_no_record_can_tell_of(shop: Shop) -> None:
    shop.store.objection = lambda meta: EncodeError("no such id can be stored") if meta.task_id == "odd" else None
    result = chord([shop.fail.s() | shop.add.s(1).set(task_id="odd"), shop.add.s(1)], shop.total.s()).apply_async()

    assert isinstance(shop.error(result), ChordError)
    assert [letter.reason for letter in shop.dead()] == ["result_refused"]


def test_a_call_whose_own_end_no_record_can_tell_is_a_dead_letter(shop: Shop) -> None:
    shop.store.objection = lambda meta: EncodeError("no such id can be stored") if meta.task_id == "odd" else None

    shop.add.apply_async((1, 2), task_id="odd")
    shop.worker.until_idle()

    [letter] = shop.dead()
    assert (letter.id, letter.reason) == ("odd", "result_refused")
    assert letter.detail == "the result store takes no record of how it ended: no such id can be stored"


def test_what_is_refused_for_a_while_is_stored_later_and_nothing_is_sent_twice(shop: Shop) -> None:
    refusals = [BackendUnavailable("used memory > maxmemory")] * 3
    members = [shop.fail.s() | shop.add.s(1), shop.add.s(1)]
    result = chord(members, shop.total.s().on_error(shop.told.si())).apply_async()
    followers = {result.id, result.parent[0].id}
    shop.store.objection = lambda meta: refusals.pop() if refusals and meta.task_id in followers else None

    assert isinstance(shop.error(result), ChordError)

    assert refusals == []
    assert (shop.ran, result.parent[0].state, shop.dead()) == (["fail", "told"], "FAILURE", [])


@pytest.mark.parametrize("early", [False, True], ids=["acknowledged late", "acknowledged early"])
@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        pytest.param(lambda shop: shop.loud.s() | shop.add.s(1), EncodeError, "failed with ValueError", id="chain"),
        pytest.param(lambda shop: chord([shop.loud.s(), shop.add.s(1)], shop.total.s()), ChordError, "raised ValueError('xxx", id="chord"),
        pytest.param(lambda shop: chord([shop.big.s(), shop.add.s(1)], shop.total.s()), ChordError, "EncodeError('2000", id="value in a chord"),
        pytest.param(
            lambda shop: chord([shop.loud.s() | shop.add.s(1)], shop.total.s()) | shop.add.s(1), ChordError, "raised", id="chain in a chord"
        ),
    ],
)  # fmt: skip
def test_a_real_store_that_refuses_large_values_lets_nobody_wait(
    redis_server: RedisServer, make: Callable[[Shop], Any], kind: type[Exception], words: str, early: bool
) -> None:
    with redis_server.client() as client:
        client.config_set("proto-max-bulk-len", 1024 * 1024)
    shop = Shop(backend=redis_server.url, task_acks_late=not early)
    try:
        error = shop.error(make(shop).apply_async())

        assert isinstance(error, kind)
        assert words in str(error)
        assert shop.worker.until_ready(shop.add.delay(1, 2)).get(timeout=1) == 3  # it goes on
    finally:
        shop.close()
