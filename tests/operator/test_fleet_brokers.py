"""A broker as pools name it: one name without its password, and TLS with the certificates of a Secret."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from celeriac.exceptions import BrokerUnavailable
from celeriac.wire import control
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


@dataclass(frozen=True)
class TlsRedis:
    """A Redis that only talks TLS, to clients with a certificate of its own authority."""

    port: int
    ca: str
    cert: str
    key: str


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[TlsRedis]:
    redis, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if not redis or not openssl:
        pytest.skip("needs redis-server and openssl")
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
        url=f"rediss://localhost:{tls_redis.port}/0", ca=tls_redis.ca, cert=tls_redis.cert, key=tls_redis.key
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
    import kombu

    from celeriac.broker.eventbus import EventSender

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
