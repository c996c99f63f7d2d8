"""How far a call and a message travel through our own code: short trips are read, and run, quickly (DESIGN.md 8)."""

import os
import queue
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest

import celeriac
from celeriac import signals
from celeriac.worker.assemble import Options, run_worker
from celeriac.worker.intake import Intake
from celeriac.worker.settling import Settler

OWN = os.path.dirname(celeriac.__file__)
#: Loops written as expressions: frames of their own in Python 3.11, most of them no more in 3.12; no step for a reader.
INLINE = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}


class Trip:
    """Counts calls of functions of ours while it is entered, in this thread."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> "Trip":
        sys.setprofile(self.profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OWN) and code.co_name not in INLINE:
            self.calls[os.path.relpath(code.co_filename, OWN), code.co_qualname] += 1

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.calls}

    def __str__(self) -> str:
        steps = "\n".join(f"{count:4} {file}: {name}" for (file, name), count in self.calls.items())
        return f"{self.calls.total()} calls in {len(self.files)} files:\n{steps}"


@pytest.fixture(params=["memory", "redis"])
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Broker and result back end."""
    if request.param == "memory":
        return "memory://", "memory://"
    server = request.getfixturevalue("redis_server")
    return server.url, server.url


@pytest.mark.parametrize("profile", ["celery", "kubernetes"])
def test_one_delay_crosses_at_most_40_calls_in_9_files(urls: tuple[str, str], profile: str) -> None:
    """Into memory 8: on Redis the way over the connection is ours, and counted, too."""
    with _app(urls, profile) as app:
        add = app.task(_add)
        add.delay(1, 2)  # connects

        with Trip() as trip:
            add.delay(3, 4)

    assert trip.calls.total() <= 40, str(trip)
    assert len(trip.files) <= 8 + urls[0].startswith("redis"), str(trip)


@pytest.mark.parametrize("profile", ["celery", "kubernetes"])
def test_one_message_crosses_at_most_60_calls_from_receipt_to_ack(urls: tuple[str, str], profile: str) -> None:
    """A message that comes alone, in a solo worker's one thread; the round of the loop it takes part in is counted, too.

    On Redis the acknowledgement brings the next claim along: up to 20 calls that are the next message's.
    """
    most = 60 if urls[0].startswith("memory") else 80
    with _app(urls, profile) as app:
        add = app.task(_add)
        trips = Trips(around=_add.__code__)

        with _solo_worker(app, trips.profile):
            for number in range(60):
                add.delay(number, 1).get(timeout=10)

    assert len(trips.found) == 60
    # The first one connects; on a busy machine most may take a round of the loop more, in which nothing is done for them.
    trip = min(trips.found[1:], key=lambda each: each.calls.total())
    assert trip.calls.total() <= most, str(trip)


@pytest.mark.parametrize("profile", ["celery", "kubernetes"])
def test_of_many_messages_each_crosses_at_most_13_files(urls: tuple[str, str], profile: str) -> None:
    """What is done once a message, and not once a batch. Storing STARTED is one more file."""
    many = 300
    files = 13 + (profile == "kubernetes")
    trips = []
    for _ in range(3):  # on a busy machine messages may come in by ones: then the steps of a batch are steps of each
        with _app(urls, profile) as app:
            add = app.task(_add)
            results = [add.delay(number, 1) for number in range(many)]
            trip = Trip()

            with _solo_worker(app, trip.profile):
                for result in results:
                    result.get(timeout=10)

        trip.calls = Counter({step: round(count / many) for step, count in trip.calls.items() if count >= many * 0.9})
        trips.append(trip)
        if len(trip.files) <= files:
            break
    trip = min(trips, key=lambda each: len(each.files))
    assert trip.calls.total() <= 40, str(trip)
    assert len(trip.files) <= files, str(trip)


class Trips:
    """Cuts a worker's one thread into trips: from receipt, over a call of `around`, to the end of the flush after it."""

    def __init__(self, *, around: CodeType) -> None:
        self.found: list[Trip] = []
        self._around = around
        self._trip = Trip()
        self._ran = False

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is Intake._admit.__code__:
            self._trip = Trip()
        self._trip.profile(frame, event, argument)
        if event == "call" and frame.f_code is self._around:
            self._ran = True
        if event == "return" and frame.f_code is Settler.flush.__code__ and self._ran:
            self.found.append(self._trip)
            self._trip, self._ran = Trip(), False


@contextmanager
def _solo_worker(app: celeriac.Celeriac, profile: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def tell(sender: Any, **_: Any) -> None:
        ready.put(sender)

    def work() -> None:
        sys.setprofile(profile)
        run_worker(app, Options(pool="solo", without_control=True))

    signals.worker_ready.connect(tell, weak=False)
    app.conf.worker_http_port = 0
    thread = threading.Thread(target=work, name="worker")
    thread.start()
    try:
        loop = ready.get(timeout=20)
        yield
    finally:
        signals.worker_ready.disconnect(tell)
        loop.stop()
        thread.join(timeout=20)
    assert not thread.is_alive()


def _app(urls: tuple[str, str], profile: str) -> celeriac.Celeriac:
    broker, backend = urls
    return celeriac.Celeriac(
        "trips",
        broker=broker,
        backend=backend,
        profile=profile,
        set_as_current=False,
        task_default_queue=uuid.uuid4().hex,
    )


def _add(x: int, y: int) -> int:
    return x + y
