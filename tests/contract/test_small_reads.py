"""Connections for a process that holds many, as the operator does: they read into little memory, and read everything."""

import subprocess
import sys

from servers import RedisServer

#: Run in a process of its own, as the operator's: kombu remembers what a scheme stands for. Its argument is a URL.
PROGRAM = """
import sys

from celeriac.broker.connection import BrokerAddress, connect
from celeriac.broker.transport.small_reads import read_little

read_little()
connection = connect(BrokerAddress(url=sys.argv[1]))
client = connection.default_channel.client
client.set("large", "x" * 100_000)
held = client.connection_pool.get_connection()
print(held._parser.socket_read_size, len(client.get("large")))
"""


def test_a_connection_reads_into_8_kib_and_reads_what_is_larger(redis_server: RedisServer) -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, redis_server.url], capture_output=True, text=True, timeout=60, check=True
    )

    assert told.stdout.split() == ["8192", "100000"]
