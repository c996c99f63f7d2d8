"""kombu's table of bindings on Redis, read: which queues a message to an exchange reaches.

Source: kombu/transport/redis.py and virtual/exchange.py of 5.7. A member is routing key, pattern and queue; only topic exchanges have patterns.
"""

import re
from collections.abc import Iterable

#: Between the parts of a member.
SEP = "\x06\x16"


def bound_queues(table: Iterable[str], routing_key: str, exchange_type: str = "") -> list[str]:
    """The queues, sorted, each once. exchange_type: direct, topic or fanout; "" where the table tells."""
    found = set()
    for member in table:
        key, pattern, queue = (*member.split(SEP), "", "")[:3]
        if exchange_type == "fanout" or (re.match(pattern, routing_key) if pattern else key == routing_key):
            found.add(queue)
    return sorted(found)


def queue_in(table: Iterable[str], queue: str) -> bool:
    """Whether any binding leads to the queue."""
    return any(member.endswith(SEP + queue) for member in table)
