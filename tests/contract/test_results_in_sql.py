"""What only a store in SQL has to be told: transactions that meet, what the tables are like, and what expires."""

import multiprocessing
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from celeriac import states
from celeriac.backends import open_backend
from celeriac.backends.base import ResultBackend
from celeriac.backends.sql_options import SqlOptions
from celeriac.exceptions import BackendUnavailable, EncodeError, ImproperlyConfigured
from celeriac.wire.chord import ChordPart, ChordStart
from celeriac.wire.result import ResultMeta

every = pytest.mark.parametrize("place", ["sqlite", "postgres", "mariadb"], indirect=True)


@pytest.fixture
def store(place: Any) -> Iterator[ResultBackend]:
    backend = open_backend(place.url, expires_s=3600.0)
    yield backend
    backend.close()


def run(place: Any, *statements: str) -> list[Any]:
    """The rows of the last statement."""
    engine = sa.create_engine(place.url.removeprefix("db+"))
    with engine.begin() as connection:
        rows: list[Any] = []
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = list(result.fetchall()) if result.returns_rows else []
    engine.dispose()
    return rows


def succeeded(task_id: str, value: Any = 1, **fields: Any) -> tuple[ResultMeta, None]:
    return ResultMeta(task_id, states.SUCCESS, value, **fields), None


@every
def test_many_writers_of_the_same_records_neither_lose_nor_block_one_another(place: Any) -> None:
    ids = [f"{number:03d}" for number in range(60)]
    errors: list[object] = []

    def write(turn: int) -> None:
        backend = open_backend(place.url)
        try:
            for start in range(0, 60, 20):
                chosen = ids[start : start + 20]
                metas = [(ResultMeta(each, states.STARTED, {"pid": turn}), None) for each in reversed(chosen)]
                errors.extend(error for error in backend.store(metas) if error is not None)
                errors.extend(
                    error for error in backend.store([succeeded(each, turn) for each in chosen]) if error is not None
                )
        except Exception as error:
            errors.append(error)
        finally:
            backend.close()

    writers = [threading.Thread(target=write, args=(turn,)) for turn in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert errors == []
    backend = open_backend(place.url)
    found = backend.fetch_many(ids)
    assert {meta.status for meta in found.values()} == {states.SUCCESS}
    assert len(found) == 60
    backend.close()


@every
def test_of_one_batch_the_last_record_of_a_task_stands_unless_it_has_succeeded(store: ResultBackend) -> None:
    metas = [
        ResultMeta("a", states.STARTED, {}), ResultMeta("a", states.SUCCESS, 1), ResultMeta("a", states.FAILURE, {}),
        ResultMeta("b", states.STARTED, {}), ResultMeta("b", "PROGRESS", 2),
    ]  # fmt: skip
    assert store.store([(meta, None) for meta in metas]) == [None] * 5
    found = store.fetch_many(["a", "b", "c"])
    assert {each: (meta.status, meta.result) for each, meta in found.items()} == {
        "a": (states.SUCCESS, 1),
        "b": ("PROGRESS", 2),
    }


@every
def test_what_has_expired_is_deleted_in_batches_and_nothing_else(place: Any, store: ResultBackend) -> None:
    old, new = "2020-01-01T00:00:00+00:00", time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    store.store([succeeded(f"old{number}", date_done=old) for number in range(1200)])
    store.store([succeeded("new", date_done=new), (ResultMeta("running", states.STARTED, {}), None)])
    store.save_group("g", [["g", None], []])
    store.open_chords([ChordStart("begun", 1), ChordStart("ended", 1)])
    [joined] = store.join_chords([ChordPart("ended", "t", 0, store.encode_part("t", states.SUCCESS, 1))])
    store.close_chords([joined])

    assert store.cleanup() == 1200

    assert set(store.fetch_many(["old0", "old1199", "new", "running"])) == {"new", "running"}
    assert store.fetch_group("g") is not None
    assert run(place, "SELECT count(*) FROM celeriac_chord") == [(2,)]
    run(
        place,
        "UPDATE celeriac_chord SET done_at = '2020-01-01' WHERE group_id = 'ended'",
        "UPDATE celery_tasksetmeta SET date_done = '2020-01-01'",
    )
    assert store.cleanup() == 1
    assert run(place, "SELECT group_id FROM celeriac_chord") == [("begun",)]
    assert store.fetch_group("g") is None


@every
def test_without_expiry_nothing_is_deleted(place: Any) -> None:
    backend = open_backend(place.url, expires_s=None)
    backend.store([succeeded("old", date_done="2020-01-01T00:00:00+00:00")])
    assert backend.cleanup() == 0
    assert backend.fetch("old") is not None
    backend.close()


@every
def test_a_record_with_all_that_result_extended_adds_is_read_as_it_was_written(store: ResultBackend) -> None:
    extra = {"name": "shop.add", "args": [1, {"a": None}], "kwargs": {}, "worker": "w@h", "retries": 2, "queue": "q"}
    store.store([(ResultMeta("a", states.SUCCESS, 3, extra=extra, children=[[["b", None], None]]), None)])
    found = store.fetch("a")
    assert found is not None
    assert found.extra == extra
    assert found.children == [[["b", None], None]]


@every
def test_a_process_that_was_forked_opens_connections_of_its_own(place: Any, store: ResultBackend) -> None:
    store.store([succeeded("parent")])

    def child() -> None:
        for number in range(20):
            store.store([succeeded(f"child{number}")])
            assert store.fetch("parent") is not None

    context = multiprocessing.get_context("fork")
    process = context.Process(target=child)
    process.start()
    for number in range(20):
        store.store([succeeded(f"own{number}")])
    process.join()

    assert process.exitcode == 0
    names = [f"{kind}{number}" for kind in ("child", "own") for number in range(20)]
    assert len(store.fetch_many(names)) == 40


@every
def test_tables_may_have_other_names(place: Any) -> None:
    options = SqlOptions(table_names={"task": "my_results", "group": "my_groups"})
    backend = open_backend(place.url, sql=options)
    backend.store([succeeded("a")])
    backend.save_group("g", [["g", None], []])
    assert run(place, "SELECT task_id FROM my_results") == [("a",)]
    assert run(place, "SELECT taskset_id FROM my_groups") == [("g",)]
    backend.close()


@every
def test_tables_that_are_not_there_and_not_to_be_made_are_named(place: Any) -> None:
    backend = open_backend(place.url, sql=SqlOptions(create_tables=False))
    with pytest.raises(ImproperlyConfigured, match=r"no table celery_taskmeta.*create_tables_at_setup"):
        backend.fetch("a")
    backend.close()


@every
def test_columns_that_a_table_of_older_celery_lacks_are_added(place: Any) -> None:
    first = open_backend(place.url)
    first.fetch("a")
    first.close()
    run(place, *(f"ALTER TABLE celery_taskmeta DROP COLUMN {name}" for name in ("children", "queue", "args")))
    backend = open_backend(place.url)
    backend.store([(ResultMeta("a", states.SUCCESS, 1, extra={"queue": "q", "args": [1]}), None)])
    found = backend.fetch("a")
    assert found is not None
    assert found.extra == {"queue": "q", "args": [1]}
    backend.close()


@every
def test_twenty_waiters_in_one_process_do_not_exhaust_its_connections(store: ResultBackend) -> None:
    ids = [str(uuid.uuid4()) for _ in range(20)]
    found: list[Any] = []
    waiting = [threading.Thread(target=lambda each=each: found.append(store.wait(each, 10.0, 0.2))) for each in ids]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    store.store([succeeded(each, each) for each in ids])
    for thread in waiting:
        thread.join()
    assert sorted(meta.result for meta in found) == sorted(ids)


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_on_postgresql_who_waits_is_told(store: ResultBackend) -> None:
    told: list[float] = []

    def wait() -> None:
        store.wait("a", 30.0, 20.0)
        told.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(1.5)  # by then it looks no more often than every second
    stored_at = time.monotonic()
    store.store([succeeded("a")])
    thread.join()
    assert told[0] - stored_at < 0.4


@pytest.mark.parametrize("place", ["postgres", "mariadb"], indirect=True)
def test_who_waits_sees_what_another_connection_commits(place: Any) -> None:
    """On MySQL only under READ COMMITTED, or in a new transaction for each look."""
    one, other = open_backend(place.url), open_backend(place.url)
    assert one.fetch("a") is None
    other.store([succeeded("a")])
    assert one.fetch("a") is not None
    if place.kind == "mariadb":
        isolation = one._engine().connect()  # type: ignore[attr-defined]
        assert isolation.exec_driver_sql("SELECT @@tx_isolation").scalar() == "READ-COMMITTED"
        isolation.close()
    one.close()
    other.close()


@pytest.mark.parametrize("place", ["mariadb"], indirect=True)
def test_a_result_that_the_column_does_not_hold_is_refused_alone(place: Any, store: ResultBackend) -> None:
    store.fetch("a")
    run(place, "ALTER TABLE celery_taskmeta MODIFY result BLOB")  # as Celery makes it: 64 KiB
    answers = store.store([succeeded("small"), succeeded("large", "x" * 70_000), succeeded("other")])
    assert [type(answer) for answer in answers] == [type(None), EncodeError, type(None)]
    assert "70002 bytes of result" in str(answers[1])
    assert set(store.fetch_many(["small", "large", "other"])) == {"small", "other"}


@pytest.mark.parametrize("place", ["mariadb"], indirect=True)
def test_a_result_that_is_too_large_for_the_server_is_refused_alone(place: Any, store: ResultBackend) -> None:
    place.server.run("SET GLOBAL max_allowed_packet = 2097152")
    try:
        answers = store.store([succeeded("small"), succeeded("large", "x" * 4_000_000), succeeded("other")])
    finally:
        place.server.run("SET GLOBAL max_allowed_packet = 16777216")
    assert [type(answer) for answer in answers] == [type(None), EncodeError, type(None)]
    assert set(store.fetch_many(["small", "large", "other"])) == {"small", "other"}


@pytest.mark.parametrize("place", ["postgres", "mariadb"], indirect=True)
def test_an_id_that_is_too_long_for_its_column_is_refused_alone(store: ResultBackend) -> None:
    answers = store.store([succeeded("a"), succeeded("b" * 200), succeeded("c")])
    assert [type(answer) for answer in answers] == [type(None), EncodeError, type(None)]


@every
def test_a_traceback_with_any_character_is_kept(store: ResultBackend) -> None:
    text = "a\0b \U0001f33f \u00fc"
    assert store.store([(ResultMeta("a", states.FAILURE, {}, traceback=text), None)]) == [None]
    found = store.fetch("a")
    assert found is not None
    assert found.traceback == text.replace("\0", "\ufffd")


@pytest.mark.parametrize("place", ["postgres", "mariadb"], indirect=True)
def test_no_error_holds_the_password(place: Any) -> None:
    url = place.url.replace("postgres@", "postgres:sesame@").replace("root@", "root:sesame@")
    backend = open_backend(url.replace(f":{place.server.port}/", ":1/"))
    with pytest.raises(BackendUnavailable) as raised:
        backend.fetch("a")
    assert "sesame" not in str(raised.value)
    assert "127.0.0.1:1" in str(raised.value)
    backend.close()


def test_a_database_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(ImproperlyConfigured, match="db\\+postgresql\\+psycopg"):
        open_backend("db+postgresql+pg8000://h/d").fetch("a")


def test_a_database_that_nobody_serves_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="is no URL of a database"):
        open_backend("db+:/nonsense")


def test_one_process_may_keep_results_in_memory() -> None:
    backend = open_backend("db+sqlite://")
    threads = [threading.Thread(target=lambda n=n: backend.store([succeeded(str(n))])) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backend.fetch_many([str(n) for n in range(5)])) == 5
    backend.close()
