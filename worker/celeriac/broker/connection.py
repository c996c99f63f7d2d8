"""Connections to a broker: opened from a URL, with errors that name the URL without its password."""

import logging
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import kombu
from kombu.exceptions import KombuError

from celeriac.broker.plan import USUAL_PLAN, QueuePlan
from celeriac.config.secret import redacted
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured

log = logging.getLogger(__name__)

#: Schemes that kombu knows under another name.
_ALIASES = {"valkey": "redis", "valkeys": "rediss"}
REDIS_SCHEMES = frozenset({"redis", "rediss", "valkey", "valkeys", "redis+socket", "valkey+socket", "sentinel"})
#: The extra `redis`: ours are the first two, kombu's transport needs the third.
_REDIS_NEEDS = ("redis", "hiredis", "packaging")
#: A server that takes a TLS handshake does so in less.
_HANDSHAKE_S = 1.0
#: What True means there: kombu takes no True for Redis, and would connect without TLS.
_REDIS_TLS = {"ssl_cert_reqs": "required"}
_REDIS_TLS_SCHEMES = frozenset({"rediss", "valkeys"})
AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
MEMORY_SCHEMES = frozenset({"memory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker is and how to talk to it. Several URLs, separated by `;`, are tried in turn.

    delay_queue_type  of the queues in which RabbitMQ keeps what is not due, should they have to be declared: quorum or classic.
    failover          in which order several URLs are tried: round-robin, shuffle or a function of the list. login_method: AMQP's.
    plan              how queues are declared.
    """

    url: str
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    ssl: Any = None
    connect_timeout_s: float = 4.0
    heartbeat_s: float = 0.0
    delay_queue_type: str = "quorum"
    failover: Any = None
    login_method: str | None = None
    plan: QueuePlan = USUAL_PLAN

    @property
    def scheme(self) -> str:
        """The first URL's scheme. Raises ImproperlyConfigured when there is none that we know."""
        scheme = urlsplit(self.url.split(";")[0]).scheme.lower()
        if scheme not in REDIS_SCHEMES | AMQP_SCHEMES | MEMORY_SCHEMES:
            known = ", ".join(sorted(REDIS_SCHEMES | AMQP_SCHEMES | MEMORY_SCHEMES))
            raise ImproperlyConfigured(
                f"broker URL {redacted(self.url)!r} has the scheme {scheme!r}; use one of: {known} (for example redis://host:6379/0)"
            )
        return scheme

    @property
    def is_redis(self) -> bool:
        """Redis or Valkey, by whatever road."""
        return self.scheme in REDIS_SCHEMES

    @property
    def is_memory(self) -> bool:
        """In this process: for tests. `memory:///name` is a broker of its own, `memory://` is kombu's, which the whole process shares."""
        return self.scheme in MEMORY_SCHEMES


def check_installed(what: str, url: str | None) -> None:
    """Raise ImproperlyConfigured when the URL is a Redis's or a Valkey's and what talks to those is not installed: it is an extra.

    what  names the URL in the error, such as `result_backend`.
    """
    if not url or urlsplit(url.split(";")[0]).scheme.lower() not in REDIS_SCHEMES:
        return
    missing = [name for name in _REDIS_NEEDS if find_spec(name) is None]
    if missing:
        raise ImproperlyConfigured(
            f"{what} {redacted(url)!r} needs {', '.join(missing)}, not installed: pip install 'celeriac[redis]'"
        )


def connect(address: BrokerAddress) -> kombu.Connection:
    """An open kombu connection. Raises BrokerUnavailable or ImproperlyConfigured."""
    _refuse_tls_to_a_plain_port(address)
    with broker_errors(address):
        connection = unopened(address)
        try:
            connection.ensure_connection(
                max_retries=max(1, address.url.count(";")),
                interval_start=0,
                interval_step=0.1,
                reraise_as_library_errors=False,
            )
        except BaseException:
            connection.release()
            raise
        return connection


def unopened(address: BrokerAddress) -> kombu.Connection:
    """A kombu connection that connects when it is used. Raises ImproperlyConfigured when what it needs is not installed."""
    check_installed("broker URL", address.url)
    options = dict(address.transport_options)
    if address.is_memory and (name := urlsplit(address.url).path.strip("/")):
        from celeriac.broker.transport.memory import Transport  # for tests: no client waits for its import

        return kombu.Connection(transport=Transport, virtual_host=name, transport_options=options)
    if address.is_redis:
        options.setdefault("socket_connect_timeout", address.connect_timeout_s)
        options.setdefault("socket_timeout", max(10.0, address.connect_timeout_s))
        options.setdefault("socket_keepalive", True)
    elif not address.is_memory:
        # A broker that has fallen silent must not hold a publish, a settlement or a shutdown for ever.
        options.setdefault("read_timeout", 10)
        options.setdefault("write_timeout", 10)
    url = re.sub(
        r"(^|;)(valkeys?)(\+socket)?://",
        lambda found: f"{found[1]}{_ALIASES[found[2]]}{found[3] or ''}://",
        address.url,
    )
    return kombu.Connection(
        url,
        ssl=_tls(address),
        failover_strategy=address.failover or "round-robin",
        login_method=address.login_method,
        transport_options=options,
        connect_timeout=address.connect_timeout_s,
        heartbeat=address.heartbeat_s or None,
    )


def _tls(address: BrokerAddress) -> Any:
    """What kombu wants to hear of TLS; what the URL says itself stands above it.

    Left alone, kombu verifies no certificate of a rediss:// and no host name of an amqps:// (but for a list of them, where it would compare
    each with the first one's name).
    """
    given = address.ssl
    if address.is_redis:
        return _REDIS_TLS if given is True or (not given and address.scheme in _REDIS_TLS_SCHEMES) else given
    if address.is_memory or ";" in address.url or not (given or address.scheme == "amqps"):
        return given
    named = given if isinstance(given, Mapping) else {}
    verifies = named.get("cert_reqs", ssl.CERT_REQUIRED) != ssl.CERT_NONE
    host = urlsplit(address.url).hostname  # kombu's own would be 127.0.0.1 for localhost
    return {"server_hostname": host, **named} if verifies and host else given


def _refuse_tls_to_a_plain_port(address: BrokerAddress) -> None:
    """Raise BrokerUnavailable when a Redis without TLS answers where TLS is asked for.

    It would wait for the rest of what it takes for a command, and redis-py for its answer, for 20 seconds in all.
    """
    parts = urlsplit(address.url)
    if ";" in address.url or address.scheme not in {"rediss", "valkeys"} or not parts.hostname:
        return
    port = parts.port or 6379
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # only whether it speaks TLS: kombu's connection verifies
    try:
        with socket.create_connection((parts.hostname, port), timeout=address.connect_timeout_s) as plain:
            plain.settimeout(_HANDSHAKE_S)
            with context.wrap_socket(plain, server_hostname=parts.hostname):
                return
    except (OSError, ValueError) as error:
        log.debug("no TLS handshake with %s:%d: %s", parts.hostname, port, error)
    try:
        with socket.create_connection((parts.hostname, port), timeout=address.connect_timeout_s) as plain:
            plain.settimeout(_HANDSHAKE_S)
            plain.sendall(b"PING\r\n")
            answer = plain.recv(16)
    except OSError:
        return  # whatever it is, the connection proper tells
    if answer[:1] in (b"+", b"-"):
        raise BrokerUnavailable(
            f"cannot reach the broker at {redacted(address.url)}: port {port} of {parts.hostname} is a Redis without TLS"
            f" (use {'redis' if address.scheme == 'rediss' else 'valkey'}://, or the port on which its tls-port is set)"
        )


def let_go(connection: kombu.Connection) -> None:
    """Close a connection that may be broken, without a farewell: the broker may have fallen silent."""
    try:
        connection.collect()
    except recoverable() as error:  # nothing more to free
        log.debug("letting a broken connection go: %s", error)
    except AttributeError as error:  # py-amqp, when the socket went away between two of its steps
        log.debug("letting a half-closed connection go: %s", error)


@contextmanager
def broker_errors(address: BrokerAddress) -> Iterator[None]:
    """Turn what kombu, py-amqp, redis-py and sockets raise into BrokerUnavailable, with `from`."""
    try:
        yield
    except recoverable() as error:
        if isinstance(error, BrokerUnavailable):
            raise
        raise unavailable(address, error) from error
    except (ValueError, KeyError, ImportError) as error:  # kombu reads a URL as it connects
        if isinstance(error, BrokerUnavailable | ImproperlyConfigured):
            raise
        if "cast to integer" in str(error):  # urllib takes what stands before the / for a port, and shows it
            raise ImproperlyConfigured(
                f"broker URL {redacted(address.url)!r} cannot be used: its port is no number; in a password write / ? # and @ as %2F %3F %23 and %40"
            ) from None
        raise ImproperlyConfigured(
            f"broker URL {redacted(address.url)!r} cannot be used: {redacted(str(error))}"
        ) from error


def unavailable(address: BrokerAddress, error: BaseException) -> BrokerUnavailable:
    """The error to raise for a broker that did not answer."""
    return BrokerUnavailable(
        f"cannot reach the broker at {redacted(address.url)}: {redacted(str(error)) or type(error).__name__}"
        " (is it running, and are host, port and credentials right?)"
    )


@cache
def recoverable() -> tuple[type[BaseException], ...]:
    """What a broken connection raises, whatever the broker; for `except recoverable()`.

    A function, because redis-py is slow to import and a client should not pay for it before it connects.
    """
    from amqp.exceptions import AMQPError

    kinds: list[type[BaseException]] = [OSError, EOFError, KombuError, AMQPError, BrokerUnavailable]
    try:
        from redis.exceptions import RedisError  # an extra: RabbitMQ users do without

        kinds.append(RedisError)
    except ImportError:
        return tuple(kinds)
    return tuple(kinds)


def described(address: BrokerAddress) -> dict[str, Any]:
    """What Celery's stats shows of a broker; without secrets."""
    info = dict(kombu.Connection(address.url.split(";")[0], connect_timeout=address.connect_timeout_s).info())
    return {
        name: value if value is None or isinstance(value, bool | int | float | str | list) else redacted(repr(value))
        for name, value in info.items()
        if name not in {"password", "credential_provider", "transport_options"}
    }


__all__ = [
    "AMQP_SCHEMES",
    "MEMORY_SCHEMES",
    "REDIS_SCHEMES",
    "BrokerAddress",
    "broker_errors",
    "connect",
    "described",
    "let_go",
    "recoverable",
    "redacted",  # who connects shows where to
    "unavailable",
]
