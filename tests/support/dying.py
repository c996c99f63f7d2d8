"""A worker that is killed between two steps of settling the member that completes a chord. `die_at(moment)` before it starts.

The second member to end is that one: let the first end in a round of its own.
"""

import os
import signal
from typing import Any

from celeriac.backends.redis import RedisBackend
from celeriac.broker.amqp_consumer import AmqpConsumer
from celeriac.broker.redis_consumer import RedisConsumer

#: In the order of the steps.
MOMENTS = [
    "before its result is stored",
    "before it is counted",
    "before the body is published",
    "before it is acknowledged",
    "before the chord is closed",
    "after the chord is closed",
]


def die_at(moment: str) -> None:
    """Have this process killed at one of MOMENTS, at its first time."""
    _COUNTED.clear()
    if moment == MOMENTS[0]:
        _before(RedisBackend, "store", lambda records: _second("store"))
    elif moment == MOMENTS[1]:
        _before(RedisBackend, "join_chords", lambda parts: _second("join"))
    elif moment == MOMENTS[2]:
        for kind in (RedisConsumer, AmqpConsumer):
            _before(kind, "settle", lambda settled, **_: _completed())
    elif moment == MOMENTS[3]:  # on Redis in one step with the body
        _before(AmqpConsumer, "_acknowledge", lambda tags: bool(tags) and _completed())
    elif moment == MOMENTS[4]:
        _before(RedisBackend, "close_chords", lambda joined: True)
    else:
        _after(RedisBackend, "close_chords", lambda answer: True)
    if moment in MOMENTS[2:4]:
        _after(RedisBackend, "join_chords", lambda complete: _COUNTED.append("complete") if complete else None)


#: What has happened.
_COUNTED: list[str] = []


def _second(what: str) -> bool:
    _COUNTED.append(what)
    return _COUNTED.count(what) == 2


def _completed() -> bool:
    return "complete" in _COUNTED


def _before(kind: Any, name: str, dies: Any) -> None:
    method = getattr(kind, name)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if dies(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *args, **kwargs)

    setattr(kind, name, watched)


def _after(kind: Any, name: str, dies: Any) -> None:
    method = getattr(kind, name)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = method(self, *args, **kwargs)
        if dies(answer):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(kind, name, watched)
