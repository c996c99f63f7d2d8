"""TLS to RabbitMQ: whom a client takes for its broker. The server here speaks TLS, and no AMQP."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import identity

from celeriac.broker.connection import BrokerAddress, connect
from celeriac.exceptions import BrokerUnavailable


class Door:
    """Shakes hands, and closes."""

    def __init__(self, key: Path, certificate: Path) -> None:
        self.greeted = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            with plain:
                try:
                    with self._context.wrap_socket(plain, server_side=True) as secure:
                        self.greeted += bool(secure.recv(8))
                except (ssl.SSLError, OSError):
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(*identity(tmp_path, "localhost", names=("localhost",)))
    yield door
    door.close()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        pytest.param("amqps://localhost:{port}//", None, "certificate verify failed", id="of nobody known"),
        pytest.param("amqp://localhost:{port}//", True, "certificate verify failed", id="of nobody known, by the setting"),
        pytest.param("amqps://127.0.0.1:{port}//", {"ca_certs": "{ca}"}, "certificate verify failed", id="of another host"),
        pytest.param("amqps://localhost:{port}//", {"ca_certs": "{ca}"}, None, id="of this host"),
        pytest.param("amqps://127.0.0.1:{port}//", {"ca_certs": "{ca}", "server_hostname": "localhost"}, None, id="of the host that was named"),
        pytest.param("amqps://127.0.0.1:{port}//", {"cert_reqs": ssl.CERT_NONE}, None, id="whoever it is"),
    ],
)  # fmt: skip
def test_a_certificate_must_be_of_somebody_known_and_of_that_host(
    door: Door, tmp_path: Path, url: str, options: Any, says: str | None
) -> None:
    if isinstance(options, dict):
        options = {
            name: str(tmp_path / "localhost.pem") if value == "{ca}" else value for name, value in options.items()
        }

    with pytest.raises(BrokerUnavailable) as refused:  # at the latest when no AMQP comes
        connect(BrokerAddress(url=url.format(port=door.port), ssl=options, connect_timeout_s=2.0))

    assert ("certificate verify failed" in str(refused.value)) is (says is not None)
    assert (door.greeted > 0) is (says is None)
