"""`celeriac-operator simulate`, as it is typed: where the load comes from, and what is printed, written and refused."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from missing import program
from processes import Child, wait_until
from servers import free_port

from celeriac_operator.cli import cli
from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.load import Counts
from celeriac_operator.simulate.recorded import query_prometheus, read_csv

SMALL = """
title: Small
duration: 20m
pods: {slots: 2, coldStart: 10s}
pool: {maxReplicas: 10, objective: {seconds: 30}}
queues:
  - name: mails
    serviceTime: {mean: 1s}
    arrivals: [{rate: 2}, {rate: 20, first: 5m, every: 6m, for: 1m}]
"""

POOL = """
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {name: shop}
spec:
  targetRef: {name: worker}
  queues: [{name: other}, {name: mails}]
  maxReplicas: 3
  objective: {seconds: 7}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  selector: {matchLabels: {app: w}}
  template:
    metadata: {labels: {app: w}}
    spec: {containers: [{name: w, image: shop, command: [celeriac, worker]}]}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["simulate", "--jobs", "1", *map(str, arguments)])


def test_a_described_load_is_compared_with_keda(small: Path) -> None:
    done = simulate("--describe", small, "--keda", 4, "--keda", 40)

    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "small: Small (0.333333 h, 1 seed, objective: mails 30 s)"
    assert [line.split("  ")[1].strip() for line in lines[2:5]] == [
        "Celeriac",
        "KEDA value 4, min 0, window 300 s",
        "KEDA value 40, min 0, window 300 s",
    ]
    assert lines[5].startswith("  2 settings of KEDA: ")


def test_json_holds_every_run_and_the_means(small: Path) -> None:
    done = simulate("--describe", small, "--keda", 4, "--seeds", "1-3", "--json")

    (found,) = json.loads(done.output)
    assert [(run["seed"], run["keda"] and run["keda"]["value"]) for run in found["runs"]] == [
        (seed, value) for seed in (1, 2, 3) for value in (None, 4.0)
    ]
    ours = [run for run in found["runs"] if run["keda"] is None]
    assert found["rows"][0]["pod_hours"] == pytest.approx(sum(run["pod_hours"] for run in ours) / 3)
    assert all(run["killed"] == 0 for run in ours)


def test_the_whole_grid_in_two_processes_is_the_same_as_in_one(small: Path) -> None:
    one, two = (
        CliRunner().invoke(cli, ["simulate", "--describe", str(small), "--grid", "--jobs", jobs, "--json"])
        for jobs in ("1", "2")
    )

    assert one.exit_code == 0, one.output
    assert json.loads(one.output) == json.loads(two.output)
    assert len(json.loads(one.output)[0]["rows"]) == 1 + 18 * 2 * 2


def test_the_command_line_stands_above_the_scenario(small: Path) -> None:
    done = simulate("--describe", small, "--keda", 4, "--max", 1, "--objective", 5, "--slots", 1, "--json")

    (found,) = json.loads(done.output)
    assert found["objectiveSeconds"] == {"mails": 5.0}
    assert found["rows"][0]["pod_hours"] <= 20 / 60
    assert found["runs"][1]["keda"]["max_replicas"] == 1


def test_the_pool_of_a_manifest_is_simulated(small: Path, tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)

    done = simulate("--describe", small, "--pool", tmp_path / "pool.yaml", "--json")

    (found,) = json.loads(done.output)
    assert found["objectiveSeconds"] == {"mails": 7.0}
    assert found["runs"][1]["keda"]["max_replicas"] == 3


def test_a_plot_is_written(small: Path, tmp_path: Path) -> None:
    done = simulate("--describe", small, "--grid", "--plot", tmp_path / "plot.png")

    assert done.exit_code == 0, done.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_without_matplotlib_a_plot_says_what_to_install(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)

    done = simulate("--describe", small, "--plot", "plot.png")

    assert done.exit_code == 1
    assert "install celeriac[simulate]" in done.output


# ── CSV ──


def test_recorded_tasks_are_replayed_with_their_run_times(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("at,queue,seconds\n" + "".join(f"{1000 + n},mails,2.5\n" for n in range(300)))

    done = simulate("--csv", path, "--max", 5, "--slots", 1, "--keda", 3, "--json")

    (found,) = json.loads(done.output)
    assert found["durationSeconds"] == 299 + 60
    assert found["objectiveSeconds"] == {"mails": 60.0}
    assert found["runs"][0]["unstarted"] == 0


def test_recorded_counts_are_spread_over_their_spans(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("at,count\n2026-01-05T10:00:00,30\n2026-01-05T10:01:00,600\n2026-01-05T10:02:00Z,0\n")

    record = read_csv(path, service_s=0.5)

    assert record.loads[0].shapes == (Counts(counts=(30, 600, 0), span_s=60),)
    assert (record.duration_s, record.unknown) == (180, ("tasks",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when,count\n1,2\n", "needs a header line with at"),
        ("at,count\n", "and rows below it"),
        ("at,seconds\n1,two\n", "line 2: could not convert string to float: 'two'"),
        ("at,seconds\n1,2\nyesterday,2\n", "line 3: Invalid isoformat string: 'yesterday'"),
        ("at,count\n1,2\n2,2\n9,2\n", "evenly apart"),
        ("at,count\n1,2\n2,nan\n", "line 3: the count is nan"),
        ("at,count\n1,-2\n2,2\n", "line 2: the count is -2"),
        ("at,seconds\n1,2\n2,-0.5\n", "line 3: the seconds are -0.5"),
        ("at,seconds\n1,inf\n", "line 2: the seconds are inf"),
        ("at,seconds\ninf,1\n", "line 2: at is inf"),
        ("at\n1\n", "give --service-time"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_wrong_with_a_csv_file_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "load.csv"
    path.write_text(text)

    done = simulate("--csv", path, *(() if "service" in said else ("--service-time", "1s")))

    assert done.exit_code == 1
    assert said in done.output
    assert "line" not in said or str(path) in done.output


# ── Prometheus ──


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scrapes nothing: it knows what a query itself says."""
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (directory / "prometheus.yaml").write_text("global: {}\n")
    child = Child(
        [
            program("prometheus", "prometheus"),
            f"--config.file={directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        log=directory / "prometheus.log",
    )
    try:
        wait_until(lambda: "Server is ready" in child.text(), what="Prometheus", timeout_s=30)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate(timeout_s=30)


def test_rates_are_queried_by_queue(prometheus: str) -> None:
    query = 'label_replace(vector(2), "queue", "mails", "", "") or label_replace(vector(5), "queue", "reports", "", "")'

    record = query_prometheus(prometheus, query, end_at=1_767_600_000.0, since_s=600, step_s=60, service_s=1.0)

    assert [(load.name, load.shapes) for load in record.loads] == [
        ("mails", (Counts(counts=(120,) * 10, span_s=60),)),
        ("reports", (Counts(counts=(300,) * 10, span_s=60),)),
    ]


def test_a_queried_load_is_simulated(prometheus: str) -> None:
    done = simulate(
        "--prometheus", prometheus, "--query", "vector(3)", "--since", "10m", "--service-time", "200ms", "--json"
    )  # fmt: skip

    (found,) = json.loads(done.output)
    assert found["durationSeconds"] == 600
    assert found["runs"][0]["unstarted"] == 0


def test_a_query_that_finds_nothing_or_is_wrong_says_so(prometheus: str) -> None:
    for query, said in (("absent_metric", "knows nothing of the query"), ("sum(", "did not answer the query")):
        with pytest.raises(SetupError, match=said):
            query_prometheus(prometheus, query, end_at=1_767_600_000.0, since_s=600, step_s=60, service_s=1.0)


def test_a_prometheus_that_is_not_there_is_named() -> None:
    done = simulate("--prometheus", "http://127.0.0.1:9", "--query", "up", "--service-time", "1s")

    assert done.exit_code == 1
    assert "Prometheus at http://127.0.0.1:9 did not answer" in done.output


class _Gate(BaseHTTPRequestHandler):
    """A Prometheus behind Basic auth, which knows of a queue whom it lets in."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Basic " + b64encode(b"me:p@ss/word").decode()
        body = b'{"data": {"result": [{"metric": {}, "values": [[1767599700, "3"]]}]}}' if known else b""
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def gate() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Gate) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


def test_user_and_password_of_the_url_are_basic_auth(gate: int) -> None:
    url = f"http://me:p%40ss%2Fword@127.0.0.1:{gate}"
    record = query_prometheus(url, "up", end_at=1_767_600_000.0, since_s=600, step_s=60, service_s=1.0)
    (shape,) = record.loads[0].shapes
    assert isinstance(shape, Counts)
    assert sum(shape.counts) == 180


@pytest.mark.parametrize("scheme", ["http", "amqp"])
def test_no_error_shows_the_password_of_the_url(gate: int, scheme: str) -> None:
    url = f"{scheme}://me:hunter2@127.0.0.1:{gate}"
    done = simulate("--prometheus", url, "--query", "up", "--service-time", "1s")

    assert done.exit_code == 1, done.exception
    assert f"{scheme}://me:**@127.0.0.1:{gate}" in done.output
    assert "hunter2" not in done.output


# ── what is refused ──


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one of --scenario"),
        (("--scenario", "A", "--csv", "pyproject.toml"), "give one of --scenario"),
        (("--scenario", "Z"), "there is no scenario z; there are a, b, c"),
        (("--scenario", "A", "--seeds", "one"), "neither a number"),
        (("--scenario", "A", "--since", "soon"), "not a duration"),
        (("--scenario", "A", "--min", "60"), "minReplicas is 60, above maxReplicas 50"),
        (("--prometheus", "http://localhost"), "need each other"),
        (("--scenario", "A", "--keda", "0"), "is no target value"),
        (("--scenario", "A", "--keda", "-5"), "is no target value"),
        (("--scenario", "A", "--keda", "nan"), "is no target value"),
        (("--prometheus", "http://localhost", "--query", "up", "--step", "0s"), "a step of 0 s"),
        (("--prometheus", "http://localhost", "--query", "up", "--since", "1m", "--step", "2m"), "a step of 120 s"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = simulate(*arguments)

    assert done.exit_code in (1, 2)
    assert said in done.output


def test_a_pool_that_does_not_consume_the_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)

    done = simulate("--scenario", "A", "--pool", tmp_path / "pool.yaml")

    assert "the pool consumes other, mails, but the load is on tasks" in done.output
