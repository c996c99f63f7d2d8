"""The coordination store: what all workers share besides messages, on one Redis or Valkey. Revokes; when periodic tasks last ran; and where
the broker keeps none, the tokens of rates and the places of running calls.

It is the Redis broker itself; else `coordination_url`; else a Redis result store; else there is none.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from celeriac.broker.connection import REDIS_SCHEMES, BrokerAddress, check_installed, connect, recoverable, redacted
from celeriac.exceptions import BackendUnavailable, ImproperlyConfigured
from celeriac.policy.drain import FORGOTTEN_S
from celeriac.policy.ratelimit import SLACK_S

#: Revoked ids kept at once; the oldest go first.
MOST_REVOKED = 50_000
_AT_ONCE = 1000


class Place(NamedTuple):
    """A running call's place among those that may run at once. id: of the bound, its task or task and key; holder: who runs."""

    id: str
    holder: str


class TokenAsk(NamedTuple):
    """Calls of one line that want to start.

    rate       id of the rate, per_s starts a second (0: any). place: id of the bound on running calls, most at once (0: any).
    calls      how many want to. holders: what their holders' names begin with; a number from 1 follows.
    """

    rate: str
    per_s: float
    place: str
    most: int
    calls: int
    holders: str


class Granted(NamedTuple):
    """How many of them may. wait_s: seconds until the next may; None: as soon as a running call has ended."""

    calls: int
    wait_s: float | None


class Coordination:
    """One store; connects at the first use. Safe to use from several threads. Each call raises BackendUnavailable."""

    def __init__(self, address: BrokerAddress, *, lease_s: float, revoke_ttl_s: float) -> None:
        self._address = address
        self._lease_s = lease_s
        self._revoke_ttl_s = revoke_ttl_s
        self._lock = threading.Lock()
        self._connection: Any = None
        self._scripts: dict[str, Any] = {}
        self._prefix = ""
        #: The server's time up to which revokes were read.
        self._read_until = 0.0

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return redacted(self._address.url)

    # -- revokes

    def revoke(self, ids: Iterable[str]) -> None:
        """Keep these task ids as revoked, for as long as `task_revoke_expires` says."""
        wanted = list(ids)
        for start in range(0, len(wanted), _AT_ONCE):
            self._call("revoke", self._revoke_ttl_s, MOST_REVOKED, *wanted[start : start + _AT_ONCE])

    def newly_revoked(self) -> dict[str, float]:
        """Ids revoked since the last call, by anyone: id -> seconds since the epoch until which it is."""
        # Some seconds again: after a fail-over the new server's clock may be behind.
        read_at, *flat = self._call("revoked", self._read_until - 5.0)
        self._read_until = float(read_at)
        now = time.time()
        left = {flat[n].decode(): self._revoke_ttl_s - float(flat[n + 1]) for n in range(0, len(flat), 2)}
        return {task_id: now + left_s for task_id, left_s in left.items() if left_s > 0}

    # -- unique calls

    def hold(self, key: str, task_id: str, for_s: float) -> str | None:
        """Take a unique call's key for so many seconds; the id of the call that holds it already, None: it is taken now."""
        held = self._call("hold_key", key, task_id, int(for_s * 1000))
        return held.decode() if held else None

    def let_go(self, held: Sequence[tuple[str, str]]) -> None:
        """Let go of these (key, id); what another call holds meanwhile stays."""
        for start in range(0, len(held), _AT_ONCE):
            self._call("let_go", *(part for pair in held[start : start + _AT_ONCE] for part in pair))

    # -- rates that the operator keeps

    def set_rate(self, task: str, per_s: float | None, by: str, *, epoch: int = 0) -> bool:
        """Have every worker keep this rate for the cluster, those included that start later; None lifts what the same `by` has set.

        epoch   counts the leaders that speak for `by`. False: a newer one has spoken of late, so nothing was done.
        """
        rate = "" if per_s is None else repr(float(per_s))
        return int(self._call("set_rate", task, rate, by, epoch, int(FORGOTTEN_S))) >= 0

    def rates(self) -> dict[str, tuple[float, str]]:
        """task -> (starts a second, who set it)."""
        flat = [part.decode() for part in self._call("rates")]
        found: dict[str, tuple[float, str]] = {}
        for task, value in zip(flat[::2], flat[1::2], strict=True):
            per_s, _, by = value.partition(" ")
            found[task] = (float(per_s), by)
        return found

    # -- rates and places

    def take(self, asks: Sequence[TokenAsk], now: float) -> list[Granted]:
        """For each, how many may start; in one round trip. Whoever starts holds its place for a lease. now: not used, the server's counts."""
        flat = self._call("take", self._lease_s, SLACK_S, *(value for ask in asks for value in ask))
        return [Granted(int(flat[n]), float(flat[n + 1]) if flat[n + 1] else None) for n in range(0, len(flat), 2)]

    def renew(self, places: Sequence[Place]) -> None:
        """Hold these for a lease from now on."""
        for start in range(0, len(places), _AT_ONCE):
            self._call("renew", self._lease_s, *(part for place in places[start : start + _AT_ONCE] for part in place))

    def release(self, places: Sequence[Place]) -> bool:
        """Let go of these; whether messages in the broker's lines may start for it."""
        woken = 0
        for start in range(0, len(places), _AT_ONCE):
            woken += int(self._call("release", *(part for place in places[start : start + _AT_ONCE] for part in place)))
        return woken > 0

    # -- periodic tasks

    def beat(self, name: str, *args: Any) -> Any:
        """What a script of broker/transport/beat.py answers: forget, lasts, claim, confirm, put_off or overdue, with its ARGV after the prefix."""
        return self._call(f"beat_{name}", *args)

    # -- life

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        with self._lock:
            connection, self._connection, self._scripts = self._connection, None, {}
        if connection is not None:
            connection.release()

    def _call(self, name: str, *args: Any) -> Any:
        with self._errors():
            script = self._scripts.get(name) or self._open()[name]
            return script(keys=[], args=[self._prefix, *args])

    def _open(self) -> Mapping[str, Any]:
        with self._lock:
            if not self._scripts:
                check_installed("coordination_url", self._address.url)
                import redis  # an extra

                from celeriac.broker.transport import beat
                from celeriac.broker.transport.limits import (
                    HOLD_KEY,
                    LET_GO,
                    RATES,
                    RELEASE_PLACES,
                    RENEW_PLACES,
                    REVOKE,
                    REVOKED_SINCE,
                    SET_RATE,
                    TAKE,
                )

                connection = connect(self._address)
                channel = connection.default_channel
                client = redis.Redis(
                    connection_pool=channel.pool
                )  # not kombu's: our keys carry their prefix themselves
                self._prefix = channel.global_keyprefix or ""
                self._connection = connection
                texts = {
                    "revoke": REVOKE, "revoked": REVOKED_SINCE, "take": TAKE, "renew": RENEW_PLACES, "release": RELEASE_PLACES,
                    "rates": RATES, "set_rate": SET_RATE, "hold_key": HOLD_KEY, "let_go": LET_GO,
                    **beat.SCRIPTS,
                }  # fmt: skip
                self._scripts = {name: client.register_script(text) for name, text in texts.items()}
            return self._scripts

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except recoverable() as error:
            raise BackendUnavailable(
                f"cannot reach the coordination store at {self.url}: {redacted(str(error)) or type(error).__name__}"
                " (limits and revokes of the whole cluster need it)"
            ) from error


def coordination_address(
    broker: BrokerAddress, *, url: str | None, result_backend: str | None, result_options: Mapping[str, Any]
) -> BrokerAddress | None:
    """Where the coordination store is; None: nowhere. Raises ImproperlyConfigured for a `coordination_url` that is no Redis."""
    if url is not None and _scheme(url) not in REDIS_SCHEMES:
        raise ImproperlyConfigured(
            f"coordination_url {redacted(url)!r} has the scheme {_scheme(url)!r}; it must be a Redis or Valkey (redis://host:6379/0)"
        )
    if broker.is_redis:
        return broker
    if url is not None:
        return BrokerAddress(url=url)
    if result_backend is not None and _scheme(result_backend) in REDIS_SCHEMES:
        return BrokerAddress(url=result_backend, transport_options=result_options)
    return None


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()
