"""A free TCP port for a process of local mode."""

import random
import socket

#: Below what Linux gives to outgoing connections (32768 and up): none of those takes the port before its process does.
FIRST, LAST = 10_240, 32_767


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago. Raises OSError when a hundred tries find none."""
    for _ in range(100):
        port = random.randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free TCP port between {FIRST} and {LAST} of 127.0.0.1 in 100 tries")
