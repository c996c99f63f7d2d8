"""Which pool has which broker: a BrokerLoop for each broker, started and ended as pools come and go."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from celeriac.broker.connection import redacted
from celeriac.exceptions import ImproperlyConfigured
from celeriac_operator import clock
from celeriac_operator.errors import ClusterError, Forbidden, NotFound
from celeriac_operator.fleet.brokers import BrokerSide, BrokerTarget, connect
from celeriac_operator.fleet.signature import Signature
from celeriac_operator.loop.broker import BrokerLoop
from celeriac_operator.loop.members import STUCK_S, Changes, Cluster, Key, Member, PoolState, Tick, subject_of
from celeriac_operator.loop.restore import Restores
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.resources import rights
from celeriac_operator.resources.records import PoolRecord
from celeriac_operator.resources.spec import SecretKeyRef, SpecError, WorkerPoolSpec
from celeriac_operator.resources.status import fault_status, first_target

log = logging.getLogger("celeriac_operator.loop")

#: Seconds between two looks at which pools there are: at the least, and when nobody pokes. Who leads is asked in between.
FASTEST_LOOK_S = 0.2
LEAD_S = 1.0
ROSTER_S = 5.0
#: Seconds a Secret's value is trusted before it is read again, and before one that could not be read is tried again.
SECRET_TTL_S = 60.0
SECRET_RETRY_S = 5.0


class OperatorLoop:
    """Which pool has which broker, and a BrokerLoop for each: they start and end as pools come and go.

    default_broker_url   for pools that name no broker; None: such a pool gets a condition that says so.
    watch                called after each decision, from the broker's thread: for the live view.
    signature            what commands are signed with, to workers that demand it.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        metrics: OperatorMetrics,
        default_broker_url: str | None = None,
        connect: Callable[[BrokerTarget], BrokerSide] = connect,
        watch: Callable[[Tick], None] | None = None,
        signature: Signature | None = None,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._default = BrokerTarget(url=default_broker_url) if default_broker_url else None
        self._connect = connect
        self._watch = watch
        self._signature = signature
        self._changes = Changes()
        self._lock = threading.Lock()
        self._roster: Mapping[BrokerTarget, Sequence[Member]] = {}
        self._loops: dict[BrokerTarget, BrokerLoop] = {}
        self._retired: list[BrokerLoop] = []
        self._states: dict[Key, tuple[PoolRecord, PoolState]] = {}
        self._restores = Restores(cluster, metrics=metrics, changes=self._changes, progress=self._progress)
        self._secrets: dict[tuple[str, str, str], tuple[str | ClusterError, float]] = {}
        self._targets: dict[BrokerTarget, BrokerTarget] = {}
        self._secrets_used: set[tuple[str, str, str]] = set()
        self._poked: set[Key] = set()
        self._epoch = 0
        self._led = False
        self._led_term = 0  # the cluster's number of the time of leading that the epoch is of
        self._ready = False
        self._progress_at = time.monotonic()
        self._look_at = 0.0
        self._faulted = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every thread. Marks that were set expire in the workers by themselves."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)
        loops = [*self._loops.values(), *self._retired]
        for loop in loops:
            loop.retire()
        for loop in loops:
            loop.stop()

    def poke(self, namespace: str, name: str) -> None:
        """Something about this pool, its target or its pods changed: look again, now."""
        with self._lock:
            self._poked.add((namespace, name))
        self._wake.set()

    def livez(self) -> tuple[bool, str]:
        """Whether every thread lives and ticks, and if not, which one does not."""
        if not self._thread.is_alive():
            return False, "the operator's loop has ended"
        silent_s = time.monotonic() - self._progress_at
        if silent_s > STUCK_S:
            return False, f"the operator's loop has come no further with its pools for {silent_s:.0f} s"
        with self._lock:
            loops = list(self._loops.values())
        faults = [fault for loop in loops if (fault := loop.health())]
        return (False, "; ".join(faults)) if faults else (True, f"{len(loops)} brokers served")

    def readyz(self) -> tuple[bool, str]:
        """Whether the pools have been read once."""
        return (True, "serving") if self._ready else (False, "the pools have not been read yet")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            with self._lock:
                poked, self._poked = self._poked, set()
            if not poked and self._leads_as_before() and time.monotonic() < self._look_at:
                self._wake.wait(LEAD_S)
                continue
            # What is wrong may be put right in a Secret, of which no watch tells.
            self._look_at = time.monotonic() + LEAD_S
            try:
                self.look()
                if not (self._faulted or self._restores.pending):
                    self._look_at = time.monotonic() + ROSTER_S
                for target, members in self._roster.items():
                    if any(member.record.key in poked for member in members):
                        self._loops[target].poke()
                self._progress()
            except ClusterError as error:
                self._metrics.error(type(error).__name__)
                self._changes.failed("reading the pools", str(error))
                self._progress()  # a restart would not bring the API server back
            except Exception:  # nobody else would start or end the brokers' loops
                self._metrics.error("bug")
                log.exception("looking at the pools failed; trying again in %g s", ROSTER_S)
            self._stopping.wait(FASTEST_LOOK_S)

    def _progress(self) -> None:
        """One step is done: many slow ones in a row are no reason to restart."""
        self._progress_at = time.monotonic()

    def look(self) -> None:
        """Read the pools, and start and end broker loops accordingly."""
        records = self._cluster.pools()
        self._changes.worked("reading the pools")
        self._lead()
        now = clock.now()
        roster: dict[BrokerTarget, list[Member]] = {}
        self._secrets_used.clear()
        faulted = False
        for record in records:
            state = self._state(record)
            try:
                spec = _spec_of(record, state)
                _check_target(record, spec, state)
                target = self._target(record, spec, now)
            except SpecError as error:
                faulted = True
                self._fault(record, state, "InvalidSpec", "; ".join(error.problems), now)
            except _NoBroker as error:
                faulted = True
                self._fault(record, state, error.reason, str(error), now)
            else:
                roster.setdefault(target, []).append(Member(record=record, spec=spec, state=state))
            self._progress()
        self._drop({record.key for record in records})
        self._end_loops(roster)
        self._restores.attempt(records, now)
        opening = roster.keys() - self._loops.keys()
        sides = self._open_sides(roster, now)
        for members in roster.values():
            for member in members:
                if member.state.fault != ("", ""):
                    self._changes.worked(subject_of(member.record))
                    member.state.fault = ("", "")
                    member.state.rest, member.state.face = (
                        None,
                        (),
                    )  # its status says what was wrong: decide, and write it anew
                self._metrics.pool_served(member.record.key)
        self._faulted = faulted or sides.keys() != opening
        self._targets = {target: target for target in roster}
        with self._lock:
            self._roster = roster
        self._start_loops(sides)
        self._ready = True

    def _lead(self) -> None:
        term, leads = self._cluster.term(), self._cluster.may_act()
        # Another may have led and gone while this thread was busy, and never saw it.
        if leads and not (self._led and term == self._led_term):
            # Later leaders have higher numbers. One whose clock is behind its predecessor's is not heeded by workers that
            # heard that one, until it has been silent for some minutes: see `celeriac.policy.drain`.
            self._epoch = max(self._epoch + 1, int(time.time()))
            self._led_term = term
        self._led = leads
        self._metrics.leads(leads)

    def _leads_as_before(self) -> bool:
        term, leads = self._cluster.term(), self._cluster.may_act()
        return leads == self._led and (not leads or term == self._led_term)

    def _term(self) -> int:
        """The number of this time of leading; 0 while there is none, or the roster has not seen yet that there is."""
        return self._epoch if self._led and self._cluster.term() == self._led_term else 0

    def _state(self, record: PoolRecord) -> PoolState:
        known, state = self._states.get(record.key, (None, PoolState()))
        if known is not None and known.uid != record.uid:
            state = PoolState()  # deleted and made anew under the same name
        self._states[record.key] = (record, state)
        return state

    def _target(self, record: PoolRecord, spec: WorkerPoolSpec, now: float) -> BrokerTarget:
        broker = spec.broker
        if broker is None:
            if self._default is None:
                raise _NoBroker(
                    "BrokerMissing",
                    "the pool names no broker and the operator was installed without a default one;"
                    " set spec.broker.urlFrom.secretKeyRef",
                )
            return _checked(self._default)
        tls = broker.tls
        target = BrokerTarget(
            url=self._secret(record, broker.url_from, now).strip(),
            management_url=self._secret(record, broker.management_url_from, now).strip()
            if broker.management_url_from
            else "",
            key_prefix=broker.key_prefix,
            ca=self._secret(record, tls.ca_from, now) if tls and tls.ca_from else "",
            cert=self._secret(record, tls.cert_from, now) if tls and tls.cert_from else "",
            key=self._secret(record, tls.key_from, now) if tls and tls.key_from else "",
        )
        # One object for each broker: a thousand pools name a few of them.
        known = self._targets.get(target)
        if known is None:
            known = self._targets[target] = _checked(target)
        return known

    def _secret(self, record: PoolRecord, ref: SecretKeyRef, now: float) -> str:
        at = (record.namespace, ref.name, ref.key)
        self._secrets_used.add(at)
        known = self._secrets.get(at)
        if known is None or now >= known[1]:
            known = self._read_secret(at, now)
            self._secrets[at] = known
            self._progress()
        value = known[0]
        if isinstance(value, Forbidden):
            message = rights.unreadable(record.namespace, ref.name, str(value))
            raise _NoBroker("SecretForbidden", message) from value
        if isinstance(value, ClusterError):
            reason = "SecretNotFound" if isinstance(value, NotFound) else "SecretNotRead"
            message = f"key {ref.key!r} of Secret {record.namespace}/{ref.name} cannot be read: {value}"
            raise _NoBroker(reason, message) from value
        return value

    def _read_secret(self, at: tuple[str, str, str], now: float) -> tuple[str | ClusterError, float]:
        try:
            return self._cluster.secret(*at), now + SECRET_TTL_S
        except ClusterError as error:
            known = self._secrets.get(at)
            if known is not None and isinstance(known[0], str) and not isinstance(error, NotFound):
                return known[0], now + SECRET_RETRY_S  # an API server that is away takes no broker from anybody
            return error, now + SECRET_RETRY_S

    def _fault(self, record: PoolRecord, state: PoolState, reason: str, message: str, now: float) -> None:
        """Say what is wrong with a pool that cannot be served, once per change."""
        if self._led:
            state.lead(self._epoch)
        # At each look: a tick that was under way when the pool left its loop may have told of it since.
        self._metrics.pool_fault(record.key, reason)
        news = state.fault != (reason, message)
        if not (news or state.overwritten(record, now)):
            return
        subject = subject_of(record)
        self._changes.failed(subject, message)
        if not self._cluster.may_act():
            return
        try:
            with state.lock:
                before = state.status if state.status is not None else record.status
                status = fault_status(before, reason, message, record.generation, time.time())
                state.wrote(record, status, self._cluster.write_status(record, status), now)
                # Only now: until the status is written, the next look tries again.
                state.fault = (reason, message)
            if news:
                self._cluster.event(record, "Warning", reason, message)
        except ClusterError as error:
            self._metrics.error(type(error).__name__)
            self._changes.failed(f"{subject}: telling its fault", str(error))

    def _drop(self, present: set[Key]) -> None:
        for key in [key for key in self._states if key not in present]:
            record, state = self._states.pop(key)
            self._restores.gone(record, state)
            self._metrics.pool_gone(key)
            self._changes.forget(f"pool {key[0]}/{key[1]}")
        for at in self._secrets.keys() - self._secrets_used:
            del self._secrets[at]

    def _end_loops(self, roster: Mapping[BrokerTarget, Sequence[Member]]) -> None:
        for target in [target for target in self._loops if target not in roster]:
            loop = self._loops[target]
            loop.retire(gone=True)
            self._retired = [old for old in self._retired if not old.ended] + [loop]
            self._metrics.broker_gone(loop.name)
            self._changes.forget(f"broker {loop.name}", f"commands over {loop.name}")
            with self._lock:
                del self._loops[target]

    def _open_sides(self, roster: dict[BrokerTarget, list[Member]], now: float) -> dict[BrokerTarget, BrokerSide]:
        """The conversations with brokers that have no loop yet. One that cannot be opened is a fault of its pools alone,
        which leave the roster.
        """
        sides: dict[BrokerTarget, BrokerSide] = {}
        for target in [target for target in roster if target not in self._loops]:
            try:
                sides[target] = self._connect(target)
            except Exception as error:  # noqa: BLE001 - whatever a library makes of one pool's URL or certificates
                self._metrics.error(type(error).__name__)
                text = f"the broker {target.name} cannot be used: {redacted(str(error)) or type(error).__name__}"
                for member in roster.pop(target):
                    self._fault(member.record, member.state, "InvalidBroker", text, now)
        return sides

    def _start_loops(self, sides: Mapping[BrokerTarget, BrokerSide]) -> None:
        for target, side in sides.items():
            loop = BrokerLoop(
                _unlike(target.name, {loop.name for loop in self._loops.values()}),
                cluster=self._cluster,
                side=side,
                members=lambda target=target: self._members(target),  # type: ignore[misc]
                epoch=self._term,
                metrics=self._metrics,
                changes=self._changes,
                watch=self._watch,
                signature=self._signature,
            )
            loop.start()  # before it is known: whoever asks for its health must not find it dead
            with self._lock:
                self._loops[target] = loop

    def _members(self, target: BrokerTarget) -> Sequence[Member]:
        with self._lock:
            return self._roster.get(target, ())


def _check_target(record: PoolRecord, spec: WorkerPoolSpec, state: PoolState) -> None:
    """Raises SpecError when the pool had another target: Kubernetes before 1.25 knows no rule that forbids the change."""
    first = first_target(state.status if state.status is not None else record.status)
    now = (spec.target_ref.kind, spec.target_ref.name)
    if first not in (None, now):
        problem = f"spec.targetRef is immutable: it was {' '.join(first)}, and is {' '.join(now)}; change it back, or make another pool"
        raise SpecError([problem])


class _NoBroker(Exception):
    """The pool's broker cannot be told; the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _checked(target: BrokerTarget) -> BrokerTarget:
    try:
        target.check()
    except ImproperlyConfigured as error:
        raise _NoBroker("InvalidBroker", str(error)) from error
    return target


def _unlike(name: str, taken: Collection[str]) -> str:
    """The name, numbered when another broker of the same address (with other credentials, say) has it."""
    numbered = (f"{name} #{number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _spec_of(record: PoolRecord, state: PoolState) -> WorkerPoolSpec:
    """The record's spec, parsed once a generation: the roster is looked at every second. Raises SpecError."""
    if state.parsed is None or state.parsed[0] != record.generation:
        state.parsed = (record.generation, WorkerPoolSpec.parse(record.spec))
    return state.parsed[1]
