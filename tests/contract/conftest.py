"""`broker`: one kind of broker after the other, by indirect parameter: redis, valkey, rabbitmq, memory.

`place`: one place for results after the other: redis, valkey, sqlite, postgres, mariadb, memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """An empty broker of the kind that the parameter names."""
    kind: str = request.param
    fixtures = {"redis": "redis_server", "valkey": "valkey_server", "rabbitmq": "rabbitmq"}
    server = request.getfixturevalue(fixtures[kind]) if kind in fixtures else None
    # kombu keeps a memory broker's queues for as long as the process lives; the queue's name is new in each test.
    broker = Broker(kind=kind, url=server.url if server is not None else "memory://", server=server)
    with broker.closing:
        yield broker


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where results are kept. server: what a test may kill; None for memory and SQLite."""

    kind: str
    url: str
    server: Any = None

    @property
    def is_sql(self) -> bool:
        return self.kind in {"sqlite", "postgres", "mariadb"}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place for results of the kind that the parameter names."""
    kind: str = request.param
    if kind in {"redis", "valkey"}:
        server = request.getfixturevalue(f"{kind}_server")
        yield Place(kind=kind, url=server.url, server=server)
    elif kind in {"postgres", "mariadb"}:
        node = request.getfixturevalue(f"{kind}_node")
        with node.database() as url:
            yield Place(kind=kind, url=url, server=node)
    else:
        urls = {"memory": "cache+memory://", "sqlite": f"db+sqlite:///{tmp_path / 'results.db'}"}
        yield Place(kind=kind, url=urls[kind])
