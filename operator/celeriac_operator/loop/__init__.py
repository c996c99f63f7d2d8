"""Observe, decide, act, report: one thread per broker serves every pool that names it.

The cluster is a Protocol, so that the same loop runs over the Kubernetes API and over processes on one machine. A tick
reads all of a broker's queues in one round trip, joins them with heartbeats and pods, asks the pure `decide` for each
pool, and carries out what it says. Nothing that is wrong with one pool, one broker or one request stops another.

    kopf's indexes, or local mode          OperatorLoop                      BrokerLoop (one per broker)
    ────────────── poke ──────────────▶    which pool has which broker  ──▶  Ears: heartbeats, between the ticks
                                                                             tick: Queues.probe, Observer.look, decide,
                                                                                   Actuator.apply, Reporter.report
"""

from celeriac_operator.loop.members import Cluster, Tick
from celeriac_operator.loop.roster import OperatorLoop

__all__ = ["Cluster", "OperatorLoop", "Tick"]
