"""What a relay of the outbox tells over HTTP: whether it lives, whether it is ready, and its Prometheus metrics."""

import time
from collections.abc import Iterator, Mapping

from celeriac import __version__
from celeriac.app.base import Celeriac
from celeriac.contrib.outbox import Relay
from celeriac.telemetry.endpoint import Endpoint
from celeriac.telemetry.exposition import Family, labelled, single

#: Beyond its longest pause and the time a publish may take, seconds without progress after which the relay is stuck.
STUCK_S = 60.0

#: Metric names and what they mean.
NAMES: Mapping[str, str] = {
    "celeriac_outbox_published": "Messages published by this relay.",
    "celeriac_outbox_refused": "Times that the broker refused a message of the outbox.",
    "celeriac_outbox_waiting": "Rows that wait in the table, whoever relays them; as of the last count.",
    "celeriac_outbox_oldest_seconds": "Age of the oldest of them in seconds; 0 without any.",
    "celeriac_outbox_up": "1 while database and broker answer.",
    "celeriac_build": "What is running.",
}


def liveness(relay: Relay, limit_s: float, now: float) -> tuple[bool, str]:
    """Alive: it has taken, published or waited within the limit. Whether database and broker answer plays no part, as long as they do not hang."""
    quiet_s = now - relay.moved_at
    stuck = quiet_s > limit_s
    return (
        not stuck,
        f"no progress for {quiet_s:.0f} s: the database or the broker does not answer" if stuck else "alive",
    )


def readiness(relay: Relay) -> tuple[bool, str]:
    """Ready: it has read its table."""
    return relay.started, "running" if relay.started else "starting"


def endpoint(app: Celeriac, relay: Relay, *, poll_s: float) -> Endpoint:
    """The HTTP endpoint at outbox_http_port, not yet started. Raises ImproperlyConfigured for a port that is taken."""
    limit_s = STUCK_S + poll_s + app.conf.task_publish_timeout
    return Endpoint(
        app.conf.worker_http_host,
        app.conf.outbox_http_port,
        livez=lambda: liveness(relay, limit_s, time.monotonic()),
        readyz=lambda: readiness(relay),
        metrics=lambda: families(relay),
        setting="outbox_http_port",
    )


def families(relay: Relay) -> Iterator[Family]:
    """What a scrape gets."""
    yield single("celeriac_outbox_published", "counter", NAMES["celeriac_outbox_published"], relay.published)
    yield single("celeriac_outbox_refused", "counter", NAMES["celeriac_outbox_refused"], relay.refused)
    gauges = [("celeriac_outbox_up", float(relay.healthy))]
    if relay.waiting is not None:
        rows, oldest_s = relay.waiting
        gauges += [("celeriac_outbox_waiting", float(rows)), ("celeriac_outbox_oldest_seconds", oldest_s or 0.0)]
    for name, value in gauges:
        yield single(name, "gauge", NAMES[name], value)
    yield labelled("celeriac_build", "info", NAMES["celeriac_build"], "version", {__version__: 1.0})
