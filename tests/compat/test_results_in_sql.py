"""Results in SQL in one set of tables that both libraries make, write and read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from libraries import Client, Place, start_worker
from servers import RedisServer


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def place(request: pytest.FixtureRequest, compat_redis: RedisServer, tmp_path: Path) -> Iterator[Place]:
    """Redis to send, and an empty database for the results."""
    with compat_redis.client() as client:
        client.flushall()
    if request.param == "sqlite":
        yield Place(name="sqlite", broker=compat_redis.url, backend=f"db+sqlite:///{tmp_path / 'results.db'}")
        return
    with request.getfixturevalue(f"{request.param}_node").database() as url:
        yield Place(name=request.param, broker=compat_redis.url, backend=url)


@pytest.mark.parametrize("worker_library", ["celeriac", "celery"])
def test_results_that_one_library_stores_in_sql_are_read_by_both(
    place: Place, worker_library: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        clients = [Client(library, place, tmp_path / f"{library}.log") for library in ("celery", "celeriac")]
        for client in clients:
            stack.callback(client.close)
        stack.callback(start_worker(worker_library, place, tmp_path / "worker.log").kill)
        value = {"t\u00fcr": [1, None, 2.5], "\U0001f33f": "x" * 50_000}
        added = [client.send("add", 2, 3) for client in clients]
        echoed = clients[0].send("echo", value, kwargs={"k": "v"})
        failed = clients[1].send("reserve", "lamp", 3)

        for client in clients:
            assert [client.get(task_id)["value"] for task_id in added] == [5, 5]
            assert client.get(echoed)["value"] == [[value], {"k": "v"}]
            raised = client.get(failed)["raised"]
            assert (raised["name"], raised["is_shops"]) == ("OutOfStock", True)
            seen = client.look(failed)
            assert (seen["state"], seen["failed"]) == ("FAILURE", True)
            assert "OutOfStock" in seen["traceback"]


@pytest.mark.parametrize("first", ["celeriac", "celery"])
def test_either_library_may_make_the_tables_and_both_write_into_them(place: Place, first: str, tmp_path: Path) -> None:
    second = "celery" if first == "celeriac" else "celeriac"
    with contextlib.ExitStack() as stack:
        client = Client("celeriac", place, tmp_path / "client.log")
        stack.callback(client.close)
        for library in (first, second, first):
            worker = start_worker(library, place, tmp_path / f"{library}.log")
            stack.callback(worker.kill)
            sent = [client.send("add", number, 1) for number in range(4)]
            assert [client.get(task_id)["value"] for task_id in sent] == [1, 2, 3, 4]
            worker.kill()
