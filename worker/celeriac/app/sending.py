"""Publishing from coroutines: one thread publishes what they ask for, all that has gathered meanwhile in one go."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from celeriac.broker.producer import Producer
from celeriac.exceptions import BrokerUnavailable, OperationalError
from celeriac.wire.message import TaskMessage


class Sending:
    """One app's. Its thread ends with `close`, and has published everything before.

    producer    gives the way to the app's broker, and may connect first. tell: told of each message that is published.
    """

    def __init__(self, producer: Callable[[], Producer], tell: Callable[[TaskMessage], None]) -> None:
        self.pid = os.getpid()
        self._producer = producer
        self._tell = tell
        self._lock = threading.Lock()
        self._asked: list[tuple[TaskMessage, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._thread = ThreadPoolExecutor(1, "celeriac-sending")

    async def publish(self, message: TaskMessage) -> None:
        """Return when the broker has it; raises as Producer.publish. Cancelled before its turn, nothing is sent."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._asked.append((message, loop, done))
            if len(self._asked) == 1:
                self._thread.submit(self._flush)
        await done

    def _flush(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, []
        asked = [each for each in asked if not each[2].cancelled()]
        together = [each for each in asked if each[0].terms is None]
        errors = self._errors([message for message, _, _ in together])
        for (message, loop, done), error in zip(together, errors, strict=True):
            self._answer(message, loop, done, error)
        for message, loop, done in asked:
            if message.terms is not None:  # what a call asks for beyond the usual is its own
                self._answer(message, loop, done, self._error(message))

    def _errors(self, messages: list[TaskMessage]) -> list[Exception | None]:
        """For each None, or why it is not on its queue."""
        try:
            if messages:
                self._producer().publish_many(messages)
        except BrokerUnavailable as outage:
            return [None if place in outage.published else outage for place in range(len(messages))]
        except Exception as refusal:  # noqa: BLE001 - over one of them: each gets its own answer
            published = refusal.published if isinstance(refusal, OperationalError) else frozenset()
            return [None if place in published else self._error(message) for place, message in enumerate(messages)]
        return [None] * len(messages)

    def _error(self, message: TaskMessage) -> Exception | None:
        try:
            self._producer().publish(message)
        except Exception as error:  # noqa: BLE001 - it belongs to who called
            return error
        return None

    def _answer(
        self,
        message: TaskMessage,
        loop: asyncio.AbstractEventLoop,
        done: "asyncio.Future[None]",
        error: Exception | None,
    ) -> None:
        if error is None:
            self._tell(message)
        try:
            loop.call_soon_threadsafe(_settle, done, error)
        except RuntimeError:  # that loop was closed, and nobody waits in it any more
            return

    def close(self) -> None:
        """Publish what was asked for, and end."""
        self._thread.shutdown()


def _settle(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
