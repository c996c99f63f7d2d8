"""Fixtures that every test may use: private real servers, missing ones skipped at home and failed under CI=true.

`redis_server`, `valkey_server`, and `rabbitmq`, a virtual host of the run's one node. Their classes are in
tests/support, which pytest puts on the path.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from databases import MariaServer, PostgresServer
from hypothesis import HealthCheck, settings
from missing import give_up
from servers import Missing, RabbitServer, RedisServer, ValkeyServer
from sites import Site

# As Hypothesis itself does under CI=true: how long an example takes says how loaded the machine is.
settings.register_profile(
    "loaded machine", settings(), deadline=None, suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow]
)  # fmt: skip
settings.load_profile("loaded machine")

#: A server that tests start.
KindT = TypeVar("KindT", RedisServer, ValkeyServer, RabbitServer, PostgresServer, MariaServer)


@pytest.fixture(scope="module", autouse=True)
def _leaves_nothing_open() -> Iterator[None]:
    """What a file leaves unclosed is told as its own last test's error, not as that of whichever test comes next."""
    yield
    gc.collect()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    yield from _serve(RedisServer)


@pytest.fixture
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey of this test's own."""
    yield from _serve(ValkeyServer)


def _serve(kind: type[KindT]) -> Iterator[KindT]:
    try:
        server = kind()
    except Missing as missing:
        give_up(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitServer]:
    """The run's one RabbitMQ node. Tests take `rabbitmq`, a virtual host in it."""
    yield from _serve(RabbitServer)


@pytest.fixture(scope="session")
def postgres_node() -> Iterator[PostgresServer]:
    """The run's one PostgreSQL. Tests make a database of their own in it."""
    yield from _serve(PostgresServer)


@pytest.fixture(scope="session")
def mariadb_node() -> Iterator[MariaServer]:
    """The run's one MariaDB. Tests make a database of their own in it."""
    yield from _serve(MariaServer)


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitVhost:
    """A virtual host of this test's own. What is done to the node is undone before the next test."""

    url: str
    node: RabbitServer

    def start(self) -> None:
        self.node.start()

    def stop(self) -> None:
        self.node.stop()

    def kill(self) -> None:
        self.node.kill()

    def pause(self) -> None:
        self.node.pause()

    def resume(self) -> None:
        self.node.resume()


@pytest.fixture
def rabbitmq(rabbitmq_node: RabbitServer) -> Iterator[RabbitVhost]:
    """A RabbitMQ virtual host of this test's own."""
    with rabbitmq_node.vhost() as url:
        yield RabbitVhost(url=url, node=rabbitmq_node)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """On the broker that the parameter names, else Redis; results in Redis (with RabbitMQ too)."""
    kind = getattr(request, "param", "redis")
    redis = request.getfixturevalue("redis_server")
    server = redis if kind == "redis" else request.getfixturevalue("rabbitmq")
    site = Site(broker=server.url, backend=redis.url.replace("/0", "/1"), server=server, folder=tmp_path)
    with site.closing:
        yield site


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.server("redis")` on a test that starts the server itself."""
    kinds = {"redis": RedisServer, "valkey": ValkeyServer, "rabbitmq": RabbitServer}
    for marker in item.iter_markers("server"):
        try:
            kinds[marker.args[0]]().close()
        except Missing as missing:
            give_up(str(missing))
