"""Beat's Prometheus metrics, read from the service at each scrape."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from celeriac.beat.service import Service

#: Metric names and what they mean.
NAMES: Mapping[str, str] = {
    "celeriac_beat_ticks": "Runs of entries by what became of them.",
    "celeriac_beat_entries": "Entries on the schedule.",
    "celeriac_beat_late_seconds": "Seconds by which the last run was sent late.",
    "celeriac_beat_up": "1 while broker and store answer.",
    "celeriac_build": "What is running.",
}


class _BeatCollector(Collector):
    def __init__(self, service: Service, version: str) -> None:
        self._service, self._version = service, version

    def collect(self) -> Iterable[Any]:
        ticks = CounterMetricFamily("celeriac_beat_ticks", NAMES["celeriac_beat_ticks"], labels=("state",))
        for state, count in self._service.counts._asdict().items():
            ticks.add_metric((state,), count)
        yield ticks
        for name, value in (
            ("celeriac_beat_entries", len(self._service.entries)),
            ("celeriac_beat_late_seconds", self._service.late_s),
            ("celeriac_beat_up", self._service.healthy),
        ):
            yield GaugeMetricFamily(name, NAMES[name], value=float(value))
        info = InfoMetricFamily("celeriac_build", NAMES["celeriac_build"])
        info.add_metric([], {"version": self._version})
        yield info


def renderer(service: Service, version: str) -> Callable[[], bytes]:
    """A function that gives /metrics' text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_BeatCollector(service, version))
    return lambda: generate_latest(registry)
