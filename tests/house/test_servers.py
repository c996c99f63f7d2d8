"""The private servers that other tests stand on: they keep their data, fall silent, and leave nothing behind."""

import time

import kombu
import pytest
import redis
from servers import RabbitServer, RedisServer


@pytest.fixture(params=["redis_server", "valkey_server"])
def redis_like(request: pytest.FixtureRequest) -> RedisServer:
    return request.getfixturevalue(request.param)


def test_a_killed_redis_comes_back_on_its_port_with_what_it_had_answered(redis_like: RedisServer) -> None:
    with redis_like.client() as client:
        client.set("kept", "yes")

    redis_like.kill()
    redis_like.start()

    with redis_like.client() as client:
        assert client.get("kept") == "yes"


def test_a_paused_redis_answers_only_once_it_is_resumed(redis_like: RedisServer) -> None:
    with redis_like.client() as client:
        client.ping()
        redis_like.pause()
        started_at = time.monotonic()
        with pytest.raises(Exception, match=r"(?i)time"):
            _impatient(redis_like).ping()
        redis_like.resume()

        assert time.monotonic() - started_at < 5
        assert client.ping()


def _impatient(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=0.2, retry=None)


def test_a_durable_message_survives_the_kill_of_its_rabbitmq(rabbitmq) -> None:
    confirmed = kombu.Connection(rabbitmq.url, transport_options={"confirm_publish": True})
    with confirmed as connection, connection.SimpleQueue("kept") as queue:
        queue.put({"n": 1})

    rabbitmq.kill()
    rabbitmq.start()

    with kombu.Connection(rabbitmq.url) as connection, connection.SimpleQueue("kept") as queue:
        message = queue.get(timeout=5)
        assert message.payload == {"n": 1}
        message.ack()


def test_a_closed_server_leaves_neither_process_nor_files(rabbitmq_node: RabbitServer) -> None:
    server = RedisServer()
    server.start()
    child, directory = server.child, server.directory

    server.close()

    assert child is not None
    assert child.returncode is not None
    assert not directory.exists()
    assert rabbitmq_node.running
