"""The service on real brokers: what it sends, what it repairs, and what it survives."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from servers import RedisServer

from celeriac import Celeriac, signals
from celeriac.beat import BeatLazyFunc
from celeriac.beat.process import EmbeddedBeat, liveness, readiness, run_beat
from celeriac.beat.service import Service
from celeriac.beat.ticker import tick_id
from celeriac.canvas import chain, chord, group
from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules import schedule

Make = Callable[..., Service]
ENTRY = {"task": "shop.add", "schedule": 0.2, "args": (1,), "kwargs": {"y": 2}}


@pytest.fixture
def make(redis_server: Any) -> Iterator[Make]:
    """A service of an app on the test's Redis, with these entries."""
    made: list[Service] = []

    def service(entries: dict[str, Any], claim_s: float = 15.0, **settings: Any) -> Service:
        app = Celeriac("shop", broker=redis_server.url, set_as_current=False, beat_schedule=entries, **settings)
        made.append(Service(app, claim_s=claim_s))
        return made[-1]

    yield service
    for service_ in made:
        service_.app.close()


def sent(server: Any, queue: str = "celery") -> list[dict[str, Any]]:
    """Headers of the messages on a queue of Redis, oldest first, each with its `body`."""
    with server.client() as client:
        envelopes = [json.loads(text) for text in reversed(client.lrange(queue, 0, -1))]
    return [{**each["headers"], "body": json.loads(base64.b64decode(each["body"]))} for each in envelopes]


def turn_until(service: Service, condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    def turned() -> object:
        service.turn()
        return condition()

    wait_until(turned, timeout_s=timeout_s, what="what the turns should lead to")


@contextmanager
def running(service: Service) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield thread
    finally:
        service.stop()
        thread.join(10)
        assert not thread.is_alive()


def last_ran(service: Service, entry: str, ago: timedelta) -> None:
    """As if the entry's last run had been so long ago."""
    now, lasts = service.store.lasts([entry])
    assert service.store.claim(entry, lasts[entry], now - ago, send=False) is None


def test_a_tick_is_a_task_like_any_other_and_says_whence_it_comes(make: Make, redis_server: Any) -> None:  # fmt: skip
    service = make({"sum": {**ENTRY, "options": {"queue": "sums", "headers": {"own": 1}, "expires": 60}}})

    turn_until(service, lambda: sent(redis_server, "sums"))

    message = sent(redis_server, "sums")[0]
    assert (message["task"], message["body"][:2]) == ("shop.add", [[1], {"y": 2}])
    assert (message["periodic_task_name"], message["celery_beat_task"], message["own"]) == ("sum", True, 1)
    assert datetime.fromisoformat(message["expires"]) > datetime.now(UTC)
    assert service.store.overdue(["sum"])[1] == []


def test_two_beats_derive_the_same_id_and_one_of_them_sends(make: Make, redis_server: Any) -> None:
    one, two = make({"sum": ENTRY}), make({"sum": ENTRY})

    turn_until(one, lambda: two.turn() < 0 or len(sent(redis_server)) >= 5)

    ids = [message["id"] for message in sent(redis_server)]
    assert len(set(ids)) == len(ids)
    assert one.counts.sent + two.counts.sent == len(ids)


def test_what_a_beat_claimed_before_it_died_another_sends_with_the_id_it_would_have_had(
    make: Make, redis_server: Any
) -> None:
    """The claim is made by hand, as the dead one made it; then the other publishes and dies too, and a third does it again."""
    survivor = make({"sum": {**ENTRY, "schedule": 3600}}, claim_s=0.2)
    _, lasts = survivor.store.lasts(["sum"])
    moment = lasts["sum"] + timedelta(hours=1)
    survivor.store.claim("sum", lasts["sum"], moment, send=True)

    turn_until(survivor, lambda: sent(redis_server))
    assert (survivor.counts.taken_over, survivor.counts.sent) == (1, 0)
    with redis_server.client() as client:  # as if it had died before it confirmed
        [claims] = [key for key in client.keys("celeriac.beat*shop") if client.type(key) == "zset"] or ["celeriac.beat.claims\6\x16shop"]  # fmt: skip
        client.zadd(claims, {tick_id("sum", moment): 0})
    third = make({"sum": {**ENTRY, "schedule": 3600}}, claim_s=0.2)
    turn_until(third, lambda: len(sent(redis_server)) == 2)

    first, second = (message["id"] for message in sent(redis_server))
    assert first == second


@pytest.mark.parametrize(("catch_up", "count"), [("latest", 1), ("all", 10), ("skip", 0)])
def test_after_a_pause_runs_are_sent_as_the_entry_says(make: Make, redis_server: Any, catch_up: str, count: int) -> None:  # fmt: skip
    service = make({"sum": {**ENTRY, "schedule": 60, "catch_up": catch_up}})
    last_ran(service, "sum", timedelta(minutes=10, seconds=45))

    for _ in range(3):
        service.turn()

    assert len({message["id"] for message in sent(redis_server)}) == len(sent(redis_server)) == count
    assert (service.counts.sent, service.counts.left_out) == (count, 1 if catch_up == "skip" else 0)


def test_a_run_beyond_the_deadline_is_left_out(make: Make, redis_server: Any) -> None:
    service = make({"sum": {**ENTRY, "schedule": 600}}, beat_cron_starting_deadline=30)
    last_ran(service, "sum", timedelta(minutes=11))

    service.turn()

    assert (sent(redis_server), service.counts.left_out) == ([], 1)


def test_an_entry_with_a_fault_stops_no_other(make: Make, redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    class Broken(schedule):
        def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
            raise LookupError("the moon is not there")

    lazy = {**ENTRY, "args": (BeatLazyFunc(lambda: 1 / 0),)}
    service = make({"broken": {**ENTRY, "schedule": Broken(1)}, "lazy": lazy, "sum": ENTRY})

    turn_until(service, lambda: len(sent(redis_server)) >= 2 and service.counts.failed >= 2)

    assert {message["periodic_task_name"] for message in sent(redis_server)} == {"sum"}
    assert "beat entry broken: its next run" in caplog.text
    assert "beat entry lazy: the task shop.add" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_lazy_argument_is_worked_out_for_each_run(make: Make, redis_server: Any) -> None:
    numbers = iter(range(100))
    service = make({"sum": {**ENTRY, "args": (BeatLazyFunc(lambda: next(numbers)),)}})

    turn_until(service, lambda: len(sent(redis_server)) == 2)

    assert [message["body"][0] for message in sent(redis_server)] == [[0], [1]]


def test_entries_that_are_no_more_are_forgotten_and_a_changed_one_goes_on(make: Make, redis_server: Any) -> None:  # fmt: skip
    first = make({"sum": {**ENTRY, "schedule": 3600}, "gone": ENTRY})
    first.turn()
    last_ran(first, "sum", timedelta(seconds=10))

    make({"sum": {**ENTRY, "schedule": 5}}).turn()

    assert [message["periodic_task_name"] for message in sent(redis_server)] == ["sum"]
    with redis_server.client() as client:
        assert list(client.hgetall("celeriac.beat\6\x16shop")) == ["sum"]


@pytest.mark.parametrize(
    ("make_sig", "names"),
    [
        pytest.param(lambda add: chain(add.s(1, 2), add.s(3)), ["shop.add"], id="chain"),
        pytest.param(lambda add: group(add.s(1, 2), add.s(3, 4)), ["shop.add"] * 2, id="group"),
        pytest.param(lambda add: chord([add.s(1, 2), add.s(3, 4)], add.si(0, 0)), ["shop.add"] * 2, id="chord"),
        pytest.param(lambda add: add.s(1, 2).set(priority=0), ["shop.add"], id="one"),
    ],
)
def test_a_workflow_is_sent_as_one(redis_server: Any, make_sig: Any, names: list[str]) -> None:
    app = Celeriac("shop", broker=redis_server.url, backend=redis_server.url, set_as_current=False)

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    app.add_periodic_task(0.2, make_sig(add), name="flow")
    service = Service(app)
    with app:
        turn_until(service, lambda: service.counts.sent)

        messages = sent(redis_server)
        assert [message["task"] for message in messages] == names
        assert {message["periodic_task_name"] for message in messages} == {"flow"}
        assert service.counts.failed == 0


def test_a_workflow_that_cannot_be_sent_is_named_at_start(redis_server: Any) -> None:
    app = Celeriac("shop", broker=redis_server.url, set_as_current=False)

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    app.add_periodic_task(0.2, chord([add.s(1, 2)] * 2, add.s(0)), name="flow")

    with pytest.raises(ImproperlyConfigured, match=r"entry 'flow': celery.chord: .*set result_backend"):
        Service(app)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_scheduler_of_elsewhere_is_refused(redis_server: Any, embedded: bool) -> None:
    app = Celeriac("shop", broker=redis_server.url, set_as_current=False, beat_scheduler="django:DatabaseScheduler")

    with pytest.raises(ImproperlyConfigured, match="beat_scheduler='django:DatabaseScheduler': there is one scheduler"):
        EmbeddedBeat(app) if embedded else run_beat(app)


def test_beat_waits_for_a_redis_that_is_away_and_says_so_once(make: Make, redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    service = make({"sum": ENTRY}, task_publish_timeout=0.3)
    with running(service):
        wait_until(lambda: service.counts.sent >= 2, what="two ticks")
        redis_server.stop()
        wait_until(lambda: not service.healthy, what="beat to notice")
        assert liveness(service, service.turned_at)[0]
        assert readiness(service)[0]
        before = service.counts.sent
        wait_until(lambda: service._pause_s > 2, what="several tries")
        redis_server.start()
        wait_until(lambda: service.counts.sent >= before + 3, what="ticks again")

    complaints = Counter(record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert max(complaints.values()) <= 2
    assert "beat goes on" in caplog.text
    ids = [message["id"] for message in sent(redis_server)]
    assert len(set(ids)) == len(ids)


def test_with_a_frozen_rabbitmq_a_tick_is_put_off_and_sent_later(rabbitmq: Any, redis_server: Any) -> None:
    """The state is in Redis, which answers: a claimed tick must outlive the broker's silence."""
    app = Celeriac("shop", broker=rabbitmq.url, backend=redis_server.url, set_as_current=False, task_publish_timeout=1,
                   beat_schedule={"sum": {**ENTRY, "schedule": 0.5}})  # fmt: skip
    service = Service(app)
    with app, running(service):
        wait_until(lambda: service.counts.sent >= 2, what="two ticks")
        rabbitmq.pause()
        wait_until(lambda: not service.healthy, what="beat to notice")
        rabbitmq.resume()
        before = service.counts
        wait_until(lambda: service.counts.taken_over > before.taken_over, what="the tick that was put off")
        wait_until(lambda: service.counts.sent > before.sent, what="ticks again")


def test_a_chord_waits_for_its_result_store_and_holds_up_no_other_entry(
    redis_server: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker answers, so does beat's state in it; the chord is counted elsewhere."""
    monkeypatch.setattr("celeriac.beat.service._STORE_PAUSE_S", 0.1)
    results = RedisServer()
    app = Celeriac("shop", broker=redis_server.url, backend=results.url, set_as_current=False)
    add = app.task(lambda x, y=0: x, name="shop.add")
    app.conf.beat_schedule = {"sum": ENTRY}
    app.add_periodic_task(0.3, chord([add.s(1), add.s(2)], add.s()), name="whole")
    service = Service(app, claim_s=0.5)
    service.turn()

    def names() -> Counter[str]:
        return Counter(message["periodic_task_name"] for message in sent(redis_server))

    with closing(results), app:
        turn_until(service, lambda: "waits" in caplog.text and names()["sum"] >= 3)
        assert set(names()) == {"sum"}
        results.start()
        turn_until(service, lambda: service.counts.taken_over >= 1)
        assert names()["whole"] >= 2, "both of the header"

    assert service.counts.failed == 0


def test_without_a_redis_the_state_is_in_a_file(rabbitmq: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    app = Celeriac("shop", broker=rabbitmq.url, set_as_current=False, beat_schedule={"sum": ENTRY})
    told: list[Any] = []
    listen = signals.beat_init.connect(lambda sender, **_: told.append(sender), weak=False)
    service = Service(app, filename=str(tmp_path / "beat.json"))
    with app, running(service):
        wait_until(lambda: service.counts.sent >= 2, what="two ticks")
    signals.beat_init.disconnect(listen)

    content = json.loads((tmp_path / "beat.json").read_text())
    assert set(content["lasts"]) == {"sum"}
    assert content["claims"] == {}
    assert told == [service]
    assert "run one only" in caplog.text


@pytest.mark.parametrize(("quiet_s", "alive"), [(0, True), (70, True), (76, False)])
def test_alive_means_that_it_looks(make: Make, quiet_s: float, alive: bool) -> None:
    service = make({})

    assert liveness(service, service.turned_at + quiet_s)[0] is alive
    assert readiness(service) == (False, "starting")
    service.turn()
    assert readiness(service) == (True, "running")


def test_a_beat_inside_a_worker_that_has_failed_says_so(make: Make, redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    app = make({"sum": ENTRY}).app
    with redis_server.client() as client:
        client.hset("celeriac.beat\6\x16shop", "sum", "no moment at all")
    beat = EmbeddedBeat(app)

    beat.start()
    wait_until(lambda: beat.failed, what="beat to fail")
    beat.stop()

    assert "beat has failed: the worker runs on" in caplog.text
    assert "no moment at all" in caplog.text
