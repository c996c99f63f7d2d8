"""The roads to a Redis: TLS, a Unix socket, Valkey's names, Sentinel with a fail-over in the middle of work, a prefix for every key."""

import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, claim, numbers
from missing import give_up, program
from processes import Child, wait_until
from servers import Missing, RedisServer, ValkeyServer, free_port
from sites import Site

from celeriac import Celeriac
from celeriac.broker.connection import BrokerAddress, connect
from celeriac.broker.consumer import Settled
from celeriac.exceptions import BrokerUnavailable


class Behind(RedisServer):
    """A Redis with more options than its port: `Behind(folder, "--unixsocket x")`."""

    def __init__(self, options: str = "") -> None:
        super().__init__(lasting=False)
        self.options = options.split()

    def _command(self) -> list[str]:
        flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        return [self.program, *flags, *self.options]

    def _answers(self) -> bool:
        return self.child is not None and "Ready to accept connections" in self.child.text()


@pytest.fixture
def start() -> Iterator[Callable[[str], Behind]]:
    """Starts a server with these options; it ends with the test."""
    servers: list[Behind] = []

    def begin(options: str = "") -> Behind:
        try:
            servers.append(Behind(options))
        except Missing as missing:
            give_up(str(missing))
        servers[-1].start()
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def assert_works(broker: Broker) -> None:
    """A message wakes an idle consumer, is claimed, and settled."""
    with broker.closing:
        consumer = broker.consumer()
        assert consumer.claim(2) == []
        listening = consumer.fileno()
        assert listening is not None
        broker.publish(1, 2)
        assert select.select([listening], [], [], 5)[0]
        deliveries = claim(consumer, 2)
        assert numbers(deliveries) == [1, 2]
        consumer.settle([Settled(delivery) for delivery in deliveries])
        assert consumer.claim(1) == []
        depth = broker.depth()
        assert (depth.ready, depth.leased, depth.error) == (0, 0, "")


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_over_tls(scheme: str, tmp_path: Path, start: Callable[[str], Behind]) -> None:
    openssl = program("openssl", "openssl")
    make = "req -x509 -newkey rsa:2048 -nodes -keyout own.key -out own.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([openssl, *make.split()], cwd=tmp_path, check=True, capture_output=True)
    port = free_port()
    start(
        f"--tls-port {port} --tls-cert-file {tmp_path}/own.pem --tls-key-file {tmp_path}/own.key --tls-auth-clients no"
    )

    assert_works(Broker(kind="redis", url=f"{scheme}://localhost:{port}/0?ssl_ca_certs={tmp_path}/own.pem"))
    assert_works(Broker(kind="redis", url=f"{scheme}://localhost:{port}/0?ssl_cert_reqs=none"))
    for refused in (f"localhost:{port}/0", f"127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/own.pem"):
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate verify failed"):
            connect(BrokerAddress(url=f"{scheme}://{refused}"))


@pytest.mark.parametrize("scheme", ["redis+socket", "valkey+socket"])
def test_over_a_unix_socket(scheme: str, tmp_path: Path, start: Callable[[str], Behind]) -> None:
    start(f"--unixsocket {tmp_path}/redis.sock")

    assert_works(Broker(kind="redis", url=f"{scheme}://{tmp_path}/redis.sock"))


def test_valkey_by_its_own_name(valkey_server: ValkeyServer) -> None:
    assert_works(Broker(kind="valkey", url=valkey_server.url.replace("redis://", "valkey://")))


@pytest.mark.parametrize(("scheme", "instead"), [("rediss", "redis://"), ("valkeys", "valkey://")])
def test_tls_to_a_port_without_it_fails_at_once_and_says_so(
    scheme: str, instead: str, start: Callable[[str], Behind]
) -> None:
    url = start("").url.replace("redis://", f"{scheme}://:hunter2@")
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable, match=f"without TLS .use {instead}") as refused:
        connect(BrokerAddress(url=url))

    assert time.monotonic() - began < 3
    assert "hunter2" not in str(refused.value)


def test_tls_to_something_else_is_still_a_plain_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = BrokerAddress(
            url=f"rediss://127.0.0.1:{port}/0", transport_options={"socket_timeout": 0.5}, connect_timeout_s=0.5
        )
        with pytest.raises(BrokerUnavailable, match="cannot reach the broker"):
            connect(address)


def test_every_key_and_channel_is_below_the_prefix(start: Callable[[str], Behind], tmp_path: Path) -> None:
    server = start("")
    site = Site(broker=server.url, backend=None, server=server, folder=tmp_path)
    options = '{"global_keyprefix": "shop:"}'
    with site.closing, server.client() as client, client.pubsub() as ear:
        ear.psubscribe("*")
        app = site.client()
        app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
        worker = site.worker("-P", "solo", broker_transport_options=options)
        for number in range(3):
            app.send_task("jobs.work", (number, 0.0))
        app.send_task("jobs.work", (3, 0.0), countdown=0.2)
        wait_until(lambda: len(site.ledger.ends()) == 4)
        keys, channels = set(client.scan_iter()), client.pubsub_channels()
        assert worker.terminate() == 0

    assert keys
    assert [key for key in keys if not key.startswith("shop:")] == []
    assert channels
    assert [name for name in channels if not name.startswith("shop:")] == []


@pytest.fixture
def sentinel(start: Callable[[str], Behind], tmp_path: Path) -> Iterator[tuple[str, Behind, Behind]]:
    """(its URL, the master it names, a replica of that). Fails over within two seconds or so."""
    master = start("")
    replica = start(f"--replicaof 127.0.0.1 {master.port}")
    port = free_port()
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor shop 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 2000\n"
    )
    child = Child([master.program, settings, "--sentinel"], log=tmp_path / "sentinel.log")
    try:
        child.wait_for("+slave")  # it knows the replica
        with replica.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        yield f"sentinel://127.0.0.1:{port}", master, replica
    finally:
        child.kill()


def test_a_fail_over_in_the_middle_of_work_loses_nothing_that_was_replicated(
    sentinel: tuple[str, Behind, Behind], tmp_path: Path
) -> None:
    url, master, replica = sentinel
    options: dict[str, Any] = {"master_name": "shop"}
    site = Site(broker=url, backend=None, server=None, folder=tmp_path)
    with site.closing:
        app = Celeriac(
            "client", broker=url, broker_transport_options=options, task_publish_timeout=20, set_as_current=False
        )
        site.closing.callback(app.close)
        worker = site.worker("-P", "threads", "-c", "4", broker_transport_options='{"master_name": "shop"}')
        for number in range(60):
            app.send_task("jobs.work", (number, 0.1))
        wait_until(lambda: len(site.ledger.ends()) >= 8)

        with master.client() as client:
            # What Redis has not sent to its replica when it dies is lost: it replicates asynchronously. Here it has sent all of it.
            assert client.wait(1, 2000) == 1
        master.kill()
        for number in range(60, 70):
            app.send_task("jobs.work", (number, 0.0))
        wait_until(lambda: len(site.ledger.ends()) == 70, timeout_s=40, what="all tasks to end on the new master")

        assert worker.returncode is None
        with replica.client() as client:
            wait_until(lambda: client.hlen("unacked") == 0)
            assert client.info("replication")["role"] == "master"
            assert (client.llen("celery"), client.llen("celery.dead")) == (0, 0)
        assert worker.terminate() == 0


def test_in_cluster_mode_a_prefix_in_braces_keeps_all_keys_in_one_slot(
    start: Callable[[str], Behind], tmp_path: Path
) -> None:
    server = start("--cluster-enabled yes --cluster-config-file nodes.conf")
    site = Site(broker=server.url, backend=None, server=server, folder=tmp_path)
    with site.closing, server.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        app = site.client()
        app.conf.broker_transport_options = {"global_keyprefix": "{shop}:"}
        worker = site.worker(
            "-P", "solo", "-Q", "celery,other", broker_transport_options='{"global_keyprefix": "{shop}:"}'
        )
        app.send_task("jobs.work", (0, 0.0))
        app.send_task("jobs.work", (1, 0.0), countdown=0.2)
        app.send_task("jobs.work", (2, 0.0), queue="other")
        wait_until(lambda: len(site.ledger.ends()) == 3)
        wait_until(lambda: client.hlen("{shop}:unacked") == 0)
        slots = {client.execute_command("CLUSTER KEYSLOT", key) for key in client.scan_iter()}
        assert worker.terminate() == 0

    assert len(slots) == 1
