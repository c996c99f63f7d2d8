"""What 1,000 pools cost the operator: `python -m bench.operator_scale` prints CPU, memory, API writes and start-up, without scrapes and with.

A real operator process (`celeriac-operator run --ha`) against a Kubernetes API in another process, and a real Redis with as
many databases as there are brokers. It runs as its image has it in a pod: by a service account, over TLS, without the
`kubernetes` package. A third process speaks for the workers: a heartbeat of each every few seconds, with totals
that grow as steady traffic makes them grow, and messages that come and go in the queues. CPU is what the operator's process used
by the kernel's account, so that the load of the machine plays little part.
"""

import argparse
import base64
import gzip
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

#: Runs a second of each worker, and seconds of each: constant traffic that the least replicas, which are all there are, can take.
RATE_PER_S, RUN_S = 3.0, 0.1
TOKEN = "of-the-operator"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=1000)
    parser.add_argument("--brokers", type=int, default=20)
    parser.add_argument("--workers", type=int, default=3, help="workers a pool")
    parser.add_argument("--heartbeat", type=float, default=5.0, help="seconds between two heartbeats of a worker")
    parser.add_argument(
        "--warm-up", type=float, default=400.0, help="seconds before the measurement: until rates have been learnt"
    )
    parser.add_argument(
        "--measure", type=float, default=60.0, help="seconds of the measurement, without scrapes and then with"
    )
    parser.add_argument("--scrape-every", type=float, default=15.0, help="seconds between two scrapes")
    parser.add_argument("--role", choices=("api", "workers"), help=argparse.SUPPRESS)
    parser.add_argument("--redis-port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.role:
        case "api":
            serve_api(options)
        case "workers":
            speak_for_workers(options)
        case _:
            print(json.dumps(measure(options), indent=2))


def names(options: argparse.Namespace) -> list[tuple[str, int]]:
    """(pool, database of its broker) of all."""
    return [(f"pool-{n:04d}", n % options.brokers) for n in range(options.pools)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from pods import variables
    from servers import RedisServer, free_port

    redis = RedisServer(lasting=False, databases=options.brokers)
    options.directory = directory = Path(tempfile.mkdtemp(prefix="celeriac-scale-"))
    children: list[subprocess.Popen[str]] = []
    try:
        redis.start()
        options.redis_port = redis.port
        api = _child("api", options)
        children.append(api)
        port = _ask(api, "")["port"]
        workers = _child("workers", options)
        children.append(workers)
        _ask(workers, "")
        began = time.monotonic()
        http_port = free_port()
        operator = _operator(options, variables(port), directory / "operator.log", port=http_port)
        children.append(operator)
        while (found := _ask(api, "count"))["statuses"] < options.pools:
            if operator.poll() is not None or time.monotonic() - began > 300:
                raise SystemExit(f"{found}; the operator's log:\n{(directory / 'operator.log').read_text()[-3000:]}")
            time.sleep(0.5)
        started_s = time.monotonic() - began
        print(f"operator {operator.pid} serves {options.pools} pools after {started_s:.1f} s", file=sys.stderr)
        time.sleep(options.warm_up)
        before, cpu_s, at = _ask(api, "count"), _cpu_s(operator.pid), time.monotonic()
        time.sleep(options.measure)
        after, used_s, took_s = _ask(api, "count"), _cpu_s(operator.pid) - cpu_s, time.monotonic() - at
        rss_mb = _rss_mb(operator.pid)
        scraped = _scraped(operator.pid, http_port, for_s=options.measure, every_s=options.scrape_every)
        ending = time.monotonic()
        operator.terminate()
        try:
            operator.wait(timeout=30)  # the grace of the chart
            ended = f"{time.monotonic() - ending:.1f}"
        except subprocess.TimeoutExpired:
            ended = "not within its grace of 30 s"
        writes = {path: n - before["writes"].get(path, 0) for path, n in after["writes"].items()}
        return {
            "operator": "as in a pod: service account, TLS, no kubernetes package",
            "pools": options.pools,
            "brokers": options.brokers,
            "workers": options.pools * options.workers,
            "heartbeats_per_s": round(options.pools * options.workers / options.heartbeat),
            "startup_s": round(started_s, 1),
            "cpu_cores": round(used_s / took_s, 4),
            "rss_mb": rss_mb,
            **scraped,
            "end_s": ended,
            "writes_while_measured": {path: n for path, n in writes.items() if n},
            "writes_in_all": after["writes"],
            "load_average": os.getloadavg()[0],
        }
    finally:
        for child in children:
            child.kill()
            child.wait()
        redis.close()
        shutil.rmtree(directory, ignore_errors=True)


def serve_api(options: argparse.Namespace) -> None:
    """The Kubernetes API with every pool, its Deployment, ReplicaSet and pods; answers `count` on stdin."""
    from apiserver import ApiServer
    from objects import deployment, pod, replica_set, worker_pool
    from pods import mount, server_identity, server_tls

    identity = server_identity(options.directory)
    mount(_account(options), identity, token=TOKEN)
    with ApiServer(tls=server_tls(identity)) as api:
        api.token = TOKEN
        api.bookmark_s = 30.0
        for database in range(options.brokers):
            url = f"redis://127.0.0.1:{options.redis_port}/{database}"
            api.put("secrets", {"metadata": {"name": f"broker-{database}"}, "data": {"url": _base64(url)}})
        for name, database in names(options):
            owner = api.put("deployments", deployment(name, replicas=options.workers, ready=options.workers))
            between = api.put("replicasets", replica_set(f"{name}-r1", owner=owner, replicas=options.workers))
            for number in range(options.workers):
                api.put("pods", pod(f"{name}-r1-{number}", owner=between))
            secret = {"name": f"broker-{database}", "key": "url"}
            api.put(
                "workerpools",
                worker_pool(
                    name,
                    target=name,
                    queues=[{"name": name}],
                    broker={"urlFrom": {"secretKeyRef": secret}},
                    minReplicas=options.workers,
                ),
            )
        _say({"port": api.port})
        for _ in sys.stdin:
            sent = [(method, path) for method, path, _ in list(api.requests) if method != "GET"]
            writes: dict[str, int] = {}
            for method, path in sent:
                kind = f"{method} {_kind(path)}"
                writes[kind] = writes.get(kind, 0) + 1
            decided = {path for _, path in sent if path.endswith("/status")}
            _say({"statuses": len(decided), "writes": writes})


def speak_for_workers(options: argparse.Namespace) -> None:
    """Heartbeats of every worker, spread evenly over the interval, and messages that come and go; until stdin ends."""
    import redis

    from celeriac.broker.connection import BrokerAddress, connect
    from celeriac.broker.eventbus import EventSender
    from celeriac.wire.event import Heartbeat, QueueTotals, TaskTotals, glance_to_wire, heartbeat_to_wire

    url = f"redis://127.0.0.1:{options.redis_port}"
    senders = [EventSender(connect(BrokerAddress(url=f"{url}/{n}"))) for n in range(options.brokers)]
    clients = [redis.Redis.from_url(f"{url}/{n}") for n in range(options.brokers)]
    everybody = [(pool, database, number) for pool, database in names(options) for number in range(options.workers)]
    chance, born_at = random.Random(1), time.time()

    def speak() -> None:
        for turn in range(10**9):
            for place, (pool, database, number) in enumerate(everybody):
                due_at = born_at + (turn + place / len(everybody)) * options.heartbeat
                if (wait_s := due_at - time.time()) > 0:
                    time.sleep(wait_s)
                now = time.time()
                runs = int((now - born_at) * RATE_PER_S)
                totals = QueueTotals(
                    received=runs, started=runs, succeeded=runs, busy_s=runs * RUN_S, wait_s=runs * 0.06, waits=runs
                )
                waits = (runs - runs // 2, runs // 2 - runs // 4, runs // 4 - runs // 8, runs // 8)
                task = TaskTotals(queue=pool, started=runs, succeeded=runs, run_s=runs * RUN_S)
                name = f"{pool}-r1-{number}"
                beat = Heartbeat(
                    hostname=f"celeriac@{name}", timestamp=now, freq=options.heartbeat, incarnation=name, namespace="shop",
                    pod=name, slots=1, busy=int(chance.random() < RATE_PER_S * RUN_S), queues=(pool,), started_at=born_at,
                    queue_totals={pool: totals}, queue_waits={pool: waits},
                    task_totals={"shop.mail": task, "shop.bill": task},
                )  # fmt: skip
                senders[database].send(heartbeat_to_wire(beat), glance_to_wire(beat))
                if number == 0:  # two messages wait at the most
                    with clients[database].pipeline(transaction=False) as pipe:
                        pipe.delete(pool)
                        if waiting := chance.randrange(3):
                            pipe.lpush(pool, *["{}"] * waiting)
                        pipe.execute()

    threading.Thread(target=speak, daemon=True).start()
    _say({})
    sys.stdin.read()


def _operator(
    options: argparse.Namespace, variables: dict[str, str], log: Path, *, port: int
) -> "subprocess.Popen[str]":
    from pods import OPERATOR

    run = ["run", "--ha", "--http-host", "127.0.0.1", "--http-port", str(port)]
    tuned = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}  # as the chart sets them
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-c", OPERATOR, str(_account(options)), *run],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **variables, **tuned},
        )


def _account(options: argparse.Namespace) -> Path:
    """The service account's folder, as the operator finds it mounted."""
    found: Path = options.directory / "account"
    return found


def _child(role: str, options: argparse.Namespace) -> "subprocess.Popen[str]":
    flags = [f"--{name}={getattr(options, name)}" for name in ("pools", "brokers", "workers", "heartbeat")]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.operator_scale", "--role", role, *flags, f"--redis-port={options.redis_port}",
         f"--directory={options.directory}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def _ask(child: "subprocess.Popen[str]", question: str) -> Any:
    assert child.stdin and child.stdout
    if question:
        child.stdin.write(question + "\n")
        child.stdin.flush()
    return json.loads(child.stdout.readline())


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def _cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _scraped(pid: int, port: int, *, for_s: float, every_s: float) -> dict[str, Any]:
    """What it costs while a Prometheus scrapes it, which takes gzip. scrape_cpu_s: what the operator does besides in that time included."""
    began, cpu_s, costs = time.monotonic(), _cpu_s(pid), []
    first = page = ""
    while (at := time.monotonic()) < began + for_s:
        before = _cpu_s(pid)
        wanted = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            body = answer.read()
        costs.append(_cpu_s(pid) - before)
        took_s = time.monotonic() - at
        page = (gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body).decode()
        first = first or page
        time.sleep(max(0.0, every_s - took_s))
    passed_s = time.monotonic() - began
    return {
        "cpu_cores_while_scraped": round((_cpu_s(pid) - cpu_s) / passed_s, 4),
        "rss_while_scraped_mb": _rss_mb(pid),
        "scrape_cpu_s": round(statistics.median(costs), 3),
        "scrape_s": round(took_s, 3),
        "page_bytes": len(page),
        "sent_bytes": len(body),
        "ticks_over_250_ms": _slow_ticks(page) - _slow_ticks(first),
    }


def _slow_ticks(page: str) -> int:
    """How many ticks took longer than a quarter of a second, by the operator's own histogram."""

    def total(suffix: str) -> float:
        return sum(map(float, re.findall(rf"^celeriac_operator_reconcile_seconds_{suffix} (\S+)$", page, re.MULTILINE)))

    return round(total(r"count\{[^}]*\}") - total(r'bucket\{[^}]*le="0.25"\}'))


def _rss_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def _kind(path: str) -> str:
    """.../namespaces/shop/deployments/mails/scale -> deployments/scale"""
    parts = path.partition("/namespaces/")[2].split("/")[1:]
    return "/".join(parts[:1] + parts[2:])


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


if __name__ == "__main__":
    main()
