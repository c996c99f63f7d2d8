"""The real Celery and ours as client and worker of each other: processes, private brokers, results always in Redis.

`pair` is one client and one worker of different libraries on one broker. COMPAT_CONTROL=1 adds Celery with Celery,
which checks the tests themselves.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from compat_env import CannotMake, celery_python
from libraries import Client, Place, start_worker
from missing import give_up
from processes import Child
from servers import Missing, RabbitServer, RedisServer


@pytest.fixture(scope="session")
def _compat_env() -> None:
    try:
        celery_python()
    except CannotMake as error:
        give_up(f"the environment with the real Celery cannot be made: {error}")


@pytest.fixture(scope="session")
def compat_redis(_compat_env: None) -> Iterator[RedisServer]:
    """The Redis of the compatibility tests: broker in database 0, results in database 1."""
    try:
        server = RedisServer()
    except Missing as missing:
        give_up(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def place(request: pytest.FixtureRequest, compat_redis: RedisServer) -> Iterator[Place]:
    """Each broker in turn, empty."""
    with compat_redis.client() as client:
        client.flushall()
    backend = compat_redis.url.replace("/0", "/1")
    if request.param == "redis":
        yield Place(name="redis", broker=compat_redis.url, backend=backend)
        return
    node: RabbitServer = request.getfixturevalue("rabbitmq_node")
    with node.vhost() as url:
        yield Place(name="rabbitmq", broker=url, backend=backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A running client and a running worker at one place."""

    client: Client
    worker: Child
    worker_library: str
    place: Place

    @property
    def node(self) -> str:
        return f"{self.worker_library}@test"


_PAIRS = [("celery", "celeriac"), ("celeriac", "celery")]
if os.environ.get("COMPAT_CONTROL"):
    _PAIRS.append(("celery", "celery"))


@pytest.fixture(scope="module", params=_PAIRS, ids=lambda pair: f"{pair[0]}-client-{pair[1]}-worker")
def pair(request: pytest.FixtureRequest, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A client of one library and a worker of the other."""
    client_library, worker_library = request.param
    folder = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        worker = start_worker(worker_library, place, folder / "worker.log")
        stack.callback(worker.kill)
        client = Client(client_library, place, folder / "client.log")
        stack.callback(client.close)
        yield Pair(client=client, worker=worker, worker_library=worker_library, place=place)
