"""Why a child went away, in words."""

from pathlib import Path

import pytest

from celeriac.policy.lost import CANNOT_ANSWER, how_it_ended, restart_pause_s
from celeriac.worker.memory import OutOfMemory


@pytest.mark.parametrize(
    ("exit_code", "more", "says"),
    [
        pytest.param(-9, {}, ["SIGKILL", "perhaps out of memory"], id="killed"),
        pytest.param(
            -9, {"out_of_memory": True}, ["SIGKILL", "out of memory, says the kernel"], id="killed for memory"
        ),
        pytest.param(-9, {"peak_bytes": 512 * 2**20}, ["512 MiB"], id="killed, with its peak"),
        pytest.param(-11, {}, ["SIGSEGV", "native code"], id="a crash"),
        pytest.param(-15, {}, ["SIGTERM"], id="terminated"),
        pytest.param(-99, {}, ["signal 99"], id="a number without a name"),
        pytest.param(3, {}, ["exit code 3", "os._exit"], id="it ended by itself"),
        pytest.param(0, {}, ["exit code 0", "os._exit"], id="it ended by itself, content"),
        pytest.param(CANNOT_ANSWER, {}, ["closed", "file descriptors"], id="its socket was closed"),
        pytest.param(None, {}, ["forked from"], id="with its template"),
    ],
)
def test_a_lost_child_is_told_by_its_signal_or_its_exit_code(
    exit_code: int | None, more: dict, says: list[str]
) -> None:
    for words in says:
        assert words in how_it_ended(exit_code, **more)


def test_a_child_that_never_answers_is_forked_again_at_growing_intervals() -> None:
    pauses = [restart_pause_s(failures) for failures in range(12)]

    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0


def test_kills_for_memory_are_seen_once_each_in_the_count_of_the_group(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n")
    memory = OutOfMemory(events)
    assert not memory.killed()

    events.write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n")

    assert memory.killed()
    assert not memory.killed()


@pytest.mark.parametrize("text", [None, "", "oom_kill", "oom_kill x"], ids=["no file", "empty", "no number", "a word"])
def test_without_such_a_count_nothing_is_claimed(tmp_path: Path, text: str | None) -> None:
    events = tmp_path / "memory.events"
    if text is not None:
        events.write_text(text)

    assert not OutOfMemory(events).killed()
    assert not OutOfMemory(None).killed()
