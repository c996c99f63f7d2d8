"""Deleting what waits in queues."""

from collections.abc import Sequence

from celeriac.broker.connection import BrokerAddress, broker_errors, connect
from celeriac.broker.topology import declare_queue


def purge(address: BrokerAddress, queues: Sequence[str]) -> dict[str, int]:
    """Messages deleted, by queue: those that wait, delayed and throttled ones included. Claimed ones stay.

    Raises BrokerUnavailable.
    """
    counts: dict[str, int] = {}
    with broker_errors(address):
        connection = connect(address)
        try:
            for name in queues:
                counts[name] = int(declare_queue(connection.default_channel, name, address.plan).purge() or 0)
                if address.is_redis:
                    counts[name] += _purge_waiting(connection, name)
        finally:
            connection.release()
    return counts


def _purge_waiting(connection: object, name: str) -> int:
    from celeriac.broker.transport.redis import RedisQueues  # redis-py is an extra

    queues = RedisQueues(connection)
    count = int(queues.client.zcard(queues.delayed_key(name)))
    queues.client.delete(queues.delayed_key(name))
    for line in queues.client.zrange(queues.throttled_key(name), 0, -1):
        key = queues.throttled_key(name, line.decode())
        count += int(queues.client.llen(key))
        queues.client.delete(key)
    queues.client.delete(queues.throttled_key(name), queues.throttled_count_key(name))
    return count
