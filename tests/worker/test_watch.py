"""The wake-up on Redis: no message waits while a worker that could take it sleeps, and one message does not wake them all."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from brokers import Broker
from missing import give_up
from processes import wait_until
from servers import Missing, RedisServer, ValkeyServer

from celeriac.broker import redis_consumer
from celeriac.broker.connection import BrokerAddress
from celeriac.broker.consumer import Delivery, Settled, open_consumer
from celeriac.broker.redis_consumer import RedisConsumer, in_order
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured

#: For what must not happen: a push on a connection of this machine takes well under a millisecond.
QUIET_S = 0.1


@dataclass
class Worker:
    """An idle worker with one slot, as the loop drives it: it claims when it is woken, and holds what it got until `finish`."""

    consumer: RedisConsumer
    holds: list[Delivery] = field(default_factory=list)

    @property
    def woken(self) -> bool:
        """Whether it would leave its sleep. While it holds something it does not listen."""
        return not self.holds and not self.consumer._at_rest()

    def turn(self) -> bool:
        """Claim; whether it got something."""
        self.holds = self.consumer.claim(1, free=1)
        return bool(self.holds)

    def finish(self) -> None:
        self.holds = self.consumer.settle([Settled(delivery) for delivery in self.holds], claim=(1, 1))


@dataclass
class Fleet:
    broker: Broker
    client: Any

    def worker(self, *queues: str) -> Worker:
        """A worker that has looked and found nothing."""
        consumer = self.broker.consumer(*(queues or ("q",)), lease_s=30.0)
        assert isinstance(consumer, RedisConsumer)
        worker = Worker(consumer)
        worker.turn()
        return worker

    def push(self, queue: str = "q", count: int = 1) -> None:
        """As Celery's clients do: a plain LPUSH."""
        for _ in range(count):
            self.client.lpush(queue, b'{"body": "", "headers": {}, "properties": {}}')


@pytest.fixture(scope="module", params=[RedisServer, ValkeyServer])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One for all tests of this file, empty for each."""
    try:
        found: RedisServer = request.param(lasting=False)
    except Missing as missing:
        give_up(str(missing))
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture
def fleet(server: RedisServer) -> Iterator[Fleet]:
    broker = Broker(kind=server.name, url=server.url, server=server, queue="q")
    with server.client() as client, broker.closing:
        client.flushall()
        yield Fleet(broker, client)


@pytest.fixture
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look once a second is out of the way: only being woken counts."""
    monkeypatch.setattr(redis_consumer, "LOOK_S", 1e9)


def woken(workers: Sequence[Worker]) -> list[int]:
    return [number for number, worker in enumerate(workers) if worker.woken]


@pytest.mark.usefixtures("never_by_itself")
def test_one_message_wakes_one_of_twenty_and_when_it_is_taken_the_next_one_watches(fleet: Fleet) -> None:
    workers = [fleet.worker() for _ in range(20)]

    fleet.push()
    wait_until(lambda: woken(workers))
    time.sleep(QUIET_S)
    [first] = woken(workers)
    assert workers[first].turn()
    wait_until(lambda: woken(workers))
    time.sleep(QUIET_S)
    [second] = woken(workers)

    assert second != first
    assert not workers[second].turn()  # nothing is left: it watches now
    fleet.push()
    wait_until(lambda: woken(workers))
    assert woken(workers) == [second]


@pytest.mark.usefixtures("never_by_itself")
def test_a_burst_wakes_as_many_as_there_are_messages(fleet: Fleet) -> None:
    workers = [fleet.worker() for _ in range(12)]
    fleet.push(count=9)
    rounds = 0

    while sum(len(worker.holds) for worker in workers) < 9:
        wait_until(lambda: woken(workers), timeout_s=5)
        time.sleep(0.01)
        for number in woken(workers):
            workers[number].turn()
        rounds += 1

    assert rounds <= 6  # 1, 2, 4 … at a time, not one after the other


@pytest.mark.usefixtures("never_by_itself")
@pytest.mark.parametrize("how", ["closes", "pauses", "takes other queues", "is killed"])
def test_when_the_one_who_watches_leaves_another_does(fleet: Fleet, how: str) -> None:
    watcher, other = fleet.worker(), fleet.worker()

    if how == "closes":
        watcher.consumer.close()
    elif how == "pauses":
        watcher.consumer.pause()
    elif how == "takes other queues":
        watcher.consumer.set_queues(["elsewhere"])
        watcher.turn()
    else:
        watcher.consumer._line.close()  # as the kernel does for a process that was killed
        other.consumer._looked_at = -1e9  # its look once a second
        time.sleep(QUIET_S)
        assert not other.turn()
    if how != "is killed":
        wait_until(lambda: other.woken)
        assert not other.turn()
    fleet.push()

    wait_until(lambda: other.woken)
    assert other.turn()


def test_a_worker_looks_once_a_second_even_if_nobody_wakes_it(fleet: Fleet) -> None:
    watcher, other = fleet.worker(), fleet.worker()
    assert watcher.consumer.fileno() is not None  # it listens, and does nothing about it: its machine hangs

    fleet.push()
    began = time.monotonic()
    wait_until(other.turn, timeout_s=5)

    assert time.monotonic() - began < 1.5 * redis_consumer.LOOK_S


@pytest.mark.usefixtures("never_by_itself")
@pytest.mark.parametrize("seed", range(4))
def test_no_message_waits_while_a_worker_that_could_take_it_sleeps(fleet: Fleet, seed: int) -> None:
    """Any order of messages, wake-ups and ends of bodies: while something waits and somebody sleeps, somebody is being woken."""
    dice = random.Random(seed)
    consumes = [("a",), ("a", "b"), ("b",), ("b", "a"), ("c", "a")]
    workers = [fleet.worker(*queues) for queues in consumes]

    def stranded() -> bool:
        """Whether there is a list that holds something, sleepers who consume it, and none of them is woken."""
        for queue in ("a", "b", "c"):
            able = [w for w, queues in zip(workers, consumes, strict=True) if queue in queues and not w.holds]
            if able and fleet.client.llen(queue) and not any(worker.woken for worker in able):
                return True
        return False

    for _ in range(120):
        match dice.choice(("push", "push", "turn", "finish", "finish")):
            case "push":
                fleet.push(dice.choice("abc"), dice.choice((1, 1, 1, 5)))
            case "turn":
                for worker in dice.sample(workers, 2):
                    if worker.woken:
                        worker.turn()
            case _:
                worker = dice.choice(workers)
                if worker.holds:
                    worker.finish()
        wait_until(lambda: not stranded(), timeout_s=2, what="somebody to be woken")


@pytest.mark.usefixtures("never_by_itself")
def test_a_worker_with_free_slots_goes_on_watching(fleet: Fleet) -> None:
    threads, other = fleet.worker(), fleet.worker()
    fleet.push()
    wait_until(lambda: threads.woken)

    assert len(threads.consumer.claim(8, free=8)) == 1
    fleet.push()

    wait_until(lambda: threads.woken)
    time.sleep(QUIET_S)
    assert not other.woken


def test_a_server_that_may_not_tell_is_asked_instead(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.client.execute_command("ACL", "SETUSER", "mute", "on", ">x", "~*", "&*", "+@all", "-subscribe")
    url = fleet.broker.url.replace("redis://", "redis://mute:x@")
    broker = Broker(kind=fleet.broker.kind, url=url, server=fleet.broker.server, queue="q")

    with broker.closing:
        consumer = broker.consumer()
        assert consumer.claim(1) == []
        assert consumer.fileno() is None
        fleet.push()
        assert len(consumer.claim(1)) == 1

    assert "does not tell its clients of changes" in caplog.text


def test_a_connection_that_breaks_under_a_claim_is_an_error_and_the_next_one_works(fleet: Fleet) -> None:
    worker = fleet.worker()
    fleet.push()
    fleet.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # such is a connection that listens
    fleet.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with pytest.raises(BrokerUnavailable, match="cannot reach the broker"):
        worker.turn()
    worker.consumer.reconnect()

    assert worker.turn()


def test_scripts_that_a_server_has_forgotten_are_given_to_it_again(fleet: Fleet) -> None:
    worker = fleet.worker()
    fleet.client.script_flush()
    fleet.push()

    wait_until(lambda: worker.woken)
    assert worker.turn()
    worker.finish()

    assert fleet.client.hlen("unacked") == 0


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [
        pytest.param("priority", {"b": 12}, id="the first of -Q first, for as long as it holds anything"),
        pytest.param("sorted", {"a": 12}, id="by name"),
        pytest.param("round_robin", {"a": 6, "b": 6}, id="in turn: a full queue starves none"),
    ],
)
def test_full_queues_are_emptied_in_the_order_that_was_asked_for(
    fleet: Fleet, strategy: str, taken: dict[str, int]
) -> None:
    address = BrokerAddress(url=fleet.broker.url, transport_options={"queue_order_strategy": strategy})
    consumer = open_consumer(address, ["b", "a"], node="w@h", lease_s=30.0, prefetch=1)
    fleet.broker.closing.callback(consumer.close)
    fleet.push("a", 100)
    fleet.push("b", 20)

    found = [delivery.queue for _ in range(6) for delivery in consumer.claim(2, free=1)]

    assert Counter(found) == taken


def test_an_order_that_does_not_exist_is_refused_where_it_is_written(fleet: Fleet) -> None:
    address = BrokerAddress(url=fleet.broker.url, transport_options={"queue_order_strategy": "random"})

    with pytest.raises(ImproperlyConfigured, match="use one of: round_robin, priority, sorted"):
        open_consumer(address, ["q"], node="w@h", lease_s=30.0, prefetch=1)


@pytest.mark.parametrize(
    ("strategy", "turn", "order"),
    [
        pytest.param("round_robin", 0, "b a c", id="in turn"),
        pytest.param("round_robin", 1, "a c b", id="in turn, the next"),
        pytest.param("round_robin", 5, "c b a", id="in turn, around"),
        pytest.param("priority", 7, "b a c", id="as they were given"),
        pytest.param("sorted", 7, "a b c", id="by name"),
    ],
)
def test_queues_are_asked_in_kombus_order(strategy: str, turn: int, order: str) -> None:
    assert in_order(["b", "a", "c"], strategy, turn) == order.split()
