"""A broker as pools name it: one name without its password, and TLS with the certificates of a Secret."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu
import pytest
from missing import program

from celeriac.broker.eventbus import EventReceiver, EventSender
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.wire import control
from celeriac.wire.event import Heartbeat, glance_to_wire, heartbeat_from_wire, heartbeat_to_wire
from celeriac_operator.fleet.brokers import BrokerTarget, connect


@pytest.mark.parametrize(
    ("url", "prefix", "name"),
    [
        ("redis://:hunter2@cache.shop:6379/0", "", "cache.shop:6379"),
        ("redis://user:hunter2@cache.shop:6379/3", "", "cache.shop:6379/3"),
        ("amqps://shop:hunter2@rabbit:5671/orders", "", "rabbit:5671/orders"),
        ("sentinel://:hunter2@a:26379;sentinel://:hunter2@b:26379", "", "a:26379"),
        ("redis://cache:6379/0", "shop:", "cache:6379 shop:"),
    ],
)
def test_a_brokers_name_tells_where_it_is_and_no_password(url, prefix, name):
    target = BrokerTarget(url=url, key_prefix=prefix)

    assert target.name == name
    assert "hunter2" not in repr(target)


@pytest.mark.parametrize(
    "url",
    ["", "broker", "kafka://:hunter2@broker:9092", "redis://[::1/0", "redis://broker:99999/0", "redis://a;kafka://b"],
    ids=["nothing", "a bare word", "a scheme that nobody speaks", "half an address", "no port", "the second one"],
)
def test_a_url_that_no_broker_can_have_is_refused_without_its_password(url):
    target = BrokerTarget(url=url)

    with pytest.raises(ImproperlyConfigured) as refused:
        target.check()

    assert "redis://host:6379/0" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_certificates_that_cannot_be_written_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with pytest.raises(UnicodeEncodeError):
        connect(BrokerTarget(url="rediss://r:6379/0", ca="\udce9"))

    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class TlsRedis:
    """A Redis that only talks TLS, to clients with a certificate of its own authority."""

    port: int
    ca: str
    cert: str
    key: str


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[TlsRedis]:
    redis, openssl = program("redis-server", "redis-server"), program("openssl", "openssl")
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout own.key -out own.csr -subj /CN=localhost",
        "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out own.pem -days 2 -extfile names",
    ):
        subprocess.run([openssl, *command.split()], cwd=tmp_path, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--port 0 --tls-port {port} --tls-cert-file own.pem --tls-key-file own.key --tls-ca-cert-file ca.pem"
    server = subprocess.Popen([redis, *options.split(), "--save", ""], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        yield TlsRedis(
            port=port,
            **{n: (tmp_path / f).read_text() for n, f in (("ca", "ca.pem"), ("cert", "own.pem"), ("key", "own.key"))},
        )
    finally:
        server.terminate()
        server.wait()


def test_the_certificates_of_a_secret_open_a_tls_broker_and_are_gone_afterwards(tls_redis):
    target = BrokerTarget(
        url=f"rediss://localhost:{tls_redis.port}/0",
        ca=f"Autorit\u00e9 de confiance\n{tls_redis.ca}",
        cert=tls_redis.cert,
        key=tls_redis.key,
    )
    side = connect(target)
    assert side.certificates is not None
    folder = Path(side.certificates.name)
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}

    end = time.monotonic() + 5
    while True:
        try:
            depths = side.probe.probe({"mails": 1.0})
            break
        except BrokerUnavailable:
            assert time.monotonic() < end
            time.sleep(0.1)
    side.receiver.drain(0.1)
    side.post.send(control.undrain(epoch=1, destination=["celeriac@nobody"]))
    side.receiver.close()
    side.close()

    assert depths["mails"].ready == 0
    assert modes == {0o600}
    assert not folder.exists()


def test_amqp_and_redis_call_their_certificates_by_their_own_names():
    pem = {"ca": "CA", "cert": "CERT", "key": "KEY"}

    names = {}
    for url in ("rediss://r:6379/0", "amqps://r:5671//"):
        side = connect(BrokerTarget(url=url, **pem))
        names[url] = set(side.probe._address.ssl)
        side.close()

    assert names["rediss://r:6379/0"] == {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
    assert names["amqps://r:5671//"] == {"ca_certs", "certfile", "keyfile"}


@pytest.mark.server("redis")
def test_a_fleet_that_never_stops_talking_is_heard_all_the_same(redis_server):
    side = connect(BrokerTarget(url=redis_server.url))
    side.receiver.drain(0.05)
    stop = threading.Event()

    def talk() -> None:
        with kombu.Connection(redis_server.url) as connection:
            sender = EventSender(connection)
            while not stop.is_set():
                sender.send({"type": "task-started", "hostname": "celeriac@a"})

    talker = threading.Thread(target=talk)
    talker.start()
    began = time.monotonic()
    heard = sum(len(side.receiver.drain(0.2)) for _ in range(3))
    took_s = time.monotonic() - began
    stop.set()
    talker.join()
    side.receiver.close()
    side.close()

    assert heard > 0
    assert took_s < 3.0


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_heartbeat_with_a_glance_in_its_header_comes_unread_and_one_without_is_read(request, kind):
    server = request.getfixturevalue({"redis": "redis_server", "rabbitmq": "rabbitmq"}[kind])
    receiver = EventReceiver(server.url)
    receiver.drain(0.05)
    beat = Heartbeat(hostname="celeriac@a", timestamp=7.5, incarnation="one")
    heard: list[Any] = []
    with kombu.Connection(server.url) as connection:
        sender = EventSender(connection)
        sender.send(heartbeat_to_wire(beat), glance_to_wire(beat))
        sender.send(heartbeat_to_wire(beat))
        sender.send(heartbeat_to_wire(beat), ["of", "another", "form"])
        end = time.monotonic() + 10
        while len(heard) < 3 and time.monotonic() < end:
            heard += receiver.drain(0.2)
    receiver.close()

    unread, *read = heard
    assert unread.glance == ("worker-heartbeat", "one", 7.5, "running")
    assert heartbeat_from_wire(unread.body()) == beat
    assert [heartbeat_from_wire(body) for body in read] == [beat, beat]


class Wire:
    """A TCP relay to a port. What is cut stays open at both ends and carries nothing, as after a firewall's idle timeout."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._ends: list[socket.socket] = []
        self._generation = 0
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._generation += 1

    def close(self) -> None:
        self._door.close()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other, self._generation), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, generation: int) -> None:
        try:
            while data := one.recv(65536):
                if generation == self._generation:
                    other.sendall(data)
            other.close()
        except OSError:
            return


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_ears_whose_connection_died_on_the_way_hear_again_by_themselves(request, kind):
    server = request.getfixturevalue({"redis": "redis_server", "rabbitmq": "rabbitmq"}[kind])
    port = urlsplit(server.url).port
    assert port is not None
    wire = Wire(port)
    options = {"redis": {"socket_timeout": 1.0}, "rabbitmq": {"read_timeout": 1, "write_timeout": 1}}[kind]
    url = server.url.replace(f":{port}", f":{wire.port}")
    receiver = EventReceiver(url, transport_options=options, ping_every_s=0.3)
    heard: list[str] = []
    failures: list[str] = []
    with kombu.Connection(server.url) as connection:
        sender = EventSender(connection)

        def listen(until: str) -> bool:
            end = time.monotonic() + 15
            while until not in heard and time.monotonic() < end:
                try:
                    heard.extend(event["type"] for event in receiver.drain(0.1))
                except BrokerUnavailable as error:
                    failures.append(str(error))
                if receiver._connection is not None and not heard.count(until):
                    sender.send({"type": until, "hostname": "celeriac@a"})
            return until in heard

        assert listen("worker-online")
        quiet_until = time.monotonic() + 1.5
        while time.monotonic() < quiet_until:
            heard.extend(event["type"] for event in receiver.drain(0.1))
        assert failures == []

        wire.cut()

        assert listen("worker-heartbeat")
    receiver.close()
    wire.close()
    assert len(failures) >= 1
    assert "connecting again" in failures[0] or "cannot reach" in failures[0]
    assert set(heard) == {"worker-online", "worker-heartbeat"}
