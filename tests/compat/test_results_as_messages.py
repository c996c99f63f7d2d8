"""rpc:// between the two libraries: a client of one gets its results from a worker of the other, by message."""

import contextlib
from pathlib import Path

import pytest
from libraries import Client, Place, start_worker
from servers import RabbitServer


@pytest.mark.parametrize(
    ("client_library", "worker_library"),
    [("celery", "celeriac"), ("celeriac", "celery"), ("celeriac", "celeriac")],
)
def test_a_client_of_one_library_gets_results_from_a_worker_of_the_other(
    rabbitmq_node: RabbitServer, _compat_env: None, client_library: str, worker_library: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rabbitmq_node.vhost())
        place = Place(name="rabbitmq", broker=url, backend="rpc://")
        stack.callback(start_worker(worker_library, place, tmp_path / "worker.log").kill)
        client = Client(client_library, place, tmp_path / "client.log")
        stack.callback(client.close)

        sums = [client.send("add", number, 1) for number in range(5)]
        echoed = client.send("echo", "t\u00fcr", kwargs={"k": [None, "x" * 200_000]})
        failed = client.send("reserve", "lamp", 3)
        retried = client.send("flaky", 2)

        assert [client.get(task_id)["value"] for task_id in sums] == [1, 2, 3, 4, 5]
        assert client.get(echoed)["value"] == [["t\u00fcr"], {"k": [None, "x" * 200_000]}]
        assert client.get(retried)["value"] == 2
        raised = client.get(failed)["raised"]
        assert (raised["name"], raised["args"], raised["is_shops"]) == ("OutOfStock", ["lamp", 3], True)


@pytest.mark.parametrize("worker_library", ["celeriac", "celery"])
def test_a_task_that_runs_is_seen_as_started(
    rabbitmq_node: RabbitServer, _compat_env: None, worker_library: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rabbitmq_node.vhost())
        place = Place(name="rabbitmq", broker=url, backend="rpc://")
        stack.callback(start_worker(worker_library, place, tmp_path / "worker.log").kill)
        client = Client("celeriac", place, tmp_path / "client.log")
        stack.callback(client.close)
        task_id = client.send("wait_for_file", str(tmp_path / "go"))
        client.look_until(task_id, "STARTED")
        (tmp_path / "go").touch()
        client.look_until(task_id, "SUCCESS")
