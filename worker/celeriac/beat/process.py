"""A running beat out of an app: as a process of its own, or beside a worker in a thread."""

import logging
import signal
import threading
import time
from typing import Any

from celeriac import __version__
from celeriac.app.base import DEFAULT_BROKER, Celeriac
from celeriac.beat.metrics import families
from celeriac.beat.service import Service
from celeriac.broker.connection import redacted
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, ImproperlyConfigured
from celeriac.telemetry.endpoint import Endpoint

log = logging.getLogger("celeriac.beat")

#: Beyond its longest sleep, seconds without a look at the schedule after which beat is stuck. A publish may take its time-out.
STUCK_S = 60.0


def run_beat(app: Celeriac, *, max_interval_s: float | None = None, filename: str | None = None) -> int:
    """Run beat until it is told to stop; the exit code. Raises ImproperlyConfigured for entries and settings that cannot work."""
    app.import_tasks()
    app.check_settings()
    _check_scheduler(app.conf.beat_scheduler)
    for remark in app.conf.remarks():
        log.warning("%s", remark)
    if not app.conf.broker_url:
        log.warning(
            "no broker is configured: using %s (set broker_url, CELERIAC_BROKER_URL or -b)", redacted(DEFAULT_BROKER)
        )
    service = Service(app, max_interval_s=max_interval_s, filename=filename)
    endpoint = _endpoint(app, service)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
    if endpoint is not None:
        endpoint.start()
    try:
        service.run()
    finally:
        if endpoint is not None:
            endpoint.stop()
        _close(app)
    return 0


def _check_scheduler(name: Any) -> None:
    if name and not str(name).endswith("PersistentScheduler"):
        raise ImproperlyConfigured(
            f"setting beat_scheduler={name!r}: there is one scheduler, of beat_schedule; entries kept elsewhere would never run."
            " Move them to beat_schedule and leave the setting out"
        )


def _close(app: Celeriac) -> None:
    try:
        app.close()
    except (BrokerUnavailable, BackendUnavailable) as error:
        log.warning("while closing: %s", error)


class EmbeddedBeat:
    """A beat in a thread of a worker's process. Made before the worker forks, so that entries that cannot work end it; started after."""

    def __init__(self, app: Celeriac, filename: str | None = None) -> None:
        _check_scheduler(app.conf.beat_scheduler)
        self._service = Service(app, filename=filename)
        self.failed = False
        self._thread = threading.Thread(target=self._run, name="celeriac-beat", daemon=True)

    def start(self) -> None:
        """Send what is due, from now on."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._service.run(embedded=True)
        except Exception:
            self.failed = True
            log.exception("beat has failed: the worker runs on, and its liveness probe fails")

    def stop(self) -> None:
        """End it after what is being sent."""
        self._service.stop()
        self._thread.join(10.0)


def _endpoint(app: Celeriac, service: Service) -> Endpoint | None:
    port = app.conf.beat_http_port
    if not port:
        return None
    return Endpoint(
        app.conf.worker_http_host, port, livez=lambda: liveness(service, time.monotonic()), readyz=lambda: readiness(service),
        metrics=lambda: families(service, __version__), setting="beat_http_port",
    )  # fmt: skip


def liveness(service: Service, now: float) -> tuple[bool, str]:
    """Alive: it looks at its schedule. Whether broker and store answer plays no part."""
    quiet_s = now - service.turned_at
    stuck = quiet_s > service.most_s + STUCK_S
    return not stuck, f"no look at the schedule for {quiet_s:.0f} s" if stuck else "alive"


def readiness(service: Service) -> tuple[bool, str]:
    """Ready: it has read its state."""
    return service.started, "running" if service.started else "starting"


__all__ = ["EmbeddedBeat", "liveness", "readiness", "run_beat"]
