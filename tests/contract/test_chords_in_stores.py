"""What a result store keeps of a chord: every member counts once, and exactly one of them is handed the body."""

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import states
from celeriac.backends import open_backend
from celeriac.backends.base import ResultBackend
from celeriac.wire.chord import ChordPart, ChordStart, Dependency, Joined, collected

every = pytest.mark.parametrize("place", ["redis", "valkey", "sqlite", "postgres", "mariadb", "memory"], indirect=True)


@pytest.fixture
def store(place: Any) -> Iterator[ResultBackend]:
    """A result store of the kind that the parameter names."""
    backend = open_backend(place.url, expires_s=3600.0)
    yield backend
    backend.close()


@pytest.fixture
def group() -> str:
    return str(uuid.uuid4())


def part(store: ResultBackend, group: str, place: int | None, result: Any, state: str = states.SUCCESS) -> ChordPart:
    member = f"{group[:8]}-{place}-{result if place is None else ''}"
    return ChordPart(group, member, place, store.encode_part(member, state, result))


def joined(store: ResultBackend, *parts: ChordPart) -> Joined | None:
    complete = store.join_chords(parts)
    assert len(complete) <= 1
    return complete[0] if complete else None


@every
def test_the_last_member_gets_all_results_in_the_headers_order(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 3)])
    assert joined(store, part(store, group, 2, "c")) is None
    assert joined(store, part(store, group, 0, "a")) is None
    complete = joined(store, part(store, group, 1, {"b": [1, None]}))
    assert complete is not None
    assert collected(complete) == ["a", {"b": [1, None]}, "c"]


@every
def test_many_members_in_one_go_complete_it(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 1200)])
    complete = joined(store, *(part(store, group, place, place) for place in range(1200)))
    assert complete is not None
    assert collected(complete) == list(range(1200))


@every
def test_a_member_that_runs_again_counts_once_whatever_it_returns(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 2)])
    assert joined(store, part(store, group, 0, "first")) is None
    again = part(store, group, 0, "second")
    assert joined(store, again) is None
    complete = joined(store, part(store, group, 1, "other"))
    assert complete is not None
    assert collected(complete) == ["first", "other"]


@every
def test_the_member_that_completed_it_finds_its_claim_again_and_no_other_does(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 2)])
    early, last = part(store, group, 0, 1), part(store, group, 1, 2)
    joined(store, early)
    first = joined(store, last)
    assert joined(store, early) is None, "it may go: the other one holds the claim and is not acknowledged"
    assert joined(store, last) == first


@every
def test_a_finished_chord_is_not_begun_anew_by_late_copies(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 1)])
    member = part(store, group, 0, 1)
    complete = joined(store, member)
    assert complete is not None
    store.close_chords([complete])
    store.open_chords([ChordStart(group, 1)])
    assert joined(store, member) is None


@every
def test_opening_it_again_keeps_who_has_ended(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 2)])
    joined(store, part(store, group, 0, 1))
    store.open_chords([ChordStart(group, 2)])
    assert joined(store, part(store, group, 1, 2)) is not None


@every
def test_members_that_were_added_are_waited_for_and_come_last(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 1)])
    store.widen_chord(group, "late")
    store.widen_chord(group, "late")
    assert joined(store, part(store, group, None, "added")) is None
    complete = joined(store, part(store, group, 0, "own"))
    assert complete is not None
    assert collected(complete) == ["own", "added"]


@every
def test_of_workers_that_end_the_last_members_at_once_one_is_handed_the_body(store: ResultBackend, group: str) -> None:
    count, rounds = 4, 20
    for turn in range(rounds):
        gid = f"{group}-{turn}"
        store.open_chords([ChordStart(gid, count)])
        barrier, won = threading.Barrier(count), []

        def end(place: int, gid: str = gid, barrier: threading.Barrier = barrier, won: list[Any] = won) -> None:
            member = part(store, gid, place, place)
            barrier.wait()
            won.extend(store.join_chords([member]))

        threads = [threading.Thread(target=end, args=(place,)) for place in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1


@every
def test_a_member_that_failed_is_named_with_its_error(store: ResultBackend, group: str) -> None:
    store.open_chords([ChordStart(group, 2)])
    error = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    failed = part(store, group, 0, error, states.FAILURE)
    joined(store, failed)
    complete = joined(store, part(store, group, 1, 2))
    assert complete is not None
    assert collected(complete) == Dependency(failed.task_id, error)


@every
def test_a_header_with_a_group_inside_gives_a_list_inside(store: ResultBackend, group: str) -> None:
    members = [part(store, group, place, place) for place in range(3)]
    inner = [["inner", None], [[[members[0].task_id, None], None], [[members[1].task_id, None], None]]]
    structure = [[group, None], [inner, [[members[2].task_id, None], None]]]
    store.open_chords([ChordStart(group, 3, structure)])
    complete = joined(store, *members)
    assert complete is not None
    assert collected(complete) == [[0, 1], 2]


@every
def test_a_part_of_a_chord_nobody_opened_completes_nothing(store: ResultBackend, group: str) -> None:
    assert joined(store, part(store, group, 0, 1)) is None


@every
def test_a_group_is_kept_and_forgotten(store: ResultBackend, group: str) -> None:
    members = [[group, None], [[["a", None], None], [["b", None], None]]]
    assert store.fetch_group(group) is None
    store.save_group(group, members)
    assert store.fetch_group(group) == members
    store.forget_group(group)
    assert store.fetch_group(group) is None
