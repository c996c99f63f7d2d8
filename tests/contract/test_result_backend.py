"""The contract of a result store: one suite for Redis, Valkey, SQLite, PostgreSQL, MariaDB and memory."""

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from servers import RedisServer
from sites import Site

from celeriac import states
from celeriac.backends import open_backend
from celeriac.backends.base import ResultBackend
from celeriac.exceptions import BackendUnavailable, CeleriacError, EncodeError
from celeriac.wire.result import KEY_PREFIX, ResultMeta, exception_from_wire, exception_to_wire

every = pytest.mark.parametrize("place", ["redis", "valkey", "sqlite", "postgres", "mariadb", "memory"], indirect=True)
servers = pytest.mark.parametrize("place", ["redis", "valkey", "postgres", "mariadb"], indirect=True)
redis_like = pytest.mark.parametrize("place", ["redis", "valkey"], indirect=True)


class OutOfStock(Exception):
    """An exception with arguments of its own."""


@dataclass(slots=True, kw_only=True)
class Store:
    backend: ResultBackend
    place: Any
    server: Any = None

    def put(self, meta: ResultMeta) -> Exception | None:
        [refused] = self.backend.store([(meta, None)])
        return refused


@pytest.fixture
def store(place: Any) -> Iterator[Store]:
    """An empty result store of the kind that the parameter names, with records that live for an hour."""
    backend = open_backend(place.url, expires_s=3600.0)
    yield Store(backend=backend, place=place, server=place.server)
    backend.close()


@pytest.fixture
def task_id() -> str:
    return str(uuid.uuid4())


@every
@pytest.mark.parametrize(
    ("status", "result"),
    [
        pytest.param(states.STARTED, {"pid": 7, "hostname": "w@h"}, id="started"),
        pytest.param(states.SUCCESS, {"a": [1, None, "\u00fc"]}, id="success"),
        pytest.param(states.SUCCESS, None, id="success with none"),
        pytest.param(states.FAILURE, exception_to_wire(OutOfStock("lamp", 3)), id="failure"),
        pytest.param(states.RETRY, exception_to_wire(ValueError("later")), id="retry"),
        pytest.param(states.REVOKED, exception_to_wire(CeleriacError("expired")), id="revoked"),
        pytest.param("PROGRESS", {"done": 40}, id="a state of the user's own"),
    ],
)
def test_a_record_is_fetched_as_it_was_stored(store: Store, task_id: str, status: str, result: object) -> None:
    meta = ResultMeta(
        task_id,
        status,
        result,
        traceback="Traceback: here",
        date_done="2026-11-22T11:00:00+00:00",
        extra={"parent_id": "p"},
    )

    assert store.put(meta) is None

    found = store.backend.fetch(task_id)
    assert found is not None
    assert (found.task_id, found.status, found.result) == (task_id, status, result)
    assert (found.traceback, found.date_done, found.extra) == (
        meta.traceback,
        meta.date_done,
        {} if store.place.is_sql else {"parent_id": "p"},
    )


@every
def test_an_id_that_nothing_is_known_of_has_no_record(store: Store, task_id: str) -> None:
    assert store.backend.fetch(task_id) is None


@every
def test_a_failure_is_rebuilt_as_the_users_own_exception(store: Store, task_id: str) -> None:
    store.put(ResultMeta(task_id, states.FAILURE, exception_to_wire(OutOfStock("lamp", 3))))

    found = store.backend.fetch(task_id)

    assert found is not None
    error = exception_from_wire(found.result, {**sys.modules, __name__: sys.modules.get(__name__) or _this_module()})
    assert type(error) is OutOfStock
    assert error.args == ("lamp", 3)


def _this_module() -> Any:
    """This file as a module: pytest's importlib mode need not register it."""
    return type("module", (), {"OutOfStock": OutOfStock})


@every
def test_a_stored_success_is_never_overwritten(store: Store, task_id: str) -> None:
    store.put(ResultMeta(task_id, states.SUCCESS, "first"))

    for status in (states.STARTED, states.RETRY, states.FAILURE, states.SUCCESS):
        store.put(ResultMeta(task_id, status, "second"))

    found = store.backend.fetch(task_id)
    assert found is not None
    assert (found.status, found.result) == (states.SUCCESS, "first")


@every
def test_every_other_state_gives_way_to_the_next(store: Store, task_id: str) -> None:
    for status in (states.STARTED, states.RETRY, states.FAILURE, states.STARTED, states.SUCCESS):
        store.put(ResultMeta(task_id, status, status))

        found = store.backend.fetch(task_id)
        assert found is not None
        assert (found.status, found.result) == (status, status)


@every
def test_waiting_ends_as_soon_as_the_record_is_ready(store: Store, task_id: str) -> None:
    def later() -> None:
        time.sleep(0.2)
        store.put(ResultMeta(task_id, states.STARTED, {}))
        time.sleep(0.2)
        store.put(ResultMeta(task_id, states.SUCCESS, 42))

    worker = threading.Thread(target=later)
    started_at = time.monotonic()
    worker.start()

    found = store.backend.wait(task_id, 20.0, 20.0)  # told, not polled

    took_s = time.monotonic() - started_at
    worker.join()
    assert found is not None
    assert found.result == 42
    assert 0.4 <= took_s < 10


@every
def test_waiting_for_what_is_ready_already_takes_no_time(store: Store, task_id: str) -> None:
    store.put(ResultMeta(task_id, states.FAILURE, exception_to_wire(ValueError("x"))))

    started_at = time.monotonic()
    found = store.backend.wait(task_id, 20.0, 5.0)

    assert found is not None
    assert time.monotonic() - started_at < 4


@every
def test_waiting_ends_with_nothing_when_its_time_is_over(store: Store, task_id: str) -> None:
    store.put(ResultMeta(task_id, states.STARTED, {}))

    started_at = time.monotonic()
    assert store.backend.wait(task_id, 0.5, 0.1) is None

    assert 0.45 <= time.monotonic() - started_at < 1.5


@every
def test_a_forgotten_record_is_gone(store: Store, task_id: str) -> None:
    store.put(ResultMeta(task_id, states.SUCCESS, 1))

    store.backend.forget(task_id)

    assert store.backend.fetch(task_id) is None
    store.put(ResultMeta(task_id, states.STARTED, {}))
    assert store.backend.fetch(task_id) is not None


@every
def test_a_batch_is_stored_whole(store: Store) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2500)]

    answers = store.backend.store([(ResultMeta(each, states.SUCCESS, place), None) for place, each in enumerate(ids)])

    assert answers == [None] * 2500
    for place in (0, 999, 1000, 2499):
        found = store.backend.fetch(ids[place])
        assert found is not None
        assert found.result == place


@every
def test_a_value_that_cannot_be_written_is_refused_alone_and_by_name(store: Store) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    values = [1, object(), 3]

    answers = store.backend.store(
        [(ResultMeta(each, states.SUCCESS, value), None) for each, value in zip(ids, values, strict=True)]
    )

    assert answers[0] is None
    assert isinstance(answers[1], EncodeError)
    assert answers[2] is None
    assert store.backend.fetch(ids[1]) is None
    assert store.backend.fetch(ids[2]) is not None


@every
def test_a_record_encoded_before_is_stored_as_it_is(store: Store, task_id: str) -> None:
    meta = ResultMeta(task_id, states.SUCCESS, {"n": 1})
    encoded = store.backend.encode(meta)

    store.backend.store([(meta, encoded)])

    assert store.backend.fetch(task_id) == store.backend.fetch(task_id)
    found = store.backend.fetch(task_id)
    assert found is not None
    assert found.result == {"n": 1}


@redis_like
def test_on_redis_the_record_is_celerys_own_and_expires(store: Store, task_id: str) -> None:
    with store.server.client() as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(KEY_PREFIX + task_id)
        channel.get_message(timeout=1)
        store.put(ResultMeta(task_id, states.SUCCESS, 42, date_done="2026-11-22T11:00:00+00:00"))

        record = json.loads(client.get(KEY_PREFIX + task_id))
        published = channel.get_message(timeout=2)

        assert record == {
            "status": "SUCCESS",
            "result": 42,
            "traceback": None,
            "children": [],
            "date_done": "2026-11-22T11:00:00+00:00",
            "task_id": task_id,
        }
        assert 3590 < client.ttl(KEY_PREFIX + task_id) <= 3600
        assert json.loads(published["data"]) == record


@redis_like
def test_a_record_of_the_wrong_redis_type_is_refused_alone(store: Store) -> None:
    bad, good = str(uuid.uuid4()), str(uuid.uuid4())
    with store.server.client() as client:
        client.lpush(KEY_PREFIX + bad, "not a record")

    answers = store.backend.store([(ResultMeta(each, states.SUCCESS, 1), None) for each in (bad, good)])

    assert store.backend.fetch(good) is not None
    assert answers[1] is None


@redis_like
def test_a_record_that_is_too_large_for_the_server_is_refused_alone(store: Store) -> None:
    with store.server.client() as client:
        client.config_set("proto-max-bulk-len", 1024 * 1024)
    sizes = {"small": 10, "large": 4 * 1024 * 1024, "other": 20}

    errors = store.backend.store([(ResultMeta(name, states.SUCCESS, "x" * size), None) for name, size in sizes.items()])

    assert [type(error) for error in errors] == [type(None), EncodeError, type(None)]
    assert "result too large: 4194" in str(errors[1])
    assert [store.backend.fetch(name) is not None for name in sizes] == [True, False, True]


@servers
def test_an_outage_is_a_clear_error_and_ends_with_the_outage(store: Store, task_id: str) -> None:
    store.put(ResultMeta(task_id, states.SUCCESS, 1))
    store.server.kill()

    started_at = time.monotonic()
    with pytest.raises(BackendUnavailable) as raised:
        store.put(ResultMeta(str(uuid.uuid4()), states.SUCCESS, 1))
    with pytest.raises(BackendUnavailable):
        store.backend.fetch(task_id)
    assert time.monotonic() - started_at < 10
    assert "127.0.0.1" in str(raised.value)

    store.server.start()
    found = store.backend.fetch(task_id)
    assert found is not None
    assert found.result == 1


@servers
def test_waiting_outlives_a_short_outage(store: Store, task_id: str) -> None:
    found: list[ResultMeta | None] = []
    waiting = threading.Thread(target=lambda: found.append(store.backend.wait(task_id, 10.0, 0.5)))
    store.backend.fetch(task_id)
    waiting.start()
    time.sleep(0.3)

    store.server.kill()
    time.sleep(0.3)
    store.server.start()
    store.put(ResultMeta(task_id, states.SUCCESS, 7))
    waiting.join()

    assert found
    assert found[0] is not None
    assert found[0].result == 7


@every
def test_many_records_are_fetched_in_one_go_and_those_that_are_not_there_are_left_out(store: Store) -> None:
    ids = [str(uuid.uuid4()) for _ in range(1500)]
    store.backend.store([(ResultMeta(each, states.SUCCESS, place), None) for place, each in enumerate(ids)])

    found = store.backend.fetch_many([*ids, "unknown"])

    assert {each: meta.result for each, meta in found.items()} == {each: place for place, each in enumerate(ids)}
    assert store.backend.fetch_many([]) == {}


@every
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\U0001f33f \u00fc \0 \\ ' \" %s %(a)s ? :b", id="text of any kind"),
        pytest.param("x" * 3_000_000, id="three megabytes"),
        pytest.param({"deep": [[[[{"a": 1.5e300, "b": -(2**70)}]]]]}, id="deep, with large numbers"),
        pytest.param(b"\x00\xff bytes", id="bytes"),
        pytest.param(datetime(2026, 11, 22, 11, tzinfo=UTC), id="a time"),
        pytest.param(uuid.UUID(int=7), id="a UUID"),
        pytest.param(Decimal("1.10"), id="a decimal"),
    ],
)
def test_a_value_comes_back_as_what_it_was(store: Store, task_id: str, value: object) -> None:
    assert store.put(ResultMeta(task_id, states.SUCCESS, value)) is None

    found = store.backend.fetch(task_id)

    assert found is not None
    assert found.result == value
    assert type(found.result) is type(value)


@every
def test_a_group_is_kept_replaced_and_forgotten(store: Store) -> None:
    group = str(uuid.uuid4())
    members = [[group, None], [[["a", None], None], [["b", None], None]]]
    assert store.backend.fetch_group(group) is None

    store.backend.save_group(group, ((group, None), [(("a", None), None)]))
    store.backend.save_group(group, members)
    assert store.backend.fetch_group(group) == members

    store.backend.forget_group(group)
    assert store.backend.fetch_group(group) is None


@pytest.mark.parametrize("place", ["valkey", "postgres", "mariadb"], indirect=True)
def test_a_worker_keeps_results_while_the_store_is_away_and_stores_them_when_it_is_back(
    place: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    site = Site(broker=redis_server.url, backend=place.url, server=redis_server, folder=tmp_path)
    with site.closing:
        site.worker("-P", "threads", "-c", "4")
        app = site.client()
        assert app.send_task("jobs.add", (1, 1)).get(timeout=15) == 2
        place.server.kill()
        sent = [app.send_task("jobs.add", (number, 1)) for number in range(20)]
        time.sleep(1.0)
        place.server.start()
        assert [result.get(timeout=30) for result in sent] == list(range(1, 21))
