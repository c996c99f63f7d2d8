"""The contract of dead letters: on every broker they can be looked at, sent back to work, and stay when nobody does either."""

import pytest
from brokers import Broker, claim, number_of, numbers

from celeriac.broker.consumer import Settled
from celeriac.broker.deadletters import dead_letters, replay
from celeriac.wire.message import DEATH

servers = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq"], indirect=True)


def kill(broker: Broker, *tasks: object) -> list[str]:
    """Dead letters of these numbers, oldest first; their ids."""
    sent = broker.publish(*tasks)
    consumer = broker.consumer()
    death = {
        "reason": "unknown_task",
        "detail": "nobody knows it",
        "queue": broker.queue,
        "at": 7.0,
        "by": "w1",
        "starts": 2,
    }
    consumer.settle([Settled(delivery, death=death) for delivery in claim(consumer, len(tasks))])
    consumer.close()
    return [message.id for message in sent]


@servers
def test_dead_letters_are_listed_with_their_reasons_and_stay(broker: Broker) -> None:
    ids = kill(broker, 1, 2)

    first, second = dead_letters(broker.address, broker.queue), dead_letters(broker.address, broker.queue)

    assert [letter.id for letter in first] == ids
    assert sorted(letter.id or "" for letter in second) == sorted(ids)
    told = first[0]
    assert (told.reason, told.detail, told.at, told.by, told.starts) == (
        "unknown_task",
        "nobody knows it",
        7.0,
        "w1",
        2,
    )


@servers
def test_a_replayed_dead_letter_runs_as_if_it_had_never_been_started(broker: Broker) -> None:
    first, second = kill(broker, "poison", "wanted")

    sent = replay(broker.address, broker.queue, lambda letter: letter.id == second)

    assert [letter.id for letter in sent] == [second]
    [delivery] = claim(broker.consumer(), 1)
    assert (number_of(delivery), delivery.starts, DEATH in delivery.headers) == ("wanted", 0, False)
    assert [letter.id for letter in dead_letters(broker.address, broker.queue)] == [first]


@servers
def test_all_dead_letters_go_back_once(broker: Broker) -> None:
    kill(broker, 1, 2, 3)

    assert len(replay(broker.address, broker.queue, lambda letter: True)) == 3
    assert replay(broker.address, broker.queue, lambda letter: True) == []
    assert sorted(numbers(claim(broker.consumer(), 3))) == [1, 2, 3]  # type: ignore[type-var]


@servers
def test_a_queue_without_dead_letters_has_none(broker: Broker) -> None:
    assert dead_letters(broker.address, "never-used") == []
