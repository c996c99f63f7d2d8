"""A child of the prefork pool as the worker sees it: which signals it gets, and for which of its jobs."""

import signal

import pytest

from celeriac.policy.outcome import Revoked
from celeriac.worker.board import Board
from celeriac.worker.process import Process


@pytest.mark.parametrize(
    ("reads", "ended"),
    [
        pytest.param([7], True, id="it runs the job"),
        pytest.param([7, 8], False, id="it has read the next one meanwhile"),
    ],
)
def test_a_signal_that_ends_one_job_hits_no_other(reads: list[int], ended: bool) -> None:
    place, sent = Board(1).place(0), []
    process = Process(0, place, 0, lambda pid, signum: sent.append((pid, signum)))
    process.pid = 123
    for number in reads:
        place.take(number)
        place.begin(number, 0.0)

    told = process.terminate(7, Revoked("terminated", None, signal.SIGTERM), signal.SIGTERM)

    process.close()
    assert told is ended
    assert sent == [(123, signal.SIGTERM)] * ended
    assert (process.ending is not None) is ended
