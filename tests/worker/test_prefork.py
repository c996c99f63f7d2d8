"""The prefork pool: bodies that end badly, limits, signals, what is taken back, and children that come and go. Real processes."""

import ctypes
import json
import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deliveries import delivery
from processes import wait_until

from celeriac import Celeriac, signals
from celeriac.broker.codec import Encoded, content_types
from celeriac.exceptions import Ignore, Reject, SoftTimeLimitExceeded, WorkerLostError
from celeriac.policy.outcome import Failed, Ignored, Lost, Rejected, RetryAsked, Revoked, Succeeded, Unreadable
from celeriac.policy.settlement import Rules
from celeriac.policy.timelimit import UNLIMITED, Limits
from celeriac.wire.result import exception_to_wire
from celeriac.worker.board import Board
from celeriac.worker.child import Child
from celeriac.worker.executor import Done, Job
from celeriac.worker.prefork import PreforkPool

#: From Python 3.12 on a fork of a process with threads warns; one test has threads on purpose, and others may have left some.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Bench:
    """A pool of prefork children whose tasks are functions of the test. The pool is forked at its first use."""

    def __init__(self) -> None:
        self.app = Celeriac("shop", broker="memory://", set_as_current=False)
        self.children: dict[str, Any] = {}
        self.slots = 2
        self._pool: PreforkPool | None = None
        self.got: list[Done] = []

    @property
    def pool(self) -> PreforkPool:
        if self._pool is None:
            accept = content_types(["json"])
            child = Child(app=self.app, hostname="w", accept=accept, board=Board(64), **self.children)
            self._pool = PreforkPool(child, self.slots)
        return self._pool

    def task(self, body: Callable[..., Any], **options: Any) -> str:
        return str(self.app.task(body, name=body.__name__, **options).name)

    def job(self, name: str, *args: Any, limits: Limits = UNLIMITED, rules: Rules | None = None, **headers: Any) -> Job:
        sent = delivery(name, args, **headers)
        return Job(self.app.tasks[name], sent, rules or Rules(ignore_result=True), limits=limits)

    def run(self, name: str, *args: Any, **options: Any) -> Done:
        """One job, alone."""
        self.pool.submit([self.job(name, *args, **options)])
        return self.collect(1)[0]

    def turn(self) -> float:
        """What the loop does in one of its turns; when the next is due."""
        look_at = self.pool.tend(time.monotonic())
        self.got += self.pool.finished()
        return look_at

    def collect(self, count: int, timeout_s: float = 30.0) -> list[Done]:
        """What is done, once there are so many; as the loop would."""
        until = time.monotonic() + timeout_s
        while True:
            look_at = self.turn()
            if len(self.got) >= count:
                done, self.got = self.got, []
                return done
            now = time.monotonic()
            assert now < until, f"{len(self.got)} of {count} done"
            poll = select.poll()
            poll.register(self.pool.fileno() or 0, select.POLLIN)
            poll.poll(max(0.0, min(look_at, until, now + 0.05) - now) * 1000 + 1)

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until it holds."""
        wait_until(lambda: (self.turn(), condition())[1], timeout_s=20, every_s=0.005)

    def await_children(self) -> list[int]:
        """Their pids, once all of them live and listen."""
        self.until(lambda: len(self.pool.pids()) >= self.slots and all(p.ready for p in self.pool._processes.values()))
        return self.pool.pids()

    def await_begun(self, count: int) -> None:
        """Return once so many bodies run."""
        self.until(
            lambda: sum(process.place.begun in process.jobs for process in self.pool._processes.values()) == count
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.stop()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        bench.close()


def add(x: int, y: int) -> int:
    return x + y


def doze(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def pid() -> int:
    return os.getpid()


def alive(pid: int) -> bool:
    """Whether it runs: one that is dead and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


# -- outcomes cross


def test_a_job_runs_in_a_child_and_its_record_comes_back_encoded(bench: Bench) -> None:
    bench.app.conf.result_backend = "cache+memory://"
    bench.task(add)

    done = bench.run("add", 1, 2, rules=Rules(), id="a1")

    assert isinstance(done.outcome, Succeeded)
    assert json.loads(done.outcome.record or b"")["result"] == 3
    assert 0 <= done.run_s < 1
    assert abs(done.started_at - time.time()) < 5
    assert bench.pool.running() == []
    assert bench.pool.waiting() == 0


class Odd(Exception):
    def __init__(self, text: str, handle: object) -> None:
        super().__init__(text, handle)

    def __reduce__(self) -> Any:
        raise TypeError("never pickled")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_an_exception_that_cannot_be_pickled_crosses_as_its_description(bench: Bench) -> None:
    def odd() -> None:
        raise Odd("broken", object())

    bench.task(odd)

    outcome = bench.run("odd").outcome

    assert isinstance(outcome, Failed)
    record = exception_to_wire(outcome.error)
    assert (record["exc_type"], record["exc_message"][0]) == ("Odd", "broken")
    assert "in odd" in outcome.traceback
    assert "Odd" in repr(outcome.error)


def test_an_exception_that_cannot_even_be_shown_crosses(bench: Bench) -> None:
    def mute() -> None:
        raise Mute

    bench.task(mute)

    outcome = bench.run("mute").outcome

    assert isinstance(outcome, Failed)
    assert exception_to_wire(outcome.error)["exc_type"] == "Mute"


def test_a_retry_crosses_as_the_message_of_its_next_run(bench: Bench) -> None:
    def again(self: Any) -> None:
        raise self.retry(countdown=60, exc=OSError("away"), headers={"tenant": "a"})

    bench.task(again, bind=True)

    outcome = bench.run("again", id="a1").outcome

    assert isinstance(outcome, RetryAsked)
    assert outcome.again is not None
    assert isinstance(outcome.again.body, Encoded)
    assert (outcome.again.id, outcome.again.headers["retries"], outcome.again.headers["tenant"]) == ("a1", 1, "a")
    assert outcome.due_at == pytest.approx(time.time() + 60, abs=5)
    assert "away" in str(outcome.error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(Ignore(), Ignored(), id="ignored"),
        pytest.param(Reject("no", requeue=True), Rejected("no", True), id="rejected"),
    ],
)
def test_what_a_body_asks_of_the_worker_crosses(bench: Bench, error: Exception, kind: Any) -> None:
    def asks() -> None:
        raise error

    bench.task(asks)

    assert bench.run("asks").outcome == kind


def test_a_body_of_a_message_that_cannot_be_read_crosses(bench: Bench) -> None:
    bench.task(add)
    bench.pool.submit([Job(bench.app.tasks["add"], delivery("add", body=b"{"), Rules())])

    outcome = bench.collect(1)[0].outcome

    assert isinstance(outcome, Unreadable)
    assert outcome.reason == "malformed"
    assert "cannot be read" in str(outcome.error)


def test_large_bodies_and_large_errors_cross(bench: Bench) -> None:
    def echo(text: str) -> None:
        raise ValueError(text)

    bench.task(echo)

    outcome = bench.run("echo", "x" * 3_000_000).outcome

    assert isinstance(outcome, Failed)
    assert len(exception_to_wire(outcome.error)["exc_message"][0]) == 3_000_000


def test_headers_that_only_amqp_can_carry_cross(bench: Bench) -> None:
    from datetime import UTC, datetime

    seen = datetime(2026, 1, 2, tzinfo=UTC)

    def when(self: Any) -> None:
        raise ValueError(self.request.headers["seen"].isoformat())

    bench.task(when, bind=True)

    outcome = bench.run("when", seen=seen).outcome

    assert isinstance(outcome, Failed)
    assert str(outcome.error) == seen.isoformat()


# -- bodies that take their process with them


def _exits() -> None:
    os._exit(3)


def _crashes() -> None:
    ctypes.string_at(0)


def _is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _closes_its_descriptors() -> None:
    os.closerange(3, 2000)


def _ends_its_parent_s_child_by_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(_exits, "exit code 3", id="os._exit"),
        pytest.param(_crashes, "SIGSEGV", id="a crash in native code"),
        pytest.param(_is_killed, "SIGKILL", id="SIGKILL"),
        pytest.param(_ends_its_parent_s_child_by_sigterm, "SIGTERM", id="SIGTERM"),
        pytest.param(_closes_its_descriptors, "file descriptors", id="closes all descriptors"),
    ],
)
def test_a_body_that_takes_its_process_with_it_is_lost_with_the_reason_and_the_next_one_runs(
    bench: Bench, body: Callable[..., Any], says: str
) -> None:
    bench.slots = 1
    bench.task(body)
    bench.task(add)
    bench.pool.submit([bench.job(body.__name__), bench.job("add", 1, 2), bench.job("add", 3, 4)])

    lost, *others = bench.collect(3)

    assert isinstance(lost.outcome, Lost)
    assert says in lost.outcome.reason
    assert lost.job.task.name == body.__name__
    assert [type(done.outcome) for done in others] == [Succeeded, Succeeded]


@pytest.mark.parametrize(
    ("body", "limits"),
    [pytest.param(_exits, UNLIMITED, id="lost"), pytest.param(doze, Limits(hard=0.1), id="too long")],
)
def test_the_error_callbacks_of_a_task_that_could_not_answer_are_called(
    bench: Bench, body: Callable[..., Any], limits: Limits
) -> None:
    bench.task(body)
    bench.task(add)
    embed = {
        "callbacks": None,
        "errbacks": [{"task": "add", "args": [1], "immutable": False}],
        "chain": None,
        "chord": None,
    }

    outcome = bench.run(body.__name__, *([30] if body is doze else []), limits=limits, id="a1", embed=embed).outcome

    assert isinstance(outcome, Failed | Lost)
    follow = [(message.headers["task"], json.loads(message.body[2])[0]) for message in outcome.follow]
    assert follow == [("add", ["a1", 1])]


def test_a_copy_that_a_body_makes_of_its_process_says_nothing_when_it_comes_back(bench: Bench) -> None:
    def forks() -> int:
        return os.fork()

    bench.slots = 1
    bench.task(forks)
    bench.task(add)
    bench.pool.submit([bench.job("forks"), *[bench.job("add", 1, 2) for _ in range(20)]])

    done = bench.collect(21)
    time.sleep(0.05)

    assert [type(one.outcome) for one in done] == [Succeeded] * 21
    assert bench.pool.finished() == []


def test_garbage_on_the_worker_s_socket_is_said_and_harms_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    import socket

    def writes_everywhere() -> None:
        for descriptor in range(3, 1000):
            try:
                with socket.socket(fileno=os.dup(descriptor)) as found:
                    found.send(b"\x00garbage")
            except OSError:
                continue

    bench.task(writes_everywhere)

    assert isinstance(bench.run("writes_everywhere").outcome, Succeeded)
    assert "no answer" in caplog.text


# -- limits


def test_at_its_hard_limit_a_body_is_killed_and_has_failed(bench: Bench) -> None:
    bench.task(doze)
    started = time.monotonic()

    done = bench.run("doze", 30, limits=Limits(hard=0.2))

    assert 0.15 < time.monotonic() - started < 10
    assert isinstance(done.outcome, Failed)
    assert exception_to_wire(done.outcome.error)["exc_type"] == "TimeLimitExceeded"
    assert isinstance(bench.run("doze", 0).outcome, Succeeded)


def test_a_body_that_holds_the_interpreter_s_lock_is_killed_all_the_same(bench: Bench) -> None:
    def stuck() -> None:
        libc = ctypes.PyDLL(None)  # its calls keep the lock
        libc.sleep(60)

    bench.task(stuck)

    assert isinstance(bench.run("stuck", limits=Limits(hard=0.2, soft=0.1)).outcome, Failed)


def test_at_its_soft_limit_a_body_is_told_and_may_clean_up(bench: Bench) -> None:
    def careful() -> None:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            raise ValueError("cleaned up") from None

    bench.task(careful)

    outcome = bench.run("careful", limits=Limits(hard=5.0, soft=0.1)).outcome

    assert isinstance(outcome, Failed)
    assert str(outcome.error) == "cleaned up"


def test_a_body_that_passes_over_its_soft_limit_is_killed_at_its_hard_one(bench: Bench) -> None:
    def deaf() -> None:
        while True:
            try:
                time.sleep(30)
            except SoftTimeLimitExceeded:
                continue

    bench.task(deaf)

    outcome = bench.run("deaf", limits=Limits(hard=0.4, soft=0.1)).outcome

    assert isinstance(outcome, Failed)
    assert exception_to_wire(outcome.error)["exc_type"] == "TimeLimitExceeded"


def test_a_late_signal_hits_no_other_body(bench: Bench) -> None:
    bench.slots = 1
    bench.task(doze)
    bench.task(pid)
    child = bench.await_children()[0]
    bench.pool.submit([bench.job("doze", 0.3)])
    time.sleep(0.05)

    os.kill(child, signal.SIGUSR1)  # as the pool's own would come when the body it was for has just ended

    assert isinstance(bench.collect(1)[0].outcome, Succeeded)
    assert bench.pool.pids() == [child]


def test_many_short_limits_hit_only_their_own_bodies(bench: Bench) -> None:
    bench.task(doze)
    jobs = [bench.job("doze", 0.02 if number % 2 else 5.0, limits=Limits(hard=0.4)) for number in range(8)]
    bench.pool.submit(jobs)

    done = bench.collect(8)

    short = [one.outcome for one in done if one.job in jobs[1::2]]
    assert [type(outcome) for outcome in short] == [Succeeded] * 4
    assert sum(isinstance(one.outcome, Failed) for one in done) == 4


# -- a child is ended for one task


def test_terminate_ends_the_body_that_runs_under_the_id_and_no_other(bench: Bench) -> None:
    bench.task(doze)
    bench.pool.submit([bench.job("doze", 0.5, id="kept"), bench.job("doze", 30, id="ended")])
    bench.await_children()
    bench.await_begun(2)

    assert not bench.pool.terminate("unknown", signal.SIGTERM)
    bench.until(lambda: bench.pool.terminate("ended", signal.SIGTERM))

    outcomes = {done.job.delivery.headers["id"]: done.outcome for done in bench.collect(2)}
    assert outcomes["ended"] == Revoked("terminated", None, signal.SIGTERM)
    assert isinstance(outcomes["kept"], Succeeded)


def test_a_body_that_does_not_heed_the_signal_that_should_end_it_is_killed_at_its_hard_limit(bench: Bench) -> None:
    def ignores_sigterm() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(30)

    bench.slots = 1
    bench.task(ignores_sigterm)
    child = bench.await_children()[0]
    bench.pool.submit([bench.job("ignores_sigterm", limits=Limits(hard=0.8), id="stays")])
    bench.await_begun(1)
    time.sleep(0.2)  # it ignores the signal by now

    assert bench.pool.terminate("stays", signal.SIGTERM)

    assert bench.collect(1, timeout_s=3)[0].outcome == Revoked("terminated", None, signal.SIGTERM)
    assert not alive(child)


def test_sigusr1_raises_the_soft_limit_from_outside(bench: Bench) -> None:
    bench.task(doze)
    bench.await_children()
    bench.pool.submit([bench.job("doze", 30, id="told")])

    bench.until(lambda: bench.pool.terminate("told", signal.SIGUSR1))

    outcome = bench.collect(1)[0].outcome
    assert isinstance(outcome, Failed)
    assert exception_to_wire(outcome.error)["exc_type"] == "SoftTimeLimitExceeded"


# -- ahead, and back


def test_a_job_waits_behind_no_body_of_unknown_length(bench: Bench) -> None:
    bench.task(doze)
    bench.await_children()
    bench.pool.submit([bench.job("doze", 0.1) for _ in range(6)])

    assert bench.pool.waiting() == 4
    assert len(bench.pool._backlog) == 4
    assert len(bench.collect(6)) == 6


def test_what_waits_behind_a_body_that_turns_out_long_runs_elsewhere(bench: Bench) -> None:
    def varies(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    bench.task(varies)
    bench.pool.submit([bench.job("varies", 0) for _ in range(20)])
    bench.collect(20)
    long = bench.job("varies", 3.0)
    started = time.monotonic()
    bench.pool.submit([long, *[bench.job("varies", 0) for _ in range(20)]])

    short = bench.collect(20)

    assert time.monotonic() - started < 2
    assert long not in [done.job for done in short]
    assert [done.job for done in bench.collect(1)] == [long]


def test_what_is_taken_back_does_not_run_and_what_runs_is_not_taken_back(bench: Bench) -> None:
    bench.task(doze)
    bench.pool.submit([bench.job("doze", 0) for _ in range(10)])
    bench.collect(10)
    bench.await_children()
    jobs = [bench.job("doze", 0.5), bench.job("doze", 0.5), *[bench.job("doze", 0) for _ in range(10)]]
    bench.pool.submit(jobs)
    wait_until(
        lambda: sum(process.place.begun in process.jobs for process in bench.pool._processes.values()) == 2, timeout_s=5
    )

    back = bench.pool.take_back()

    assert [job for job in jobs if job in back] == [job for job in jobs[2:] if job in back]
    assert len(back) == 10
    assert len(bench.collect(2)) == 2
    assert bench.pool.waiting() == 0


def test_what_a_lost_child_had_not_read_runs_in_another(bench: Bench) -> None:
    def kills(deadly: bool) -> None:
        if deadly:
            os._exit(1)

    bench.slots = 1
    bench.task(kills)
    bench.pool.submit([bench.job("kills", False) for _ in range(20)])
    bench.collect(20)
    bench.pool.submit([bench.job("kills", number == 3) for number in range(30)])

    done = bench.collect(30)

    assert sum(isinstance(one.outcome, Lost) for one in done) == 1
    assert sum(isinstance(one.outcome, Succeeded) for one in done) == 29


# -- children come and go


def test_a_child_is_replaced_after_so_many_tasks_and_nothing_is_lost(bench: Bench) -> None:
    def whoami() -> None:
        raise ValueError(os.getpid())

    bench.slots, bench.children = 1, {"max_tasks": 5}
    bench.task(whoami)
    bench.pool.submit([bench.job("whoami") for _ in range(20)])

    done = bench.collect(20)

    pids = [exception_to_wire(one.outcome.error)["exc_message"][0] for one in done]
    assert {pids.count(pid) for pid in pids} == {5}


def test_a_child_that_has_grown_too_large_is_replaced_after_its_task(bench: Bench) -> None:
    # A child begins with about what this process has now, and after a thousand tests that is much.
    own_kib = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    bench.slots, bench.children = 1, {"max_memory_kib": own_kib + 100_000}

    def grows(mebibytes: int) -> None:
        taken = bytearray(mebibytes * 2**20)
        raise ValueError(os.getpid(), len(taken))

    bench.task(grows)

    pids = [exception_to_wire(bench.run("grows", size).outcome.error)["exc_message"][0] for size in (1, 1, 400, 1)]

    assert pids[0] == pids[1] == pids[2]
    assert pids[3] != pids[2]


def test_the_pool_grows_and_shrinks_without_cutting_anything_off(bench: Bench) -> None:
    bench.task(doze)
    bench.await_children()
    bench.pool.submit([bench.job("doze", 0.3) for _ in range(4)])
    bench.pool.resize(4)
    bench.until(lambda: len(bench.pool.running()) == 4)

    bench.pool.resize(1)
    done = bench.collect(4)

    assert [type(one.outcome) for one in done] == [Succeeded] * 4
    bench.until(lambda: len(bench.pool.pids()) == 1)
    assert isinstance(bench.run("doze", 0).outcome, Succeeded)


def test_a_child_that_was_stopped_gets_nothing_more_and_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.worker.process.STOPPED_S", 0.3)
    bench.slots = 1
    bench.task(doze)
    child = bench.await_children()[0]
    bench.pool.submit([bench.job("doze", 1.0)])
    bench.await_begun(1)
    os.kill(child, signal.SIGSTOP)
    bench.pool.submit([bench.job("doze", 0)])

    lost, other = bench.collect(2)

    assert isinstance(lost.outcome, Lost)
    assert "stopped" in lost.outcome.reason
    assert isinstance(other.outcome, Succeeded)
    assert not alive(child)


def test_a_child_that_ends_between_two_tasks_is_replaced_and_nothing_is_lost(bench: Bench) -> None:
    bench.slots = 1
    bench.task(add)
    child = bench.await_children()[0]

    os.kill(child, signal.SIGKILL)
    done = bench.run("add", 1, 2)

    assert isinstance(done.outcome, Succeeded)
    assert child not in bench.pool.pids()


def test_a_child_that_takes_its_time_to_begin_gets_nothing_before_it_listens(bench: Bench, tmp_path: Path) -> None:
    def slow_for_the_second(**_: Any) -> None:
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(3)

    signals.worker_process_init.connect(slow_for_the_second, weak=False)
    try:
        bench.task(add)
        started = time.monotonic()
        bench.pool.submit([bench.job("add", 1, 2) for _ in range(4)])
        bench.collect(4)
    finally:
        signals.worker_process_init.disconnect(slow_for_the_second)

    assert time.monotonic() - started < 2.5


def test_children_that_do_not_listen_are_no_slots(bench: Bench) -> None:
    bench.task(add)
    assert (bench.pool.size, bench.pool.slots) == (2, 0)
    assert bench.pool.slotless_s(time.monotonic()) > 0

    bench.await_children()
    assert (bench.pool.size, bench.pool.slots) == (2, 2)
    assert bench.pool.slotless_s(time.monotonic()) == 0.0


@pytest.mark.parametrize(
    ("init", "ready_s", "says"),
    [
        pytest.param(lambda **_: time.sleep(30), 0.3, "not ready after 0.3 s", id="hangs"),
        pytest.param(lambda **_: sys.exit(0), 20.0, "exit code 1", id="exits"),
        pytest.param(lambda **_: os._exit(0), 20.0, "exit code 0", id="ends at once, without an error"),
    ],
)
def test_children_that_never_listen_are_replaced_ever_more_slowly_and_that_is_said(
    bench: Bench,
    init: Any,
    ready_s: float,
    says: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("celeriac.worker.process.READY_S", ready_s)
    signals.worker_process_init.connect(init, weak=False)
    try:
        bench.slots = 1
        bench.task(add)
        bench.pool.submit([bench.job("add", 1, 2)])
        started = time.monotonic()
        bench.until(lambda: "2 in a row" in caplog.text)
    finally:
        signals.worker_process_init.disconnect(init)

    said = [record.getMessage() for record in caplog.records if "in a row" in record.getMessage()]
    assert len(said) == 2
    assert says in said[0]
    assert "worker_process_init" in said[0]
    assert time.monotonic() - started > 0.5  # the pause before the second
    assert bench.pool.slotless_s(time.monotonic()) > 0.5
    assert len(bench.pool.take_back()) == 1


def test_a_child_begins_with_its_signals_and_its_chance_its_own(bench: Bench) -> None:
    import random

    began: list[int] = []

    def init(**_: Any) -> None:
        began.append(os.getpid())

    def look() -> None:
        raise ValueError(
            began == [os.getpid()],
            signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            random.random(),
        )

    signals.worker_process_init.connect(init, weak=False)
    try:
        bench.task(look)
        bench.task(doze)
        bench.await_children()
        bench.pool.submit([bench.job("look"), bench.job("look")])
        seen = [exception_to_wire(done.outcome.error)["exc_message"] for done in bench.collect(2)]
    finally:
        signals.worker_process_init.disconnect(init)

    assert [one[:3] for one in seen] == [[True, True, True]] * 2
    assert seen[0][3] != seen[1][3]
    assert began == []


# -- the end


def test_when_it_is_halted_what_had_answered_counts_and_what_ran_is_told(bench: Bench) -> None:
    bench.task(doze)
    bench.await_children()
    bench.pool.submit([bench.job("doze", 0, id="done"), bench.job("doze", 30, id="cut")])
    bench.await_begun(1)
    time.sleep(0.1)
    pids = bench.pool.pids()

    bench.pool.halt()

    assert [done.job.delivery.headers["id"] for done in bench.collect(1)] == ["done"]
    assert [run.job.delivery.headers["id"] for run in bench.pool.running()] == ["cut"]
    assert not any(alive(pid) for pid in pids)


def test_nothing_is_left_of_it_after_stop(bench: Bench) -> None:
    bench.task(add)
    bench.run("add", 1, 2)
    pids = [*bench.await_children(), bench.pool._template.pid]

    bench.pool.stop()

    assert not any(alive(pid) for pid in pids)


def test_without_its_template_it_settles_what_was_lost_and_says_that_it_is_at_an_end(bench: Bench) -> None:
    bench.task(doze)
    pids = bench.await_children()
    bench.pool.submit([bench.job("doze", 30)])
    time.sleep(0.1)

    os.kill(bench.pool._template.pid, signal.SIGKILL)
    done = bench.collect(1)

    assert isinstance(done[0].outcome, Lost)
    with pytest.raises(WorkerLostError, match="template"):
        bench.pool.tend(time.monotonic())
    wait_until(lambda: not any(alive(pid) for pid in pids), timeout_s=1)


def test_an_app_that_has_started_threads_is_told_so_by_name(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    import threading

    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="early-bird")
    thread.start()
    try:
        with caplog.at_level(logging.WARNING):
            bench.task(add)
            bench.run("add", 1, 2)
    finally:
        release.set()
        thread.join()

    assert "early-bird" in caplog.text
