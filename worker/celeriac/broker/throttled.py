"""Throttled messages that wait in the broker, on Redis and Valkey: claimed ones are let through or put into their lines, a batch a step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.broker.connection import broker_errors
from celeriac.broker.consumer import GOES, Ask, Delivery
from celeriac.broker.transport.limits import CLAIM_LIMITED, LIMIT, RECONSIDER, STRAYS
from celeriac.policy.ratelimit import SLACK_S
from celeriac.policy.throttle import Throttle

if TYPE_CHECKING:
    from celeriac.broker.redis_consumer import RedisConsumer


class RedisThrottled:
    """See Throttled. Through the connection and under the claim ids of a RedisConsumer."""

    def __init__(self, consumer: "RedisConsumer") -> None:
        self._consumer = consumer
        self._client: Any = None

    def limit(self, asks: Sequence[Ask]) -> tuple[list[int], float | None]:
        consumer = self._consumer
        queues = consumer._queues
        args: list[Any] = [queues.prefix, consumer._lease_s, SLACK_S]
        for delivery, throttle, own in asks:
            args += [
                delivery.claim, delivery.queue, len(consumer._tail(delivery.queue)), throttle.task,
                throttle.rate_key(delivery.headers), throttle.concurrency_key(delivery.headers),
                throttle.per_s, "" if own is None else int(own), throttle.most,
            ]  # fmt: skip
        leaving = {ask.delivery.claim: ask.delivery for ask in asks}
        for claim in leaving:  # so that no renewal in between takes them for lost
            consumer._open.pop(claim, None)
        try:
            with broker_errors(consumer._address):
                *places, next_s = self._script("limit")(keys=[queues.unacked, queues.unacked_index], args=args)
        except BaseException:
            consumer._open.update(leaving)
            raise
        places = [int(place) for place in places]
        for ask, place in zip(asks, places, strict=True):
            if place == GOES:
                consumer._open[ask.delivery.claim] = ask.delivery
        return places, float(next_s) if next_s else None

    def claim(
        self, count: int, types: Sequence[tuple[Throttle, int | None]], queues: Sequence[str]
    ) -> tuple[list[Delivery], float | None]:
        consumer = self._consumer
        keys = consumer._queues
        consumer._batch += 1
        prefix = f"{consumer._incarnation}.{consumer._batch}."
        args: list[Any] = [keys.prefix, consumer._lease_s, SLACK_S, prefix, count, len(types)]
        for throttle, tokens in types:
            args += [throttle.task, throttle.per_s, throttle.most, "" if tokens is None else tokens]
        for queue in queues:
            args += [queue, consumer._tail(queue)]
        with broker_errors(consumer._address):
            next_s, *flat = self._script("claim")(keys=[keys.unacked, keys.unacked_index], args=args)
        found = [
            consumer._delivery(f"{prefix}{place // 2 + 1}", queues[int(flat[place]) - 1], flat[place + 1])
            for place in range(0, len(flat), 2)
        ]
        if found:
            consumer._stand_down()  # its slots may be taken now: the next claim tells
        return found, float(next_s) if next_s else None

    def strays(self, own: Sequence[str], queues: Sequence[str]) -> bool:
        return bool(self._call("strays", len(own), *own, *queues))

    def reconsider(self, task: str, queues: Sequence[str]) -> None:
        self._call("reconsider", task, *queues)

    def _call(self, name: str, *args: Any) -> Any:
        with broker_errors(self._consumer._address):
            return self._script(name)(keys=[], args=[self._consumer._queues.prefix, *args])

    def _script(self, name: str) -> Any:
        client = self._consumer._queues.client
        if client is not self._client:  # the consumer has reconnected
            self._client = client
            self._scripts: Mapping[str, Any] = {
                "limit": client.register_script(LIMIT),
                "claim": client.register_script(CLAIM_LIMITED),
                "strays": client.register_script(STRAYS),
                "reconsider": client.register_script(RECONSIDER),
            }
        return self._scripts[name]
