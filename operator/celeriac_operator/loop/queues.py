"""The queues of one broker, as they were read last."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac_operator.fleet.brokers import BrokerSide
from celeriac_operator.fleet.heartbeats import FleetTotals, Worker
from celeriac_operator.fleet.management import ManagementUnavailable, with_facts
from celeriac_operator.fleet.probes import queue_samples
from celeriac_operator.loop.members import Changes, Member
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.scaling.learning import horizon_s
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import QueueSample


class Queues:
    """What is known of each queue: read by the broker's tick alone; a scrape looks at `depths`.

    retired    whether the loop that this is of has been told to end: it tells no metrics any more.
    depths     queue -> what the broker told, one that could not be read included.
    samples    queue -> that, joined with what its workers have done.
    unread     queue -> why it alone could not be read.
    unmanaged  why the management API did not tell, "" when it did or when there is none.
    """

    def __init__(
        self,
        side: BrokerSide,
        *,
        name: str,
        metrics: OperatorMetrics,
        changes: Changes,
        retired: Callable[[], bool],
    ) -> None:
        self._side, self._name, self._metrics, self._changes, self._retired = side, name, metrics, changes, retired
        self.depths: Mapping[str, QueueDepth] = {}
        self.samples: dict[str, QueueSample] = {}
        self.unread: dict[str, str] = {}
        self.unmanaged = ""
        self._sampled_at: dict[str, float] = {}

    def probe(self, members: Sequence[Member], *, interval_s: float) -> str:
        """Read the queues of these, and release what is due there on the way; what went wrong, or "".

        interval_s: seconds between two ticks.
        """
        horizons: dict[str, float] = {}
        for member in members:
            ahead_s = _horizon_s(member)
            for queue in member.spec.queues:
                horizons[queue.name] = max(horizons.get(queue.name, 0.0), ahead_s)
        began = time.monotonic()
        try:
            may_be_due = [name for name, ahead_s in horizons.items() if self._may_be_due(name, ahead_s, interval_s)]
            self._side.probe.release_due(may_be_due)
            self.depths = self._side.probe.probe(horizons)
        except (BrokerUnavailable, ImproperlyConfigured) as error:
            if self._retired():
                return str(error) or type(error).__name__  # whoever retired it has taken it out of metrics and log
            self._metrics.broker_failed(self._name)
            self._metrics.error(type(error).__name__)
            self._changes.failed(f"broker {self._name}", str(error))
            return str(error) or type(error).__name__
        self._ask_management()
        self._metrics.broker_probed(self._name, took_s=time.monotonic() - began)
        self._changes.worked(f"broker {self._name}")
        self.unread = {name: depth.error for name, depth in self.depths.items() if depth.error}
        for name in horizons:
            subject = f"broker {self._name}: queue {name}"
            if name in self.unread:
                self._metrics.error("QueueUnreadable")
                self._changes.failed(subject, self.unread[name])
            else:
                self._changes.worked(subject)
        return ""

    def _may_be_due(self, queue: str, horizon_s: float, interval_s: float) -> bool:
        """Whether delayed messages may be due there, by what lay there a tick ago: where it was asked for what is due by now."""
        depth = self.depths.get(queue)
        if depth is None or depth.error:
            return True
        return (depth.due_soon if horizon_s >= 2 * interval_s else depth.delayed) > 0

    def _ask_management(self) -> None:
        """Add what the management API knows to the depths; without it they are coarser, and the pools say so."""
        if self._side.management is None:
            return
        subject = f"broker {self._name}: its management API"
        try:
            self.depths = with_facts(self.depths, self._side.management.read())
        except ManagementUnavailable as error:
            self.unmanaged = str(error)
            self._metrics.error(ManagementUnavailable.__name__)
            self._changes.failed(subject, self.unmanaged)
        else:
            self.unmanaged = ""
            self._changes.worked(subject)

    def date(self, now: float) -> None:
        """What was read at this tick was read now; what was not keeps its last sample, which grows old."""
        self._sampled_at = {
            name: self._sampled_at.get(name, 0.0) if name in self.unread else now for name in self.depths
        }

    def sampled_at(self, names: Collection[str]) -> float:
        """When the one of these was read that was read longest ago; 0 for one that never was."""
        return min((self._sampled_at.get(name, 0.0) for name in names), default=0.0)

    def take_samples(
        self, names: Collection[str], consumers: Mapping[str, Sequence[Worker]], totals: FleetTotals, wall: float
    ) -> None:
        """Take samples of these queues. wall: the machine's clock. Others keep theirs: of pools that rest, which were seen to need no newer one."""
        samples = queue_samples(self.depths, consumers, totals, wall, names=names)
        kept = {name: sample for name, sample in self.samples.items() if name in self.depths and name not in samples}
        self.samples = {**kept, **samples}


def _horizon_s(member: Member) -> float:
    """Seconds ahead in which delayed work counts as soon due, by what is remembered of the pool so far."""
    memory = member.state.memory
    return horizon_s(member.spec, Memory.from_status(member.record.status) if memory is None else memory)
