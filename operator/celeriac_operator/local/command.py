"""`celeriac up -f pool.yaml`: the operator's own loop on this machine, with processes for pods."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import click

from celeriac import __version__
from celeriac.broker.connection import redacted
from celeriac.exceptions import ImproperlyConfigured
from celeriac.telemetry.endpoint import Endpoint
from celeriac_operator import celery_exporter
from celeriac_operator.errors import SetupError
from celeriac_operator.fleet.brokers import BrokerTarget
from celeriac_operator.fleet.signature import key_files
from celeriac_operator.local.cluster import LocalCluster
from celeriac_operator.local.embedded import EmbeddedValkey
from celeriac_operator.local.guard import Guard
from celeriac_operator.local.manifest import Manifest, read_manifest
from celeriac_operator.local.processes import Processes
from celeriac_operator.local.recorder import Recorder
from celeriac_operator.local.signing import local_signature
from celeriac_operator.local.view import Enduring, View, view_for
from celeriac_operator.loop import OperatorLoop
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.resources.spec import WorkerPoolSpec

#: Seconds between two looks of the main thread, and so between two pictures.
PICTURE_S = 0.25
#: Seconds without any work, after --run has ended well, that count as "there was none".
NO_WORK_S = 15.0

EXIT_CANNOT_START = 1
EXIT_TIMEOUT = 3
EXIT_RUN_FAILED = 4
EXIT_KILLED_BUSY = 5
EXIT_INTERRUPTED = 130


@click.command()
@click.option(
    "-f", "--file", "path", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="YAML with WorkerPools, the Deployments they scale, and Secrets; the same file goes to a cluster.",
)  # fmt: skip
@click.option(
    "--run", "run", metavar="COMMAND", help="Run this in a shell once the broker is up: a producer, for example."
)
@click.option(
    "--until-idle", is_flag=True, help="End when work was seen, all of it is done, and pools stand at their minimum."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End after that many seconds, with status 3.",
)
@click.option(
    "--logs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for logs; a new temporary one by default.",
)
@click.option(
    "--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write what happened to this file, as JSON."
)
@click.option(
    "--broker-file", type=click.Path(path_type=Path, dir_okay=False), help="Write the broker's URL to this file."
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Serve the operator's /livez, /readyz and /metrics here; 0 for any free port.",
)
@click.option(
    "--celery-exporter-names", is_flag=True, envvar="CELERIAC_OPERATOR_CELERY_EXPORTER_NAMES",
    help="Tell in /metrics under celery-exporter's names, too, what is known of what they name.",
)  # fmt: skip
@click.option(
    "--signing-key", metavar="FILE", envvar="CELERIAC_OPERATOR_SIGNING_KEY",
    help="The RSA key, in PEM, that drains are signed with, where the workers demand that. [default: CELERIAC_SECURITY_KEY of the container]",
)  # fmt: skip
@click.option(
    "--signing-certificate", metavar="FILE", envvar="CELERIAC_OPERATOR_SIGNING_CERTIFICATE",
    help="That key's certificate, in PEM. [default: CELERIAC_SECURITY_CERTIFICATE of the container]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.option("--plain", is_flag=True, help="Print lines, also on a terminal.")
def up(**options: Any) -> None:
    """Run a WorkerPool and its Deployment on this machine.

    The first container's command runs as a process for each replica; the image is ignored. The broker is the one of the
    pool's Secret when the file holds it, else CELERIAC_BROKER_URL, else a Valkey of its own.

    Ctrl-C drains and stops the workers; a second one kills them.

    Exit status: 0 done, or stopped and drained; 1 cannot start; 3 --timeout came first; 4 the --run command failed;
    5 a worker was killed with a task in it; 130 interrupted twice.
    """
    try:
        status = _Session(**options).run()
    except (SetupError, ImproperlyConfigured) as error:
        click.echo(f"celeriac up: {error}", err=True)
        status = EXIT_CANNOT_START
    sys.exit(status)


class _Session:
    """One run, from top to bottom. What it starts it ends, whatever happens."""

    def __init__(
        self,
        *,
        path: Path,
        run: str | None,
        until_idle: bool,
        timeout_s: float | None,
        logs: Path | None,
        summary: Path | None,
        broker_file: Path | None,
        http_port: int | None,
        celery_exporter_names: bool,
        signing_key: str | None,
        signing_certificate: str | None,
        as_json: bool,
        plain: bool,
    ) -> None:
        self._path = path
        self._run_command = run
        self._until_idle = until_idle
        self._timeout_s = timeout_s
        self._logs = logs
        self._summary = summary
        self._broker_file = broker_file
        self._http_port = http_port
        self._also = celery_exporter.families if celery_exporter_names else None
        self._key = key_files(
            signing_key, signing_certificate, os.environ.get("CELERIAC_OPERATOR_SIGNING_KEY_PASSWORD"),
            os.environ.get("CELERIAC_OPERATOR_SIGNING_DIGEST"),
        )  # fmt: skip
        self._as_json = as_json
        self._plain = plain
        self._interrupts = 0
        self._undo = ExitStack()

    def run(self) -> int:
        """Start, watch, stop; the exit status."""
        manifest = read_manifest(self._path)
        _check_targets(manifest, self._path)
        self._check_brokers(manifest)
        self._check_summary()
        logs = self._log_directory()
        recorder = Recorder()
        view = Enduring(view_for(recorder, as_json=self._as_json, plain=self._plain), on_loss=self._interrupt)
        try:
            guard = Guard()
            guard.start()
            self._undo.callback(guard.stop)
            broker_url = self._broker(manifest, guard)
            self._write_broker_file(broker_url)
            result_url = os.environ.get("CELERIAC_RESULT_BACKEND") or _results_beside(broker_url)

            def poke() -> None:
                for pool in manifest.pools:
                    loop.poke(*pool.key)

            processes = Processes(logs=logs, guard=guard, on_change=poke)
            cluster = LocalCluster(manifest, processes, broker_url=broker_url, result_url=result_url)
            metrics = OperatorMetrics(version=__version__, also=self._also)
            signature = local_signature(self._key, cluster.environments)
            loop = OperatorLoop(
                cluster, metrics=metrics, default_broker_url=broker_url, watch=recorder.tick, signature=signature
            )
            self._endpoint(loop, metrics, view)
            self._catch_signals()
            view.start()
            self._undo.callback(view.stop)
            view.note(f"broker {redacted(broker_url)}, logs in {logs}")
            if signature.name:
                lack = signature.lack()
                view.note(f"the operator {lack.says}" if lack else f"drains are signed as {signature.name}")
            processes.start()
            self._undo.callback(processes.close)
            self._undo.callback(processes.kill)
            loop.start()
            self._undo.callback(loop.stop)
            producer = self._start_producer(
                {"CELERIAC_BROKER_URL": broker_url, "CELERIAC_RESULT_BACKEND": result_url}, logs, guard
            )
            outcome, status = self._watch(manifest, recorder, cluster, view, producer)
            status = self._wind_down(processes, cluster, recorder=recorder, loop=loop, view=view, status=status)
            story = recorder.summary(
                outcome=outcome, scaled=cluster.scaled(), happenings=cluster.happenings(), exits=processes.exits()
            )
            if status == 0 and story["pods_killed_while_busy"]:
                status = EXIT_KILLED_BUSY
            view.note(f"{outcome} after {story['seconds']:.1f} s: {_in_words(story)}")
            if self._summary is not None:
                told = {**story, "broker": redacted(broker_url), "logs": str(logs), "exit_status": status}
                self._summary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            return status
        finally:
            self._undo.close()

    # -- start

    def _log_directory(self) -> Path:
        """Where worker output and our own log go: never into the picture."""
        logs = self._logs or Path(tempfile.mkdtemp(prefix="celeriac-up-"))
        try:
            logs.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(logs / "operator.log")
        except OSError as error:
            raise SetupError(f"--logs cannot write to {logs}: {error.strerror}") from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(threadName)s: %(message)s"))
        ours = logging.getLogger("celeriac_operator")
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False
        self._undo.callback(handler.close)
        self._undo.callback(lambda: ours.removeHandler(handler))
        return logs

    def _check_brokers(self, manifest: Manifest) -> None:
        """Nothing that stands in the file or in the environment changes while we run, so a URL that none can have is told at once."""
        for url in (*_broker_urls(manifest), os.environ.get("CELERIAC_BROKER_URL", "")):
            if url:
                BrokerTarget(url=url).check()

    def _check_summary(self) -> None:
        """Told before the run, not after it."""
        folder = None if self._summary is None else self._summary.parent
        if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise SetupError(f"--summary cannot write {self._summary}: {folder} must be a folder that you may write to")

    def _write_broker_file(self, broker_url: str) -> None:
        if self._broker_file is not None:
            try:
                self._broker_file.write_text(broker_url + "\n", encoding="utf-8")
            except OSError as error:
                raise SetupError(f"--broker-file cannot write {self._broker_file}: {error.strerror}") from error

    def _broker(self, manifest: Manifest, guard: Guard) -> str:
        """The URL of the broker: the file's, the environment's, or an embedded one, which is started."""
        named = next(_broker_urls(manifest), "") or os.environ.get("CELERIAC_BROKER_URL", "")
        if named:
            return named
        embedded = EmbeddedValkey(guard)
        self._undo.callback(embedded.stop)
        embedded.start()
        return embedded.url

    def _endpoint(self, loop: OperatorLoop, metrics: OperatorMetrics, view: View) -> None:
        if self._http_port is None:
            return
        try:
            endpoint = Endpoint(
                "127.0.0.1", self._http_port, livez=loop.livez, readyz=loop.readyz, metrics=metrics.families
            )
        except ImproperlyConfigured as error:
            raise SetupError(f"--http-port {self._http_port} is not free; name another one, or 0 for any") from error
        endpoint.start()
        self._undo.callback(endpoint.stop)
        view.note(f"operator's metrics on http://127.0.0.1:{endpoint.port}/metrics")

    def _catch_signals(self) -> None:
        def interrupted(_number: int, _frame: FrameType | None) -> None:
            self._interrupt()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous = signal.signal(number, interrupted)
            self._undo.callback(lambda number=number, previous=previous: _restore(number, previous))  # type: ignore[misc]

    def _interrupt(self) -> None:
        self._interrupts += 1

    def _start_producer(self, urls: Mapping[str, str], logs: Path, guard: Guard) -> subprocess.Popen[bytes] | None:
        if self._run_command is None:
            return None
        with (logs / "run.log").open("ab") as out:
            producer = subprocess.Popen(
                self._run_command,
                shell=True,  # the user's own command line, as they would type it
                env={**os.environ, **{name: url for name, url in urls.items() if url}},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard.watch(producer.pid)
        self._undo.callback(lambda: _end(producer))
        return producer

    # -- watch

    def _watch(
        self,
        manifest: Manifest,
        recorder: Recorder,
        cluster: LocalCluster,
        view: View,
        producer: subprocess.Popen[bytes] | None,
    ) -> tuple[str, int]:
        """Show what happens until something ends it: (outcome, exit status)."""
        began = time.monotonic()
        run_ended: float | None = None
        pause = threading.Event()
        while True:
            view.show(cluster.scaled(), cluster.happenings())
            if self._interrupts:
                return "interrupted", 0
            if self._timeout_s is not None and time.monotonic() - began > self._timeout_s:
                return "timeout", EXIT_TIMEOUT
            if producer is not None and producer.poll() is not None and run_ended is None:
                run_ended = time.monotonic()
                if producer.returncode:
                    view.note(f"--run ended with status {producer.returncode}; its output is in run.log")
                    return "run failed", EXIT_RUN_FAILED
                view.note("--run has ended well")
            if self._until_idle and (producer is None or run_ended is not None) and recorder.idle(len(manifest.pools)):
                waited_s = time.monotonic() - (run_ended or began)
                if recorder.worked() or (producer is not None and waited_s > NO_WORK_S):
                    return "idle", 0
            pause.wait(PICTURE_S)

    # -- stop

    def _wind_down(
        self,
        processes: Processes,
        cluster: LocalCluster,
        *,
        recorder: Recorder,
        loop: OperatorLoop,
        view: View,
        status: int,
    ) -> int:
        """Drain and stop every worker, showing it, with the loop still listening to their last words."""
        cluster.close()
        recorder.close()
        before = self._interrupts
        done = threading.Event()

        def stop() -> None:
            processes.stop(timeout_s=float("inf"))
            done.set()

        threading.Thread(target=stop, name="stopping", daemon=True).start()
        while not done.wait(PICTURE_S):
            view.show(cluster.scaled(), cluster.happenings())
            if self._interrupts > max(before, 1):
                view.note("killing the workers")
                processes.kill()
                done.wait(5.0)
                return EXIT_INTERRUPTED
        ticked = {tick.pool.key: tick.now for tick in recorder.ticks()}
        until = time.monotonic() + 3.0
        while time.monotonic() < until and any(
            tick.now <= ticked[tick.pool.key] for tick in recorder.ticks() if tick.pool.key in ticked
        ):
            for key in ticked:
                loop.poke(*key)
            time.sleep(0.1)
        view.show(cluster.scaled(), cluster.happenings())
        return status


def _broker_urls(manifest: Manifest) -> Iterator[str]:
    """The brokers that the file's own Secrets name, pool by pool."""
    for pool in manifest.pools:
        broker = WorkerPoolSpec.parse(pool.spec).broker
        if broker is not None:
            url = manifest.secrets.get((pool.namespace, broker.url_from.name), {}).get(broker.url_from.key)
            if url is not None:
                yield url.strip()


def _check_targets(manifest: Manifest, path: Path) -> None:
    for pool in manifest.pools:
        target = WorkerPoolSpec.parse(pool.spec).target_ref
        if (pool.namespace, target.name) not in manifest.workloads:
            raise SetupError(
                f"{path}: WorkerPool {pool.namespace}/{pool.name} scales {target.kind} {target.name!r},"
                " which is not in the file"
            )


def _results_beside(broker_url: str) -> str:
    """Where results go when nobody says: into the broker when it can keep them, else nowhere."""
    return broker_url if broker_url.startswith(("redis", "valkey", "rediss")) else ""


def _restore(number: int, previous: Any) -> None:
    signal.signal(number, previous)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except ProcessLookupError:
            process.wait()


def _in_words(story: Mapping[str, Any]) -> str:
    totals = story["totals"]
    words = [f"{totals[name]} {name}" for name in ("succeeded", "failed", "retried", "redelivered") if totals[name]]
    left = sum(count for pool in story["pools"].values() for count in pool["left"].values())
    words += [f"{left} left"] if left else []
    words.append(f"peak {story['peak_replicas']} replicas")
    killed = len(story["pods_killed_while_busy"])
    words.append(f"{killed} killed with a task in it" if killed else "none killed with a task in it")
    return ", ".join(words)
