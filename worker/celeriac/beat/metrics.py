"""Beat's Prometheus metrics, read from the service at each scrape."""

from collections.abc import Iterator, Mapping

from celeriac.beat.service import Service
from celeriac.telemetry.exposition import Family, labelled, single

#: Metric names and what they mean.
NAMES: Mapping[str, str] = {
    "celeriac_beat_ticks": "Runs of entries by what became of them.",
    "celeriac_beat_entries": "Entries on the schedule.",
    "celeriac_beat_late_seconds": "Seconds by which the last run was sent late.",
    "celeriac_beat_up": "1 while broker and store answer.",
    "celeriac_build": "What is running.",
}


def families(service: Service, version: str) -> Iterator[Family]:
    """What a scrape gets."""
    yield labelled("celeriac_beat_ticks", "counter", NAMES["celeriac_beat_ticks"], "state", service.counts._asdict())
    for name, value in (
        ("celeriac_beat_entries", len(service.entries)),
        ("celeriac_beat_late_seconds", service.late_s),
        ("celeriac_beat_up", service.healthy),
    ):
        yield single(name, "gauge", NAMES[name], value)
    yield labelled("celeriac_build", "info", NAMES["celeriac_build"], "version", {version: 1.0})
