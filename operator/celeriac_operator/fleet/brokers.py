"""One broker that pools name, and the three conversations the operator has with it: depths, events, commands."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from celeriac.broker.connection import BrokerAddress, redacted
from celeriac.broker.coordination import Coordination
from celeriac.broker.depth import DepthProbe, QueueDepth
from celeriac.broker.eventbus import EventReceiver
from celeriac.broker.mailbox import Mailbox
from celeriac.exceptions import ImproperlyConfigured
from celeriac_operator.fleet.control import Post
from celeriac_operator.fleet.ears import Receiver
from celeriac_operator.fleet.management import Management

#: Seconds of silence after which a receiver tries whether it still hears: see `celeriac.broker.eventbus`.
PING_EVERY_S = 10.0
#: Seconds that each step of sending a command to a Redis may take, which is tried twice: the tick waits, and says it again.
COMMAND_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTarget:
    """Where a broker is and how to speak to it. Two pools with equal targets share one loop and its connections.

    management_url   RabbitMQ's management API, "" when unset.
    key_prefix       kombu's `global_keyprefix` (Redis). ca, cert, key: PEM text, "" when unset.
    """

    url: str = field(repr=False)
    management_url: str = field(default="", repr=False)
    key_prefix: str = ""
    ca: str = field(default="", repr=False)
    cert: str = field(default="", repr=False)
    key: str = field(default="", repr=False)

    @property
    def has_certificates(self) -> bool:
        return bool(self.ca or self.cert or self.key)

    def check(self) -> None:
        """Raises ImproperlyConfigured for a URL that no broker can have."""
        try:
            for url in self.url.split(";"):
                _ = (BrokerAddress(url=url).scheme, urlsplit(url).port)
        except ValueError as error:
            raise ImproperlyConfigured(
                f"broker URL {redacted(self.url)!r} cannot be read: {error} (for example redis://host:6379/0)"
            ) from error

    @property
    def name(self) -> str:
        """Host, port and database: for logs and labels, so without user and password."""
        first = self.url.split(";")[0]
        parts = urlsplit(first)
        host = parts.netloc.rpartition("@")[2]
        path = parts.path if parts.path not in ("", "/", "/0") else ""
        prefix = f" {self.key_prefix}" if self.key_prefix else ""
        return f"{host}{path}{prefix}" if host else redacted(first)


class Probe(Protocol):
    """What reads the queues: `celeriac.broker.depth.DepthProbe`, or a test's table."""

    def probe(self, queues: Mapping[str, float]) -> Mapping[str, QueueDepth]: ...

    def release_due(self, queues: Sequence[str]) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSide:
    """The conversations with one broker. Each object is used by one thread only.

    management     what RabbitMQ tells besides, where its URL was given.
    rates          where the broker keeps rates for all workers; None where it cannot.
    certificates   the directory their TLS files are in, while there are any.
    """

    probe: Probe
    receiver: Receiver
    post: Post
    management: Management | None = None
    rates: Coordination | None = None
    certificates: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """End what the tick uses; the receiver is closed by the thread that hears it."""
        self.probe.close()
        self.post.close()
        if self.management is not None:
            self.management.close()
        if self.certificates is not None:
            self.certificates.cleanup()


def connect(target: BrokerTarget) -> BrokerSide:
    """The real ones. Nothing is sent before the first use, so a broker that is down costs a tick and not the start.

    Raises OSError when the certificates cannot be written, ImproperlyConfigured when the URL cannot be used.
    """
    options: dict[str, Any] = {"global_keyprefix": target.key_prefix} if target.key_prefix else {}
    certificates = tempfile.TemporaryDirectory(prefix="celeriac-tls-") if target.has_certificates else None
    try:
        ssl = _ssl(target, Path(certificates.name)) if certificates else None
        management = None
        if target.management_url:
            ca = str(Path(certificates.name) / _file("ca_certs")) if certificates and target.ca else ""
            management = Management(target.management_url, broker_url=target.url, ca=ca)
        address = BrokerAddress(url=target.url, transport_options=options, ssl=ssl)
        patience = {"socket_timeout": COMMAND_S} if address.is_redis else {}
        return BrokerSide(
            probe=DepthProbe(target.url, transport_options=options, ssl=ssl),
            receiver=EventReceiver(target.url, transport_options=options, ssl=ssl, ping_every_s=PING_EVERY_S),
            post=Mailbox(target.url, transport_options={**options, **patience}, ssl=ssl),
            management=management,
            rates=_rates(address),
            certificates=certificates,
        )
    except BaseException:
        if certificates is not None:
            certificates.cleanup()
        raise


def _rates(address: BrokerAddress) -> Coordination | None:
    """Where the broker keeps rates. (A coordination store of the workers' own, beside RabbitMQ, is not known here.)"""
    return Coordination(address, lease_s=30.0, revoke_ttl_s=0.0) if address.is_redis else None


def _ssl(target: BrokerTarget, folder: Path) -> dict[str, str]:
    """The transport's TLS options. Redis and AMQP clients read certificates from files only: ours to read alone."""
    prefix = "" if target.url.startswith(("amqp", "pyamqp")) else "ssl_"
    options: dict[str, str] = {}
    for name, text in (("ca_certs", target.ca), ("certfile", target.cert), ("keyfile", target.key)):
        if text:
            path = folder / _file(name)
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
            options[prefix + name] = str(path)
    return options


def _file(option: str) -> str:
    return f"{option}.pem"
