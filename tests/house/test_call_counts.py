"""How far a call and a message travel through our own code: short trips are read, and run, quickly (DESIGN.md 8)."""

import os
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

import celeriac

OWN = os.path.dirname(celeriac.__file__)


class Trip:
    """Counts calls of functions of ours while it is entered, in this thread."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> "Trip":
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OWN):
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
def test_one_delay_crosses_at_most_40_calls_in_8_files(urls: tuple[str, str], profile: str) -> None:
    with _app(urls, profile) as app:
        add = app.task(_add)
        add.delay(1, 2)  # connects

        with Trip() as trip:
            add.delay(3, 4)

    assert trip.calls.total() <= 40, str(trip)
    assert len(trip.files) <= 8, str(trip)


def _app(urls: tuple[str, str], profile: str) -> celeriac.Celeriac:
    broker, backend = urls
    return celeriac.Celeriac("trips", broker=broker, backend=backend, profile=profile, set_as_current=False)


def _add(x: int, y: int) -> int:
    return x + y
