"""A worker of each library on one queue: they share the work, and nothing is lost or done twice."""

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from libraries import Client, Place, start_worker
from processes import wait_until
from servers import RedisServer

TASKS = 600


@pytest.mark.parametrize("client_library", ["celery", "celeriac"])
def test_two_workers_of_different_libraries_share_a_queue_with_nothing_lost_or_doubled(
    client_library: str, compat_redis: RedisServer, tmp_path: Path
) -> None:
    with compat_redis.client() as redis:
        redis.flushall()
    place = Place(name="redis", broker=compat_redis.url, backend=compat_redis.url.replace("/0", "/1"))
    ledger = tmp_path / "ledger"
    ledger.touch()

    with contextlib.ExitStack() as stack:
        for library in ("celery", "celeriac"):
            stack.callback(start_worker(library, place, tmp_path / f"{library}.log").kill)
        client = Client(client_library, place, tmp_path / "client.log")
        stack.callback(client.close)
        last = [client.send("mark", str(ledger), number) for number in range(TASKS)][-1]
        client.get(last)
        wait_until(lambda: ledger.read_text().count("\n") >= TASKS, timeout_s=30, what=f"{TASKS} marks")

    lines = [line.split() for line in ledger.read_text().splitlines()]
    counts = Counter(int(number) for number, _ in lines)
    assert counts == Counter(range(TASKS))
    shares = Counter(worker for _, worker in lines)
    assert set(shares) == {"celery@test", "celeriac@test"}, shares
    with compat_redis.client() as redis:
        assert redis.llen("celery") == 0
        assert redis.hlen("unacked") == 0
        assert redis.zcard("unacked_index") == 0
