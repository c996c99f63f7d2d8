"""One broker's thread and the order of its tick: read the queues, see each pool, decide it, act, report."""

import logging
import math
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from celeriac_operator import clock
from celeriac_operator.errors import ClusterError
from celeriac_operator.fleet.brokers import BrokerSide
from celeriac_operator.fleet.control import MARK_TTL_S, Commands
from celeriac_operator.fleet.ears import Ears
from celeriac_operator.fleet.heartbeats import Fleet, FleetTotals
from celeriac_operator.fleet.match import crews_of
from celeriac_operator.fleet.probes import consumers_of, queue_samples, tasks_of
from celeriac_operator.fleet.signature import Signature, without_key
from celeriac_operator.loop.act import Actuator
from celeriac_operator.loop.members import STUCK_S, Changes, Cluster, Key, Member, Sight, Tick, subject_of
from celeriac_operator.loop.observe import Moment, Observer
from celeriac_operator.loop.queues import Queues
from celeriac_operator.loop.rates import Rates, asked, disagreements, rates_of
from celeriac_operator.loop.report import Reporter
from celeriac_operator.loop.rest import rest_of, sleeps, still
from celeriac_operator.loop.sharing import split_shared
from celeriac_operator.metrics import BrokerReading, OperatorMetrics
from celeriac_operator.scaling.decision import decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import Signals

log = logging.getLogger("celeriac_operator.loop")

#: Seconds between two ticks, at the least, however often one is asked for.
FASTEST_TICK_S = 1.0


class BrokerLoop:
    """The thread that serves all pools of one broker.

    members   called at each tick for the pools of this broker, with their newest specs.
    epoch     called at each tick for the number that counts leaders, 0 while this one's time of leading has not begun; see
              `celeriac.wire.control.drain`.
    name      for logs and labels, unique among the loops of this process.
    signature what commands are signed with.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        side: BrokerSide,
        members: Callable[[], Sequence[Member]],
        epoch: Callable[[], int],
        metrics: OperatorMetrics,
        changes: Changes,
        watch: Callable[[Tick], None] | None = None,
        signature: Signature | None = None,
    ) -> None:
        self.name = name
        self._cluster = cluster
        self._side = side
        self._members = members
        self._epoch = epoch
        self._metrics = metrics
        self._changes = changes
        self._watch = watch
        self._commands = Commands(side.post, signature or without_key())
        self._fleet = Fleet(started_at=clock.now())
        self._ears = Ears(side.receiver, self._fleet, name=name, on_change=self.poke)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"broker-{name}", daemon=True)
        self._queues = Queues(side, name=name, metrics=metrics, changes=changes, retired=self._stopping.is_set)
        self._observer = Observer(cluster, side, self._queues, self._fleet, self._ears, self._commands)
        self._actuator = Actuator(
            cluster,
            self._commands,
            broker=name,
            metrics=metrics,
            changes=changes,
            progress=self._progress,
            poke=self.poke,
        )
        self._reporter = Reporter(cluster, self._fleet, broker=name, metrics=metrics, progress=self._progress)
        self._progress_at = time.monotonic()
        self._interval_s = 5.0
        self._known: set[Key] = set()
        self._deserted = False
        # Brokers take turns, by their names: threads that all want to run at once cost more than what they do.
        self._phase = zlib.crc32(name.encode()) / 2**32
        self._ticks = int(self._phase * 1000)
        self._rates_error = ""  # why rates were not kept at the last tick
        self._rates = Rates(
            side.rates,
            self._commands,
            name=name,
            changes=changes,
            exists=lambda: {pool.key for pool in cluster.pools()},
        )
        metrics.broker_serves(name, self._read)

    def start(self) -> None:
        self._ears.start()
        self._thread.start()

    def stop(self) -> None:
        """End both threads; returns when they are done, or after some seconds when the broker hangs."""
        self.retire()
        self._ears.join()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def retire(self, *, gone: bool = False) -> None:
        """Ask both threads to end, without waiting: a broker that hangs must not hold up the others.

        gone: because no pool names this broker any more; what pools set there that exist no more is lifted.
        """
        self._deserted = gone or self._deserted
        self._stopping.set()
        self._wake.set()
        self._ears.retire()

    def poke(self) -> None:
        """Bring the next tick forward."""
        self._wake.set()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive() and not self._ears.alive

    def health(self) -> str:
        """Why this loop is not alive, or "" when it is."""
        if self._stopping.is_set():
            return ""
        for thread, alive in (("tick", self._thread.is_alive()), ("heartbeat", self._ears.alive)):
            if not alive:
                return f"the {thread} thread of broker {self.name} has ended"
        silent_s = time.monotonic() - self._progress_at
        if silent_s > self._interval_s + STUCK_S:
            return f"the loop of broker {self.name} has come no further for {silent_s:.0f} s"
        return ""

    def _run(self) -> None:
        first = True
        while not self._stopping.is_set():
            self._wake.clear()
            started = time.monotonic()
            members = self._members()
            self._interval_s = interval_s(members)
            try:
                self.tick(members)
            except Exception:  # what is not expected must not end the loop that all pools of this broker depend on
                self._metrics.error("bug")
                log.exception("a tick of broker %s failed; the next one is due in %g s", self.name, self._interval_s)
            else:
                self._progress()
            self._stopping.wait(max(0.0, FASTEST_TICK_S - (time.monotonic() - started)))
            wait_s = self._interval_s * self._phase if first else self._interval_s
            self._wake.wait(max(0.0, wait_s - (time.monotonic() - started)))
            first = False
        self._forget(set())
        self._rates.close(lift=self._deserted)
        self._side.close()

    def _progress(self) -> None:
        """One step is done. A tick that fails as a whole makes no progress; one of many slow steps does."""
        self._progress_at = time.monotonic()

    # -- one tick

    def tick(self, members: Sequence[Member]) -> None:
        """Serve every member once. Raises nothing that concerns one of them alone."""
        began = time.monotonic()
        error = self._queues.probe(members, interval_s=self._interval_s)
        now, skew_s = clock.now(), clock.skew_s()
        self._ticks += 1
        turn = self._fleet.attend(now)
        if not error:
            self._queues.date(now)
        asleep, awake = self._parted(members, turn, error=error)
        seen = [*asleep]
        if awake:
            seen += self._decide(awake, asleep, turn, error=error, now=now, skew_s=skew_s)
        if self._stopping.is_set():
            return  # whoever retired it has taken it out of the metrics
        if (epoch := self._epoch()) and self._acts():
            asking = [asked(sight, now) for sight in seen if sight.keepers is not None]
            self._rates_error = self._rates.keep(asking, epoch=epoch)
            if self._rates_error:
                self._metrics.error("RateLimitsNotKept")
        self._forget({member.record.key for member in members})
        self._metrics.broker_ticked(self.name, took_s=time.monotonic() - began)

    def _parted(self, members: Sequence[Member], turn: int, *, error: str) -> tuple[list[Sight], list[Member]]:
        """(what was seen last of the members that rest, the members to look at)."""
        if error or self._watch is not None:  # who watches wants to see every tick
            return [], list(members)
        asleep: list[Sight] = []
        awake: list[Member] = []
        epoch = self._epoch()
        for member in members:
            state = member.state
            rest, sight = state.rest, state.sight
            if (
                rest is None
                or sight is None
                or not sleeps(rest, member.spec, epoch, self._queues.depths)
                or any(keeper.rates for keeper in sight.keepers or ())
                or state.trace != (self.name, turn, self._cluster.trace(member.record, member.spec))
            ):
                awake.append(member)
            else:
                state.rest = rest.shorter()
                asleep.append(sight)
        return asleep, awake

    def _decide(
        self, members: Sequence[Member], asleep: Sequence[Sight], turn: int, *, error: str, now: float, skew_s: float
    ) -> list[Sight]:
        """Look at these members, decide each, and carry that out; what was seen of them."""
        workers = self._fleet.workers(now)
        self._commands.know(workers)
        crews, consumers = crews_of(workers), consumers_of(workers)
        seen: list[Sight] = []
        for member in members:
            with self._guard(member, "reading its target and pods"):
                # The trace is taken first, that what changes meanwhile is looked at again, and kept last, that a look that failed is.
                trace = (self.name, turn, self._cluster.trace(member.record, member.spec))
                member.state.sight = sight = self._observer.look(member, crews, now, skew_s)
                member.state.trace = trace
                seen.append(sight)
            self._progress()
        self._fleet.settle(now)
        totals = self._fleet.totals()
        if not error:
            names = {queue.name for member in members for queue in member.spec.queues}
            self._queues.take_samples(names, consumers, totals, now + skew_s)
        moment = Moment(
            error=error,
            now=now,
            skew_s=skew_s,
            consumers=consumers,
            by_task=tasks_of(totals),
            shares=split_shared([*asleep, *seen]),
            rates_error=self._rates_error,
            rates_differ=disagreements(
                {sight.member.record.key: rates_of(sight) for sight in seen if sight.keepers is not None}
            ),
        )
        for sight in seen:
            if self._stopping.is_set():
                break  # its pools may be another loop's by now
            with self._guard(sight.member, "acting for it"):
                self._serve(sight.member, self._observer.signals(sight, moment), totals, now)
            self._progress()
        return seen

    def _read(self) -> BrokerReading:
        """What a scrape gets of this broker: most of its pools rest, and are decided on a few times a minute."""
        now = clock.now()
        self._fleet.settle(now, strangers=False)
        totals = self._fleet.totals(count=False)
        workers = self._fleet.workers(now)
        samples = queue_samples(self._queues.depths, consumers_of(workers), totals, now + clock.skew_s())
        return BrokerReading(samples=samples, queues=totals.owned, tasks=totals.owned_tasks, workers=workers)

    def _serve(self, member: Member, signals: Signals, totals: FleetTotals, now: float) -> None:
        """Decide one pool, and do what was decided; or let the last decision stand, where it rests."""
        state, epoch = member.state, self._epoch()
        with state.lock:
            rest, state.rest = state.rest, None
            if state.memory is None:
                state.memory = Memory.from_status(member.record.status)
            elif state.served_by is not self:
                state.memory, rest = state.memory.elsewhere(), None
            state.served_by = self
            if not epoch or state.epoch != epoch:
                # What was planned and told to nobody, or in another time of leading, is no drain: how long one takes counts from its mark.
                state.memory = state.memory.undrained()
            rests = rest is not None and still(rest, signals, member.spec, epoch)
            decision = rest.decision if rest and rests else decide(signals, member.spec, state.memory, now)
            state.memory = decision.memory
            acts = epoch == self._epoch() and self._acts()
            self._reporter.measure(member, signals, decision, now)
            if acts and not rests:
                state.lead(epoch)
                decided = self._actuator.end_overdue(member, signals, decision)
                done = decided.unwritten()
                # Report even when acting failed: a person reads there what the operator wanted.
                try:
                    done = self._actuator.apply(member, signals, decided, now)
                except ClusterError as error:
                    done = decided.unwritten(str(error))
                    raise
                finally:
                    self._progress()
                    self._reporter.report(member, signals, done, now)
            if rest and rests:
                state.rest = rest.shorter()
            else:
                state.rest = rest_of(decision, signals, member.spec, epoch, tick=self._ticks)
        if self._watch is not None:
            key = member.record.key
            self._watch(
                Tick(
                    pool=member.record,
                    spec=member.spec,
                    signals=signals,
                    decision=decision,
                    queues={queue: counts for (owner, queue), counts in totals.owned.items() if owner == key},
                    tasks={at[1:]: counts for at, counts in totals.owned_tasks.items() if at[0] == key},
                    now=now,
                )
            )

    def _acts(self) -> bool:
        """Whether this replica leads."""
        return bool(self._epoch()) and self._cluster.may_act()

    def _forget(self, present: set[Key]) -> None:
        gone = self._known - present
        if gone:
            self._fleet.drop(gone)
            # The roster took them out of the metrics when they went; this thread may have told of them since.
            try:
                there = {record.key for record in self._cluster.pools()}
            except ClusterError as error:
                log.warning("which pools are gone cannot be told: %s", error)
                return  # `_known` keeps them for the next tick
            for key in gone - there:
                self._metrics.pool_gone(key)
        self._known = present

    @contextmanager
    def _guard(self, member: Member, what: str) -> Iterator[None]:
        """What goes wrong with one pool stays with it: logged once per change, counted, tried again next tick."""
        subject = f"{subject_of(member.record)}: {what}"
        try:
            yield
        except ClusterError as error:
            self._metrics.error(type(error).__name__)
            self._changes.failed(subject, str(error))
        except Exception as error:  # a bug that one pool's data meets must not stop the other pools
            self._metrics.error("bug")
            if self._changes.failed(subject, repr(error)):
                log.exception("%s: this is a bug in the operator, please report it", subject)
        else:
            self._changes.worked(subject)


def interval_s(members: Sequence[Member]) -> float:
    """Seconds between two ticks: the least that a pool asks for, and while marks are to hold, a third of their time."""
    return min(
        (min(member.spec.interval_s, MARK_TTL_S / 3 if member.state.drains else math.inf) for member in members),
        default=5.0,
    )
