"""Remote control: the commands that change a worker, and the table of all it answers. Celery's names, arguments and answers; `drain`,
`undrain` and `dead` are ours. What only tells is in `inspection`.
"""

import logging
import signal as signals_of_os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celeriac import states
from celeriac.app.base import Celeriac
from celeriac.exceptions import BackendUnavailable, CeleriacError, ImproperlyConfigured
from celeriac.wire.control import COMMANDS
from celeriac.wire.result import ResultMeta
from celeriac.worker.inspection import Inspection
from celeriac.worker.loop import Loop
from celeriac.worker.pool import Pool

log = logging.getLogger(__name__)

Handler = Callable[..., Any]


def handlers(inspection: Inspection, remote: "Remote") -> Mapping[str, Handler]:
    """Every command of the table, by each of its names."""
    found: dict[str, Handler] = {}
    for info in COMMANDS:
        owner = remote if hasattr(remote, info.name) else inspection
        for name in (info.name, *info.aliases):
            found[name] = getattr(owner, info.name)
    return found


class Remote:
    """The commands that change one worker. Called from the control thread; what touches the pool is done by the loop's own."""

    def __init__(
        self, loop: Loop, *, app: Celeriac, pool: Pool, events: Any, clock: Any, beat: Callable[[], None], incarnation: str
    ) -> None:  # fmt: skip
        self._loop, self._app, self._pool, self._events, self._clock = loop, app, pool, events, clock
        self._beat = beat
        self._incarnation = incarnation

    # -- tasks

    def revoke(self, task_id: Any = None, terminate: bool = False, signal: Any = None, **_: Any) -> Any:
        """Do not run these ids when they are claimed, and mark them REVOKED; with terminate, end them where they run."""
        ids = _listed(task_id)
        self._loop.revoke(ids)
        running = {run.job.delivery.headers.get("id") for run in self._pool.running()}
        claimed = {
            job.delivery.headers.get("id") for job in self._loop.intake.unstarted()
        }  # the loop ends these, or they begin
        self._mark_revoked([one for one in ids if one not in running | claimed])
        if not terminate:
            log.info("tasks flagged as revoked: %s", ", ".join(ids))
            return {"ok": f"tasks {set(ids)} flagged as revoked"}
        return self._terminate([one for one in ids if one in running], _number_of(signal))

    def terminate(self, signal: Any = None, task_id: Any = None, **_: Any) -> Any:
        """End these ids by a signal where they run; revoked everywhere."""
        return self.revoke(task_id, terminate=True, signal=signal)

    def revoke_by_stamped_headers(
        self, headers: Any = None, terminate: bool = False, signal: Any = None, **_: Any
    ) -> Any:
        """Do not run tasks that carry one of these stamps: {name: value or values}, or ["name=value"]."""
        if isinstance(headers, list):
            headers = dict(one.split("=", 1) for one in headers)
        stamps = {name: _listed(values) for name, values in dict(headers or {}).items()}
        self._loop.revoke_stamps(stamps)
        if not terminate:
            return {"ok": f"headers {headers} flagged as revoked, but not terminated"}
        hit = [
            run.job.delivery.headers["id"]
            for run in self._pool.running()
            if _stamped(run.job.delivery.headers.get("stamps"), stamps)
        ]
        if not hit:
            return {"ok": f"headers {headers} were not terminated"}
        answer = self._terminate(hit, _number_of(signal))
        return answer if "error" in answer else {"ok": f"headers {headers} revoked"}

    def _terminate(self, ids: Sequence[str], number: int) -> Any:
        if ids and self._pool.in_caller:  # the body holds the loop's own thread: there is nobody to ask
            return {"error": f"revoked; it runs on: the {self._pool.name} pool cannot end a body; use prefork"}
        ended = []
        for one in ids:
            try:
                if self._loop.in_loop(lambda one=one: self._pool.terminate(one, number)):  # type: ignore[misc]
                    log.info("terminating %s (%d)", one, number)
                    ended.append(one)
            except CeleriacError as error:
                return {"error": f"revoked; if it runs already, it runs on: {error}"}
        return {"ok": f"terminate: {', '.join(ended)}" if ended else "terminate: tasks unknown"}

    def _mark_revoked(self, ids: Sequence[str]) -> None:
        """Store REVOKED for those that nobody has begun: as Celery's workers do, so that who waits for them knows."""
        backend = self._app.backend
        if not backend.keeps_results:
            return
        error = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
        try:
            for one in ids:
                meta = backend.fetch(one)
                if meta is None or meta.status in {states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED}:
                    backend.store([(ResultMeta(one, states.REVOKED, error), None)])
        except BackendUnavailable as problem:
            log.warning("REVOKED could not be stored for %s: %s", ", ".join(ids), problem)

    def rate_limit(
        self,
        task_name: str = "",
        rate_limit: Any = None,
        scope: str | None = None,
        by: str = "",
        epoch: int | None = None,
        **_: Any,
    ) -> Any:
        """Change a task type's limit; "declared" is what the code says. scope: worker or cluster; unset: as declared. by: who asks."""
        if scope not in {None, "worker", "cluster"}:
            return {"error": f"scope {scope!r} is neither 'worker' nor 'cluster'"}
        if not self._loop.heeds(epoch, by):
            return _outdated(epoch)
        try:
            self._loop.set_rate_limit(task_name, rate_limit, scope, by)
        except KeyError:
            return {"error": "unknown task"}
        except ValueError as error:
            return {"error": f"Invalid rate limit string: {error!r}"}
        if by:
            self._beat()
        return {"ok": "new rate limit set successfully" if rate_limit else "rate limit disabled successfully"}

    def time_limit(self, task_name: str = "", hard: float | None = None, soft: float | None = None, **_: Any) -> Any:
        """Change a task type's time limits, in seconds."""
        try:
            self._loop.intake.set_time_limits(task_name, hard=hard, soft=soft)
        except KeyError:
            return {"error": "unknown task"}
        except ValueError as error:
            return {"error": str(error)}
        return {"ok": "time limits set successfully"}

    # -- the pool

    def pool_grow(self, n: int = 1, **_: Any) -> Any:
        """Run n more bodies at once."""
        return self._resize(int(n), "pool will grow")

    def pool_shrink(self, n: int = 1, **_: Any) -> Any:
        """Run n bodies fewer at once; what runs is not cut off."""
        return self._resize(-int(n), "pool will shrink")

    def _resize(self, by: int, said: str) -> Any:
        if self._pool.size + by < 1:
            return {
                "error": f"the pool has {self._pool.size} slot(s) and needs at least one; use drain to stop claiming"
            }
        try:
            self._loop.in_loop(lambda: self._pool.resize(self._pool.size + by))
        except CeleriacError as error:
            return {"error": str(error)}
        return {"ok": said}

    def pool_restart(self, **_: Any) -> Any:
        """Not here: say what to do instead."""
        return {
            "error": "ValueError('Pool restarts not enabled'): roll the Deployment out again, or restart the worker"
        }

    def autoscale(self, max: int | None = None, min: int | None = None, **_: Any) -> Any:
        """Change the bounds of --autoscale."""
        scaler = self._loop.autoscaler
        if scaler is None:
            return {"error": "ValueError('Autoscale not enabled')"}
        most, least = scaler.most if max is None else int(max), scaler.least if min is None else int(min)
        try:
            scaler.bound(most=most, least=least)
        except ImproperlyConfigured as error:
            return {"error": str(error)}
        return {"ok": f"autoscale now max={most} min={least}"}

    # -- queues

    def add_consumer(self, queue: str = "", **_: Any) -> Any:
        """Consume one more queue."""
        if not queue:
            return {"error": "name the queue"}
        if queue in self._loop.queues:
            return {"ok": f"already consuming from {queue!r}"}
        self._loop.set_queues([*self._loop.queues, queue])
        return {"ok": f"add consumer {queue}"}

    def cancel_consumer(self, queue: str = "", **_: Any) -> Any:
        """Consume one queue less."""
        left = [name for name in self._loop.queues if name != queue]
        if not left:
            return {"error": f"{queue!r} is the only queue; use drain to stop claiming"}
        self._loop.set_queues(left)
        return {"ok": f"no longer consuming from {queue}"}

    # -- the worker

    def shutdown(self, epoch: int | None = None, **_: Any) -> Any:
        """End, as SIGTERM does."""
        if not self._loop.heeds(epoch):
            return _outdated(epoch)
        self._loop.stop()
        return {"ok": "shutting down"}

    def drain(self, id: str = "by-hand", epoch: int = 0, ttl_s: float = 60.0, **_: Any) -> Any:
        """Stop claiming, give back, finish, turn not ready; until the mark expires or is lifted."""
        heeded = self._loop.heard_drain(mark=id, epoch=epoch, ttl_s=ttl_s)
        self._beat()
        return {"ok": self._loop.state} if heeded else _outdated(epoch)

    def undrain(self, epoch: int = 0, **_: Any) -> Any:
        """Claim again."""
        heeded = self._loop.heard_undrain(epoch=epoch)
        self._beat()
        return {"ok": self._loop.state} if heeded else _outdated(epoch)

    def hello(self, from_node: str = "", revoked: Any = None, incarnation: str = "", **_: Any) -> Any:
        """What a worker that starts wants to know of the others; and they learn what it has revoked."""
        if from_node == self._loop.hostname:
            # A namesake's question (Celery's say nothing more), or our own.
            return {"incarnation": self._incarnation} if incarnation not in {"", self._incarnation} else None
        if revoked:
            self._loop.intake.hear_revoked(_listed(list(revoked)))
        rates = {task: list(rate) for task, rate in self._loop.intake.set_rates().items() if rate.by}
        return {"revoked": list(self._loop.intake.revoked), "clock": self._clock.forward(), "rates": rates}

    def election(self, **_: Any) -> Any:
        """Nothing: our workers elect nobody."""

    # -- events

    def heartbeat(self, **_: Any) -> Any:
        """Send a heartbeat now."""
        self._beat()

    def enable_events(self, **_: Any) -> Any:
        """Send task events."""
        was, self._events.enabled = self._events.enabled, True
        return {"ok": "task events already enabled" if was else "task events enabled"}

    def disable_events(self, **_: Any) -> Any:
        """Send no more task events."""
        was, self._events.enabled = self._events.enabled, False
        return {"ok": "task events disabled" if was else "task events already disabled"}


def _outdated(epoch: int | None) -> dict[str, str]:
    return {"error": f"epoch {epoch} is older than the last leader's"}


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple | set | frozenset) else [str(value)]


def _stamped(stamps: Any, wanted: Mapping[str, list[str]]) -> bool:
    """Whether a message's stamps have any of the wanted values under the same name."""
    if not isinstance(stamps, Mapping):
        return False
    return any(set(_listed(stamps.get(name))) & set(values) for name, values in wanted.items())


def _number_of(signal: Any) -> int:
    """15 out of TERM, SIGTERM, 15 or nothing. Raises ValueError."""
    if signal is None:
        return int(signals_of_os.SIGTERM)
    if isinstance(signal, int):
        return int(signals_of_os.Signals(signal))
    name = str(signal).upper()
    try:
        return int(signals_of_os.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise ValueError(f"there is no signal {signal!r}; use a name such as TERM or SIGKILL") from None
