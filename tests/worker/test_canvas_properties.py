"""Any workflow gives what the same functions give one after the other: eagerly, and by a worker's loop; and it survives JSON."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from terms import Notes, Shop, Term, outcome, serial, terms
from turning import TurningWorker

from celeriac import Celeriac
from celeriac.canvas import Signature

SEED = 7
bounded = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_acks_late = True
    app.conf.task_default_queue = "canvas-properties"
    yield Shop(app)
    app.close()


@pytest.fixture(scope="module")
def worker(shop: Shop) -> Iterator[TurningWorker]:
    worker = TurningWorker(shop.app, queue="canvas-properties")
    yield worker
    worker.close()


def expected(term: Term) -> tuple[Any, Any]:
    notes = Notes()
    value = serial(term, SEED, notes)
    return value, notes.ran


@bounded
@given(term=terms())
def test_a_worker_gives_what_serial_calls_give(shop: Shop, worker: TurningWorker, term: Term) -> None:
    shop.notes = Notes()

    result = worker.until_ready(shop.canvas(term).apply_async((SEED,)))

    assert (outcome(result), shop.notes.ran) == expected(term)


@bounded
@given(term=terms())
def test_eager_mode_gives_what_serial_calls_give(shop: Shop, term: Term) -> None:
    shop.notes = Notes()

    result = shop.canvas(term).apply((SEED,))

    assert (outcome(result), shop.notes.ran) == expected(term)


@bounded
@given(term=terms())
def test_a_workflow_read_back_from_json_gives_the_same(shop: Shop, worker: TurningWorker, term: Term) -> None:
    shop.notes = Notes()
    read = Signature.from_dict(json.loads(json.dumps(shop.canvas(term))), app=shop.app)

    result = worker.until_ready(read.apply_async((SEED,)))

    assert (outcome(result), shop.notes.ran) == expected(term)
