"""The outbox, on SQLite, PostgreSQL and MariaDB, with SQLAlchemy: what was committed is published, once at least, and nothing else is."""

import importlib
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from brokers import Broker, claim
from processes import Child, wait_until
from servers import RedisServer, free_port
from sqlalchemy.orm import Session

from celeriac.broker.consumer import Settled
from celeriac.contrib.outbox import Relay
from celeriac.contrib.outbox_probes import liveness, readiness
from celeriac.contrib.sqlalchemy import Outbox, apply_async_on_commit, delay_on_commit
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, ImproperlyConfigured, NotSupported

SUPPORT = Path(__file__).resolve().parents[1] / "support"
KINDS = ["sqlite", "postgres", "mariadb"]


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """SQLAlchemy's URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shop.db"
        return
    node = request.getfixturevalue(f"{request.param}_node")
    with node.database() as url:
        yield url.removeprefix("db+")


@pytest.fixture
def environment(database: str, redis_server: RedisServer) -> dict[str, str]:
    return {
        "DATABASE": database,
        "BROKER": redis_server.url,
        "QUEUE": "shop",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
    }


@pytest.fixture
def shop(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module shopdb.py of this process, its tables made."""
    for name, value in environment.items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(SUPPORT))
    sys.modules.pop("shopdb", None)
    module: Any = importlib.import_module("shopdb")
    module.Base.metadata.create_all(module.engine)
    yield module
    module.app.close()
    module.engine.dispose()
    sys.modules.pop("shopdb", None)


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[Broker]:
    broker = Broker(kind="redis", url=redis_server.url, server=redis_server, queue="shop")
    with broker.closing:
        yield broker


def ids(queue: Broker, count: int) -> list[str]:
    consumer = queue.consumer()
    found = claim(consumer, count)
    consumer.settle([Settled(delivery) for delivery in found])
    consumer.close()
    return [delivery.headers["id"] for delivery in found]


def nothing_waits(queue: Broker) -> bool:
    consumer = queue.consumer()
    found = consumer.claim(1)
    consumer.close()
    return found == []


def relay(shop: Any) -> int:
    return Relay(shop.app, shop.outbox).once()


# -- the guide's race


def test_a_plain_delay_runs_before_the_commit_and_the_outbox_does_not(shop: Any, queue: Broker) -> None:
    """The task runs as soon as its message is there, as a quick worker would run it: is its article there?"""

    def run_what_waits() -> list[Any]:
        consumer = queue.consumer()
        found = [delivery for _ in range(3) for delivery in consumer.claim(5)]
        consumer.settle([Settled(delivery) for delivery in found])
        consumer.close()
        outcomes: list[Any] = []
        for delivery in found:
            try:
                outcomes.append(shop.index(number_in(delivery)))
            except sa.exc.NoResultFound:
                outcomes.append("not there")
        return outcomes

    with Session(shop.engine) as session:
        session.add(shop.Article(id=1, title="first"))
        session.flush()
        if shop.engine.dialect.name != "sqlite":  # there the open transaction locks readers out, for long
            shop.index.delay(1)
            assert run_what_waits() == ["not there"]
        shop.outbox.delay(session, shop.index, 1)
        relay_sees = relay(shop) if shop.engine.dialect.name != "sqlite" else 0
        assert (relay_sees, run_what_waits()) == (0, [])
        session.commit()

    assert relay(shop) == 1
    assert run_what_waits() == ["first"]


def number_in(delivery: Any) -> int:
    from brokers import number_of

    number = number_of(delivery)
    assert isinstance(number, int)
    return number


# -- what is published


def test_a_rolled_back_transaction_publishes_nothing(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        shop.outbox.delay(session, shop.index, 1)
        session.rollback()
        with session.begin_nested():
            shop.outbox.delay(session, shop.index, 2)
            session.get_nested_transaction().rollback()  # type: ignore[union-attr]
        session.commit()

    assert relay(shop) == 0
    assert nothing_waits(queue)


def test_a_message_comes_out_as_it_was_written(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        handle = shop.outbox.apply_async(
            session,
            shop.index,
            ("Stra\u00dfe \U0001f600", 2),
            headers={"tenant": 7},
            priority=3,
            compression="zlib",
            expires=600,
            queue="shop",
        )
        session.commit()
    relay(shop)

    consumer = queue.consumer()
    [delivery] = claim(consumer, 1)

    assert (delivery.headers["id"], delivery.headers["tenant"], delivery.step) == (handle.id, 7, 3)
    assert delivery.headers["compression"] == "application/x-gzip"
    assert shop.app.message  # the app that wrote it reads it, too


def test_the_order_of_writing_is_the_order_of_publishing(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        written = [shop.outbox.delay(session, shop.index, number).id for number in range(20)]
        session.commit()

    assert Relay(shop.app, shop.outbox, batch=7).once() == 7
    assert relay(shop) == 13
    assert ids(queue, 20) == written
    assert shop.outbox.waiting() == (0, None)


def test_several_relays_share_the_work(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        written = {shop.outbox.delay(session, shop.index, number).id for number in range(200)}
        session.commit()

    def drain(_: int) -> int:
        sent = 0
        for _ in range(40):
            sent += Relay(shop.app, shop.outbox, batch=10).once()
        return sent

    with ThreadPoolExecutor(4) as threads:
        sent = list(threads.map(drain, range(4)))

    assert sum(sent) == 200
    got = ids(queue, 200)
    assert len(got) == 200
    assert set(got) == written


# -- crashes and outages


@pytest.mark.parametrize("when", ["after", "before"])
def test_a_kill_between_commit_and_publish_loses_nothing(
    shop: Any, queue: Broker, environment: dict[str, str], tmp_path: Path, when: str
) -> None:
    died = subprocess.run(
        [sys.executable, str(SUPPORT / "shopdb.py"), "1", "5", when], env=os.environ | environment, check=False, timeout=60
    )  # fmt: skip
    assert died.returncode == -9
    assert nothing_waits(queue)
    committed = 5 if when == "after" else 4
    worker = Child(
        [str(Path(sys.executable).with_name("celeriac")), "-A", "shopdb:app", "outbox", "--poll", "0.1"],
        log=tmp_path / "relay.log", env=environment,
    )  # fmt: skip
    try:
        assert len(set(ids(queue, committed))) == committed
        wait_until(lambda: shop.outbox.waiting()[0] == 0, what="an empty outbox")
    finally:
        worker.terminate(timeout_s=10)
    assert nothing_waits(queue)
    assert "Traceback" not in worker.text()


def test_a_relay_that_died_with_rows_in_hand_is_followed_by_another(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        written = shop.outbox.delay(session, shop.index, 1).id
        session.commit()
    [row] = shop.outbox.take(5, 0.4)  # and here it dies

    assert relay(shop) == 0
    time.sleep(0.5)
    assert relay(shop) == 1
    assert ids(queue, 1) == [written]
    assert row.tries == 0


def test_a_broker_that_is_away_is_waited_for(shop: Any, queue: Broker) -> None:
    shop.app.conf.task_publish_timeout = 0.3
    with Session(shop.engine) as session:
        written = [shop.outbox.delay(session, shop.index, number).id for number in range(3)]
        session.commit()
    queue.server.kill()

    with pytest.raises(BrokerUnavailable):
        relay(shop)
    queue.server.start()

    assert relay(shop) == 3
    assert ids(queue, 3) == written


def test_a_message_that_is_refused_holds_up_no_other(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        shop.outbox.apply_async(session, shop.index, (1,), exchange="nowhere", routing_key="x")
        good = shop.outbox.delay(session, shop.index, 2).id
        session.commit()

    assert relay(shop) == 1
    assert ids(queue, 1) == [good]
    with shop.engine.connect() as connection:
        [row] = connection.execute(sa.select(shop.outbox.table)).all()
    assert (row.tries, "no exchange 'nowhere'" in row.trouble) == (1, True)
    assert row.free_at > time.time() + 3
    assert relay(shop) == 0


# -- right after the commit


@pytest.fixture
def fast(shop: Any) -> Any:
    """An outbox on the same table that publishes after the commit."""
    from celeriac.contrib import outbox as registry

    registry._OUTBOXES.pop(id(shop.app))
    shop.outbox = Outbox(shop.app, sa.MetaData(), shop.engine)
    return shop


def test_who_commits_publishes_at_once_and_leaves_no_row(fast: Any, queue: Broker) -> None:
    with Session(fast.engine) as session, session.begin():
        session.add(fast.Article(id=1, title="first"))
        written = fast.outbox.delay(session, fast.index, 1).id

    assert ids(queue, 1) == [written]
    assert fast.outbox.waiting() == (0, None)


def test_who_commits_does_not_wait_for_a_broker_that_is_away(fast: Any, queue: Broker) -> None:
    with Session(fast.engine) as session, session.begin():
        fast.outbox.delay(session, fast.index, 0)  # connects
    ids(queue, 1)
    queue.server.kill()
    began = time.monotonic()
    for number in range(5):
        with Session(fast.engine) as session, session.begin():
            fast.outbox.delay(session, fast.index, number)

    assert time.monotonic() - began < 4
    assert fast.outbox.waiting()[0] == 5
    queue.server.start()
    assert relay(fast) == 0  # for some seconds they are his who wrote them
    with fast.engine.begin() as connection:
        connection.execute(sa.update(fast.outbox.table).values(free_at=0))
    assert relay(fast) == 5


# -- on commit, without a row


def test_a_call_on_commit_is_sent_with_the_commit_of_all_that_is_around_it(shop: Any, queue: Broker) -> None:
    with Session(shop.engine) as session:
        delay_on_commit(session, shop.index, 1)
        session.add(shop.Article(id=1, title="first"))
        with session.begin_nested():
            apply_async_on_commit(session, shop.index, (2,), priority=0)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            delay_on_commit(session, shop.index, 3)
            raise ZeroDivisionError
        assert nothing_waits(queue)
        session.commit()
        consumer = queue.consumer()
        sent = claim(consumer, 2)
        consumer.settle([Settled(delivery) for delivery in sent])
        consumer.close()
        assert [number_in(delivery) for delivery in sent] == [1, 2]

        delay_on_commit(session, shop.index, 4)
        session.rollback()
        delay_on_commit(session, shop.index, 5)
        session.close()
        session.add(shop.Article(id=2, title="second"))
        session.commit()

    assert nothing_waits(queue)


def test_wrong_arguments_are_refused_at_once(shop: Any) -> None:
    with Session(shop.engine) as session:
        with pytest.raises(TypeError, match="index"):
            delay_on_commit(session, shop.index)
        with pytest.raises(TypeError, match="index"):
            shop.outbox.delay(session, shop.index)
        with pytest.raises(TypeError, match="coutdown"):
            shop.outbox.apply_async(session, shop.index, (1,), coutdown=3)
        with pytest.raises(NotSupported, match="require_consumer means nothing"):
            shop.outbox.apply_async(session, shop.index, (1,), require_consumer=True)
        unique = shop.app.task(lambda: 1, name="unique", unique_for=5)
        with pytest.raises(NotSupported, match="unique_for"):
            shop.outbox.delay(session, unique)


def test_a_database_that_is_away_says_so(shop: Any) -> None:
    shop.Base.metadata.drop_all(shop.engine)

    with pytest.raises(BackendUnavailable, match="the outbox's database"):
        relay(shop)


def test_an_app_has_one_outbox(shop: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="has an outbox already"):
        Outbox(shop.app, sa.MetaData(), shop.engine)


# -- what a relay tells


def probed(port: int, path: str) -> tuple[int, str]:
    """(status, text); (0, "") while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


@pytest.fixture
def probes(environment: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """Starts `celeriac outbox` with probes; (the process, its port)."""
    children = []

    def start(**variables: str) -> tuple[Child, int]:
        port = free_port()
        env = {"CELERIAC_OUTBOX_HTTP_PORT": str(port), "CELERIAC_WORKER_HTTP_HOST": "127.0.0.1"}
        child = Child(
            [sys.executable, "-m", "celeriac", "-A", "shopdb:app", "outbox", "--poll", "0.1"],
            log=tmp_path / f"relay{len(children)}.log", env={**environment, **env, **variables},
        )  # fmt: skip
        children.append(child)
        return child, port

    yield start
    for child in children:
        child.kill()


def test_a_relay_tells_that_it_lives_is_ready_and_what_it_has_published(shop: Any, queue: Broker, probes: Any) -> None:
    with Session(shop.engine) as session:
        for number in range(3):
            shop.outbox.delay(session, shop.index, number)
        session.commit()
    running, port = probes()

    wait_until(lambda: "celeriac_outbox_published_total 3.0" in probed(port, "metrics")[1], what="three published")

    assert probed(port, "livez") == (200, "alive\n")
    assert probed(port, "readyz") == (200, "running\n")
    wait_until(lambda: "celeriac_outbox_waiting 0.0" in probed(port, "metrics")[1], what="a count")
    assert "celeriac_outbox_up 1.0" in probed(port, "metrics")[1]
    second, _ = probes(CELERIAC_OUTBOX_HTTP_PORT=str(port))
    assert second.wait() == 1
    assert "Set outbox_http_port to a free port" in second.text()
    assert running.terminate() == 0


def test_a_relay_whose_database_is_away_lives_and_is_not_ready(probes: Any) -> None:
    running, port = probes(DATABASE="sqlite:////no/such/folder/shop.db")

    running.wait_for("the outbox waits")

    assert probed(port, "readyz") == (503, "starting\n")
    assert probed(port, "livez") == (200, "alive\n")
    assert "celeriac_outbox_up 0.0" in probed(port, "metrics")[1]


def test_a_relay_whose_database_hangs_is_not_alive_until_it_answers(shop: Any) -> None:
    answers, stop = threading.Event(), threading.Event()
    take = shop.outbox.take

    class Hanging:
        """The outbox's rows, once they answer."""

        waiting = staticmethod(shop.outbox.waiting)

        def take(self, most: int, taken_s: float) -> Any:
            answers.wait(20)
            return take(most, taken_s)

    relay = Relay(shop.app, Hanging(), poll_s=0.01)  # type: ignore[arg-type]
    running = threading.Thread(target=relay.run, args=(stop,))
    running.start()
    try:
        assert readiness(relay) == (False, "starting")
        assert liveness(relay, 60.0, time.monotonic() + 59.0) == (True, "alive")
        alive, why = liveness(relay, 60.0, time.monotonic() + 61.0)
        assert (alive, why) == (False, "no progress for 61 s: the database or the broker does not answer")

        answers.set()

        before = time.monotonic()
        wait_until(lambda: relay.moved_at > before and relay.waiting == (0, None))
        assert readiness(relay) == (True, "running")
    finally:
        stop.set()
        answers.set()
        running.join(10)
