"""The client's own road to Redis: connections that are kept, shared by threads, left to the parent at a fork, replaced when broken."""

import os
import threading

import pytest
from brokers import Broker, claim, numbers
from processes import wait_until
from redis.exceptions import ResponseError
from servers import RedisServer

from celeriac.broker.connection import connect
from celeriac.broker.redis_calls import RedisCalls

redis_alone = pytest.mark.parametrize("broker", ["redis"], indirect=True)


@redis_alone
def test_threads_get_their_own_answers(broker: Broker) -> None:
    connection = connect(broker.address)
    calls = RedisCalls(connection.default_channel.pool)
    wrong: list[object] = []

    def ask(thread: int) -> None:
        for number in range(300):
            text = f"{thread} {number}"
            if (answer := calls.call("ECHO", text)) != text.encode():
                wrong.append((text, answer))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]  # kombu's pool has ten connections
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with broker.server.client() as client:
        left = len(client.client_list())
    calls.close()
    connection.release()

    assert wrong == []
    assert left <= 13  # ten are kept, and these lines have their own


@redis_alone
def test_after_a_refused_command_the_next_gets_its_own_answer(broker: Broker) -> None:
    connection = connect(broker.address)
    calls = RedisCalls(connection.default_channel.pool)
    calls.call("SET", "text", "x")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        calls.call("LPUSH", "text", "y")

    assert calls.call("ECHO", "next") == b"next"
    calls.close()
    connection.release()


@redis_alone
def test_a_message_sent_on_a_connection_that_the_server_has_closed_is_there_once(broker: Broker) -> None:
    producer = broker.producer()
    producer.publish(broker.message(1))
    with broker.server.client() as client:
        assert client.client_kill_filter(_type="normal", skipme=True) > 0

    producer.publish(broker.message(2))

    assert numbers(claim(broker.consumer(), 2)) == [1, 2]
    assert broker.depth().ready == 0


@redis_alone
def test_a_forked_process_and_its_parent_both_go_on_publishing(broker: Broker) -> None:
    producer = broker.producer()
    producer.publish(broker.message("before"))
    child = os.fork()
    if child == 0:
        try:
            for number in range(50):
                producer.publish(broker.message(f"child {number}"))
        except BaseException:
            os._exit(1)
        os._exit(0)
    for number in range(50):
        producer.publish(broker.message(f"parent {number}"))
    _, status = os.waitpid(child, 0)

    assert status == 0
    found = numbers(claim(broker.consumer(), 101))
    assert set(found) == {"before", *(f"{who} {number}" for who in ("child", "parent") for number in range(50))}


def test_a_producer_that_is_closed_leaves_no_connection(redis_server: RedisServer) -> None:
    broker = Broker(kind="redis", url=redis_server.url, server=redis_server)
    with redis_server.client() as client, broker.closing:
        producer = broker.producer()
        producer.publish(broker.message(1))
        assert len(client.client_list()) > 1

        producer.close()

        # The server sees the end of a connection when it next looks at its sockets.
        wait_until(lambda: len(client.client_list()) == 1)
