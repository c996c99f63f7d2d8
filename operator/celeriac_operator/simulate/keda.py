"""KEDA and its HPA over a world: 0 to 1 and back by the poll, everything else by `hpa.sync`.

The metric is what waits and what runs (RabbitMQ's `messages` over HTTP), or only what waits (AMQP, Redis lists). Of
several queues each is a trigger, and the HPA takes the largest proposal.
"""

from dataclasses import dataclass

from celeriac_operator.simulate.hpa import SYNC_S, HpaMemory, HpaSettings, sync
from celeriac_operator.simulate.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaSettings:
    """A ScaledObject with its other fields at their defaults.

    down_window_s   None: no `behavior`, so the HPA's own. ready_only: the metric is what waits.
    """

    value: float
    min_replicas: int
    max_replicas: int
    down_window_s: float | None = None
    ready_only: bool = False
    polling_s: float = 30.0
    cooldown_s: float = 300.0

    @property
    def name(self) -> str:
        window = "300 s" if self.down_window_s is None else f"{self.down_window_s:.0f} s"
        return f"KEDA value {self.value:g}, min {self.min_replicas}, window {window}"


class Keda:
    """Polls and syncs over a world, each first at its own moment."""

    def __init__(self, world: World, settings: KedaSettings, *, first_poll_at: float, first_sync_at: float) -> None:
        self.world = world
        self.settings = settings
        self._active_at: float | None = None
        self._memory = HpaMemory()
        world.at(first_poll_at, self.poll)
        world.at(first_sync_at, self.sync)

    def poll(self) -> None:
        world, settings = self.world, self.settings
        world.at(world.now + settings.polling_s, self.poll)
        if world.broker_down:
            return  # an error without a fallback: the target is left as it is
        if max(self._usage()) > 0:
            self._active_at = world.now
            if world.replicas == 0:
                world.scale(max(1, settings.min_replicas))
        elif world.replicas > 0 and settings.min_replicas == 0 and self._is_cool():
            world.scale(0)

    def sync(self) -> None:
        world, settings = self.world, self.settings
        world.at(world.now + SYNC_S, self.sync)
        if world.broker_down:
            return  # no metric, no change
        hpa = HpaSettings(
            minimum=max(1, settings.min_replicas),
            maximum=settings.max_replicas,
            target=settings.value,
            down_window_s=settings.down_window_s,
        )
        # The largest usage makes the largest proposal: all triggers have the same target.
        self._memory, replicas = sync(
            hpa,
            self._memory,
            usage=max(self._usage()),
            replicas=world.replicas,
            existing=len(world.pods),
            now=world.now,
        )
        if replicas != world.replicas:
            world.scale(replicas)

    def _is_cool(self) -> bool:
        """Whether the cooldown is over; without a time of last activity it is passed over."""
        return self._active_at is None or self.world.now - self._active_at > self.settings.cooldown_s

    def _usage(self) -> list[int]:
        """Messages of each queue."""
        views = [self.world.view(index) for index in range(len(self.world.queues))]
        return [view.waiting + (0 if self.settings.ready_only else view.running) for view in views]
