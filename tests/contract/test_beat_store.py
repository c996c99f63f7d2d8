"""Where beat keeps its state: one suite for the coordination store and the file."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from celeriac import Celeriac
from celeriac.beat.store import FileStore, SharedStore, Store
from celeriac.beat.ticker import tick_id
from celeriac.exceptions import BackendUnavailable, ImproperlyConfigured

Open = Callable[..., Store]
SECOND = timedelta(seconds=1)


@pytest.fixture(params=["redis", "valkey", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store, as a beat that starts (again) does."""
    with ExitStack() as closing:
        if request.param == "file":
            before: list[FileStore] = []

            def open_file(claim_s: float = 30.0) -> Store:
                if before:
                    before.pop().close()  # one beat at a time
                before.append(FileStore(tmp_path / "beat.json", claim_s=claim_s))
                return before[0]

            closing.callback(lambda: before and before[0].close())
            yield open_file
            return
        url = request.getfixturevalue(f"{request.param}_server").url

        def open_shared(claim_s: float = 30.0, name: str = "shop") -> Store:
            app = Celeriac("shop", broker=url, set_as_current=False)
            closing.callback(app.close)
            assert app.coordination is not None
            return SharedStore(app.coordination, name, claim_s=claim_s)

        yield open_shared


def test_an_entry_never_seen_last_ran_now_and_that_stays(opened: Open) -> None:
    now, lasts = opened().lasts(["a", "b"])
    later, again = opened().lasts(["b", "a"])

    assert lasts["a"] == lasts["b"]
    assert abs(lasts["a"] - datetime.now(UTC)) < timedelta(seconds=30)
    assert again == lasts
    assert lasts["a"] <= now <= later


def test_a_claim_moves_the_last_run_and_the_next_one_must_know_it(opened: Open) -> None:
    store = opened()
    _, lasts = store.lasts(["a"])
    first, second = lasts["a"] + SECOND, lasts["a"] + 2 * SECOND

    assert store.claim("a", lasts["a"], first, send=True) is None
    assert store.claim("a", lasts["a"], first, send=True) == first
    assert store.claim("a", first, second, send=False) is None
    assert opened().lasts(["a"])[1] == {"a": second}


def test_what_is_not_confirmed_is_anyones_when_the_claim_ends(opened: Open) -> None:
    store = opened(claim_s=0.3)
    _, lasts = store.lasts(["a", "b"])
    moment = lasts["a"] + SECOND
    for entry in ("a", "b"):
        store.claim(entry, lasts[entry], moment, send=True)
    store.confirm(tick_id("b", moment))

    assert store.overdue(["a", "b"])[1] == []
    other = opened(claim_s=0.3)
    wait_until(lambda: other.overdue([])[0] > lasts["a"] + timedelta(seconds=0.4), what="the end of the claim")
    assert other.overdue(["b"])[1] == []
    assert other.overdue(["a", "b"])[1] == [tick_id("a", moment)]
    assert other.overdue(["a", "b"])[1] == [], "it is claimed anew"
    other.confirm(tick_id("a", moment))
    other.confirm(tick_id("a", moment))


def test_what_is_put_off_is_there_after_the_pause(opened: Open) -> None:
    store = opened()
    _, lasts = store.lasts(["a"])
    moment = lasts["a"] + SECOND
    store.claim("a", lasts["a"], moment, send=True)

    store.put_off(tick_id("a", moment), 0.0)

    assert store.overdue(["a"])[1] == [tick_id("a", moment)]


def test_a_run_left_out_claims_nothing(opened: Open) -> None:
    store = opened(claim_s=0.0)
    _, lasts = store.lasts(["a"])

    store.claim("a", lasts["a"], lasts["a"] + SECOND, send=False)

    assert store.overdue(["a"])[1] == []


def test_entries_that_are_no_more_are_forgotten_with_their_claims(opened: Open) -> None:
    store = opened(claim_s=0.0)
    _, lasts = store.lasts(["a", "b c", "d"])
    moment = lasts["a"] + SECOND
    for entry in ("a", "b c"):
        store.claim(entry, lasts[entry], moment, send=True)

    assert sorted(store.forget_others(["a"])) == ["b c", "d"]

    assert store.overdue(["a", "b c"])[1] == [tick_id("a", moment)]
    assert store.lasts(["b c"])[1]["b c"] > lasts["b c"]


def test_apps_on_one_redis_do_not_meet(redis_server: Any) -> None:
    with Celeriac("any", broker=redis_server.url, set_as_current=False) as app:
        assert app.coordination is not None
        shop, mill = (SharedStore(app.coordination, name, claim_s=30) for name in ("shop", "mill"))
        _, lasts = shop.lasts(["a"])
        mill.lasts(["a"])

        shop.claim("a", lasts["a"], lasts["a"] + SECOND, send=True)
        shop.forget_others([])

        assert mill.lasts(["a"])[1]["a"] != lasts["a"] + SECOND


def test_a_redis_that_is_away_is_named(redis_server: Any) -> None:
    with Celeriac("any", broker=redis_server.url, set_as_current=False) as app:
        assert app.coordination is not None
        store = SharedStore(app.coordination, "shop", claim_s=30)
        redis_server.stop()

        with pytest.raises(BackendUnavailable, match="cannot reach the coordination store"):
            store.lasts(["a"])


def test_a_second_beat_on_a_file_is_refused(tmp_path: Path) -> None:
    first = FileStore(tmp_path / "beat.json", claim_s=1)

    with pytest.raises(ImproperlyConfigured, match=r"another beat uses .*beat.json"):
        FileStore(tmp_path / "beat.json", claim_s=1)

    first.close()
    FileStore(tmp_path / "beat.json", claim_s=1).close()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "[]",
        '{"lasts": {"a": "yesterday"}, "claims": {}}',
        "{}",
        '{"lasts": {"a": "2026-11-22T18:00:00"}, "claims": {}}',
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "beat.json"
    path.write_text(content)

    with pytest.raises(ImproperlyConfigured, match="is not a file of celeriac beat: move it away"):
        FileStore(path, claim_s=1)

    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_said_at_start(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"cannot write .*No such file.*beat_schedule_filename"):
        FileStore(tmp_path / "missing" / "beat.json", claim_s=1)
    with pytest.raises(ImproperlyConfigured, match=r"cannot read beat's state in .*: Is a directory"):
        FileStore(tmp_path, claim_s=1)


def test_a_write_that_fails_leaves_the_file_whole(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "beat.json", claim_s=1)
    store.lasts(["a"])
    before = (tmp_path / "beat.json").read_text()
    os.mkdir(tmp_path / "beat.json.new")  # where the next version would be written

    with pytest.raises(BackendUnavailable, match=r"cannot write .*beat.json"):
        store.lasts(["b"])

    assert (tmp_path / "beat.json").read_text() == before
    store.close()
