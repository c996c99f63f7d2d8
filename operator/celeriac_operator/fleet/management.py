"""What RabbitMQ tells over its management API and not over AMQP: messages in flight, and the age of the oldest.

One request a tick reads all queues of the virtual host. The figures are those of RabbitMQ's last look at its queues
(every 5 s by default), which is why ready messages are still asked for over AMQP: a burst is seen at once.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import orjson
import urllib3

from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import ImproperlyConfigured

#: Seconds to connect and to wait for the answer: a tick should not hang on figures that it can do without.
TIMEOUT_S = 3.0
_COLUMNS = "name,messages_unacknowledged,consumers,head_message_timestamp"


class ManagementUnavailable(Exception):
    """The management API did not tell; the message says why, without a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """One queue. unacked: delivered and not acknowledged. oldest_sent_at: epoch seconds, where publishers tell it."""

    unacked: int = 0
    consumers: int | None = None
    oldest_sent_at: float | None = None


class Management:
    """The management API beside one broker.

    url          http(s)://user:password@host:port, without a path or with the one it is served under.
    broker_url   names the virtual host.
    ca           a file of PEM certificates to trust, "" for the system's.
    Raises ImproperlyConfigured for a URL that cannot be one.
    """

    def __init__(self, url: str, *, broker_url: str, ca: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImproperlyConfigured(
                f"the management URL begins with {parts.scheme or 'nothing'}://: write http://user:password@host:15672"
            )
        try:
            port = f":{parts.port}" if parts.port else ""
        except ValueError as error:
            raise ImproperlyConfigured(f"the management URL of {parts.hostname}: {error}") from error
        vhost = unquote(urlsplit(broker_url.split(";", maxsplit=1)[0]).path.removeprefix("/")) or "/"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.name = f"{host}{port}"
        root = f"{parts.scheme}://{self.name}{parts.path.rstrip('/').removesuffix('/api')}"
        self._url = f"{root}/api/queues/{quote(vhost, safe='')}?columns={_COLUMNS}"
        user = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
        self._headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
        timeout = urllib3.Timeout(connect=TIMEOUT_S, read=TIMEOUT_S)
        self._pool = urllib3.PoolManager(timeout=timeout, ca_certs=ca or None)

    def read(self) -> dict[str, QueueFacts]:
        """Every queue of the virtual host. Raises ManagementUnavailable."""
        try:
            answer = self._pool.request("GET", self._url, headers=self._headers, retries=False, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ManagementUnavailable(f"the management API at {self.name} does not answer: {error}") from error
        if answer.status != 200:
            hint = {401: ": wrong user or password", 403: ": the user needs the tag `monitoring`"}.get(
                answer.status, ""
            )
            raise ManagementUnavailable(f"the management API at {self.name} answers {answer.status}{hint}")
        try:
            return {row["name"]: _facts(row) for row in orjson.loads(answer.data)}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ManagementUnavailable(f"{self.name} answers, but not as RabbitMQ's management API does") from error

    def close(self) -> None:
        self._pool.clear()


def with_facts(depths: Mapping[str, QueueDepth], facts: Mapping[str, QueueFacts]) -> dict[str, QueueDepth]:
    """The depths read over AMQP, with what the management API knows of the same queues. Pure."""
    return {name: _joined(depth, facts.get(name)) for name, depth in depths.items()}


def _joined(depth: QueueDepth, facts: QueueFacts | None) -> QueueDepth:
    if facts is None or depth.error:
        return depth
    return replace(
        depth,
        leased=max(depth.leased, facts.unacked),
        consumers=facts.consumers if depth.consumers is None else depth.consumers,
        # What is not waiting has no age, whatever the older of the two answers said.
        oldest_sent_at=facts.oldest_sent_at if depth.ready and depth.oldest_sent_at is None else depth.oldest_sent_at,
    )


def _facts(row: Mapping[str, Any]) -> QueueFacts:
    sent_at = row.get("head_message_timestamp")
    return QueueFacts(
        unacked=int(row.get("messages_unacknowledged") or 0),
        consumers=int(row["consumers"]) if isinstance(row.get("consumers"), int) else None,
        oldest_sent_at=float(sent_at) if isinstance(sent_at, int | float) else None,
    )
