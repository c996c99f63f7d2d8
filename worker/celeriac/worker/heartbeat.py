"""What the control thread sends: worker-online, a heartbeat every few seconds and at each change of drain state, worker-offline."""

import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from celeriac import signals
from celeriac.broker.eventbus import EventSender
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Totals
from celeriac.wire.event import DrainState, Heartbeat, RateLimit, glance_to_wire, heartbeat_to_wire
from celeriac.worker.loop import Loop


class Heart:
    """Builds and sends heartbeats; `tick` is called by the control thread about five times a second."""

    def __init__(
        self,
        loop: Loop,
        totals: Totals,
        events: TaskEvents,
        *,
        clock: Callable[[], int],
        interval_s: float,
        environ: Mapping[str, str],
        version: str,
        commands: str = "",
    ) -> None:
        self._loop, self._totals, self._events, self._clock = loop, totals, events, clock
        self._interval_s = interval_s
        self._version = version
        self._commands = commands
        self._pod = {
            name: environ.get(f"CELERIAC_POD_{key}", "")
            for name, key in (("namespace", "NAMESPACE"), ("pod", "NAME"), ("pod_uid", "UID"))
        }
        #: Names this run of the worker: two of one host may have one name.
        self.incarnation = uuid.uuid4().hex
        self._started_at = time.time()
        self._next_at = 0.0
        self._said: Any = None
        self._online = False
        self._now = False

    def soon(self) -> None:
        """Send one at the next tick, whatever the interval."""
        self._now = True

    def tick(self, sender: EventSender) -> None:
        """Send what is to be sent now. Raises what the broker raises."""
        now = time.monotonic()
        drain = self._loop.drain_state()
        said = (self._loop.state, drain[0].id if drain else "")
        if now >= self._next_at or said != self._said or self._now:
            self._send(sender, "worker-heartbeat" if self._online else "worker-online")
            if signals.heartbeat_sent.receivers:
                signals.heartbeat_sent.send(sender=self)
            self._online, self._said, self._now, self._next_at = True, said, False, now + self._interval_s
        sender.send_tasks(self._events.take())

    def bye(self, sender: EventSender) -> None:
        """The last one: totals that no later heartbeat will carry."""
        sender.send_tasks(self._events.take())
        self._send(sender, "worker-offline")

    def _send(self, sender: EventSender, kind: str) -> None:
        beat = self.beat()
        sender.send(heartbeat_to_wire(beat, kind), glance_to_wire(beat, kind))

    def beat(self) -> Heartbeat:
        """The worker's state now."""
        loop = self._loop
        set_rates = loop.intake.set_rates()
        running = loop.running()
        drain = loop.drain_state()
        return Heartbeat(
            hostname=loop.hostname,
            timestamp=time.time(),
            freq=self._interval_s,
            active=len(running),
            processed=self._totals.processed,
            loadavg=tuple(round(load, 2) for load in os.getloadavg()),
            pid=os.getpid(),
            clock=self._clock(),
            utcoffset=time.timezone / 3600,
            sw_ver=self._version,
            sw_sys=platform.system(),
            incarnation=self.incarnation,
            slots=loop.slots,
            busy=len(running),
            reserved=loop.intake.reserved(),
            held=loop.intake.held(),
            queues=tuple(loop.queues),
            state=loop.state,
            drain=DrainState(id=drain[0].id, epoch=drain[0].epoch, state=drain[1], expires_in_s=round(drain[2], 1))
            if drain
            else None,
            longest_running_s=round(max((seconds for _, seconds in running), default=0.0), 3),
            started_at=self._started_at,
            commands=self._commands,
            queue_totals=self._totals.queue_totals([(job.delivery.queue, seconds) for job, seconds in running]),
            queue_waits=self._totals.queue_waits(),
            task_totals=self._totals.task_totals(),
            limits=tuple(
                RateLimit(
                    task=name,
                    per_s=limit.per_s,
                    scope="cluster" if limit.shared else "worker",
                    by=set_rates[name].by if name in set_rates else "",
                )
                for name, limit in loop.intake.limits().items()
                if not limit.rate_keyed  # a rate for each key says nothing of the whole type
            ),
            **self._pod,
        )
