"""`celeriac-operator simulate`, as it is typed: where the load comes from, and what is printed, written and refused."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result
from missing import program
from processes import Child, wait_until
from servers import free_port

from celeriac_operator.cli import cli
from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.described import read_scenario
from celeriac_operator.simulate.load import Counts, Recorded, draw
from celeriac_operator.simulate.prometheus import query_prometheus
from celeriac_operator.simulate.recorded import read_csv

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

KEDA = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: mailer}
spec:
  scaleTargetRef: {name: mailer}
  triggers: [{type: rabbitmq, metadata: {queueName: mails, hostFromEnv: BROKER_URL, value: "20"}}]
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
    tasks = len(draw(read_scenario(small).loads[0], 1200, Random("1 queue mails")).due_at)
    lines = done.output.splitlines()
    assert lines[0] == f"small: Small (20 min, {tasks:,} tasks, 1 seed, objective: mails 30 s)"
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
    assert found["rows"][0]["podHours"] == pytest.approx(sum(run["podHours"] for run in ours) / 3)
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
    assert found["rows"][0]["podHours"] <= 20 / 60
    assert found["runs"][1]["keda"]["maxReplicaCount"] == 1


def test_the_pool_of_a_manifest_is_simulated(small: Path, tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)

    done = simulate("--describe", small, "--pool", tmp_path / "pool.yaml", "--json")

    (found,) = json.loads(done.output)
    assert found["objectiveSeconds"] == {"mails": 7.0}
    assert found["runs"][1]["keda"]["maxReplicaCount"] == 3


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("mode: DryRun", "note: mode DryRun is simulated as Active"),
        ("mode: Paused", "note: mode Paused is simulated as Active"),
        ("replicas: 0", "note: replicas 0, the manual override, is passed over"),
        ("rateLimits: [{task: a, rate: 1/m}]", "note: rateLimits are passed over"),
    ],
)
def test_a_pool_is_simulated_as_if_it_acted_and_what_that_passes_over_is_said(
    small: Path, tmp_path: Path, field: str, said: str
) -> None:
    pool = tmp_path / "pool.yaml"
    pool.write_text(POOL)
    usual = simulate("--describe", small, "--pool", pool, "--keda", 5, "--json")
    pool.write_text(POOL.replace("  maxReplicas", f"  {field}\n  maxReplicas"))

    done = simulate("--describe", small, "--pool", pool, "--keda", 5, "--json")

    assert (done.exit_code, done.stdout) == (0, usual.stdout)
    assert said in done.stderr


def test_a_pool_says_what_its_pods_are_like(small: Path, tmp_path: Path) -> None:
    """One pod that is always there: ten tasks that come while it starts wait for as long as that takes."""
    small.write_text(SMALL.replace("{rate: 2}, {rate: 20, first: 5m, every: 6m, for: 1m}", "{count: 10, first: 1s}"))
    pool = tmp_path / "pool.yaml"
    pool.write_text(
        POOL.replace("  maxReplicas: 3", "  minReplicas: 1\n  maxReplicas: 1\n  concurrency: 10\n  coldStart: 100s")
    )

    waits = [
        json.loads(simulate("--describe", small, "--pool", pool, "--keda", 5, "--json", *more).stdout)[0]["rows"][0]
        for more in ((), ("--cold-start", "50s"))
    ]

    assert [row["p95Seconds"]["mails"] for row in waits] == [99.0, 49.0]


def test_one_of_several_pools_is_simulated_by_its_name(small: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.yaml"
    pool.write_text(POOL + "---\n" + POOL.replace("name: shop", "name: second").replace("seconds: 7", "seconds: 8"))
    chosen = ("--describe", small, "--pool", pool, "--keda", 5, "--json")

    assert "holds 2 WorkerPools, shop, second: say which one by --pool-name" in simulate(*chosen).output
    assert "holds no WorkerPool third, only shop, second" in simulate(*chosen, "--pool-name", "third").output
    done = simulate(*chosen, "--pool-name", "second")
    assert json.loads(done.stdout)[0]["objectiveSeconds"] == {"mails": 8.0}


def test_what_import_keda_writes_is_simulated_from_standard_input(small: Path, tmp_path: Path) -> None:
    scaled = tmp_path / "keda.yaml"
    scaled.write_text(KEDA)
    pools = CliRunner().invoke(cli, ["import", "keda", str(scaled)])

    done = CliRunner().invoke(
        cli, ["simulate", "--describe", str(small), "--pool", "-", "--keda", "5", "--json"], input=pools.stdout
    )

    assert done.exit_code == 0, done.output
    assert "mode DryRun is simulated as Active" in done.stderr
    assert json.loads(done.stdout)[0]["rows"][0]["podHours"] > 0


@pytest.mark.parametrize(
    ("objective", "shown"),
    [
        ("{type: Backlog, target: 5}", "mails 5 messages a slot, which no wait is judged by"),
        ("{type: Utilization, target: 70}", "mails 70 % busy, which no wait is judged by"),
    ],
)
def test_an_objective_that_is_no_time_is_not_met_by_a_default_of_sixty_seconds(
    small: Path, tmp_path: Path, objective: str, shown: str
) -> None:
    small.write_text(SMALL.replace("{seconds: 30}", objective))

    as_text = simulate("--describe", small, "--keda", 5)
    as_json = json.loads(simulate("--describe", small, "--keda", 5, "--json").stdout)[0]
    drawn = simulate("--describe", small, "--grid", "--plot", tmp_path / "plot.png")

    lines = as_text.output.splitlines()
    assert shown in lines[0]
    assert lines[2].split()[3:] == ["-", *lines[2].split()[4:7], "-"]
    assert "the objective is no time to be met" in lines[4]
    assert as_json["objectiveSeconds"] == {"mails": None}
    assert [(row["strain"], row["late"], row["met"]) for row in as_json["rows"]] == [(None, None, None)] * 2
    assert drawn.exit_code == 0, drawn.output


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
    "text",
    ["\ufeffat,seconds\n0,2.5\n60,1\n", "at;seconds\r\n0;2.5\r\n60;1\r\n", "At\tSeconds \n0\t2.5\n\n60\t 1\n"],
    ids=["byte-order mark", "semicolons", "tabs and spaces"],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text(text, newline="")

    assert read_csv(path, None).loads[0].shapes == (Recorded(tasks=((0.0, 2.5), (60.0, 1.0))),)


@pytest.mark.parametrize(
    ("first", "began"),
    [
        ("2026-01-06T10:00:00+01:00", "2026-01-06T09:00:00Z"),
        ("1767693600", "2026-01-06T10:00:00Z"),
        ("0", "2026-01-05T00:00:00Z"),
        ("36000", "2026-01-05T10:00:00Z"),
    ],
)
def test_a_record_is_replayed_at_its_own_time(tmp_path: Path, first: str, began: str) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text(f"at,seconds\n{first},1\n")

    done = simulate("--csv", path, "--keda", 5, "--json")

    assert json.loads(done.stdout)[0]["start"] == began


def test_a_schedule_holds_at_the_hours_of_the_record(tmp_path: Path) -> None:
    """From eight in Berlin on three pods stand by: the record begins at nine there, the next at seven."""
    (tmp_path / "pool.yaml").write_text(
        POOL.replace("  maxReplicas: 3\n", "  maxReplicas: 3\n  schedules: [{start: 0 8 * * *, end: 0 20 * * *,"
                     " timezone: Europe/Berlin, minReplicas: 3}]\n").replace("{name: other}, ", "")
    )  # fmt: skip

    def pod_hours(hour: int) -> float:
        path = tmp_path / f"at{hour}.csv"
        path.write_text(
            f"at,queue,seconds\n2026-01-06T{hour:02}:00:00+01:00,mails,1\n2026-01-06T{hour:02}:30:00+01:00,mails,1\n"
        )
        done = simulate("--csv", path, "--pool", tmp_path / "pool.yaml", "--keda", 5, "--json")
        assert "schedules hold for Celeriac" in done.stderr
        return float(json.loads(done.stdout)[0]["rows"][0]["podHours"])

    assert pod_hours(9) > 1.4  # three pods for half an hour
    assert pod_hours(7) < 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a header line with at"),
        ("when,count\n1,2\n", "needs a header line with at"),
        ("at,count\n", "and rows below it"),
        ("at,seconds\n1,two\n", "line 2: the seconds are 'two'"),
        ("at,seconds\n1,2\nyesterday,2\n", "line 3: at is 'yesterday'"),
        ("at,count\n1,2\n2,2\n9,2\n", "evenly apart"),
        ("at,count\n1,2\n2,nan\n", "line 3: the count is 'nan'"),
        ("at,count\n1,-2\n2,2\n", "line 2: the count is '-2'"),
        ("at,seconds\n1,2\n2,-0.5\n", "line 3: the seconds are '-0.5'"),
        ("at,seconds\n1,inf\n", "line 2: the seconds are 'inf'"),
        ("at,seconds\ninf,1\n", "line 2: at is 'inf'"),
        (
            "at,count\n1767225600000,5\n1767225660000,50\n",
            "line 2: at is '1767225600000': write seconds (not milliseconds)",
        ),
        ("at,seconds\n1,2\n2\n", "line 3: it has 1 columns, the header has 2: at, seconds"),
        ("at,seconds\n1,2,3\n", "line 2: it has 3 columns"),
        ("at;seconds\n1;0,5\n", "line 2: the seconds are '0,5': write a number such as 0.5"),
        ("at,count,seconds\n1,2,3\n", "both count and seconds"),
        ("at,count\n0,2\n86400000,2\n", "takes 2000 days; what can be simulated is up to 31"),
        ("at,count\n0,1e7\n60,1e7\n", "has some 20,000,000 tasks; what can be simulated is up to 10,000,000"),
        ("at,count\n0,0\n60,0\n", "no task arrives within 2 min"),
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
    assert "line " not in said or str(path) in done.output


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
    for query, said in (
        ("absent_metric", "knows nothing of the query"),
        ("sum(", "parse error: unclosed left parenthesis"),
    ):
        with pytest.raises(SetupError, match=said):
            query_prometheus(prometheus, query, end_at=1_767_600_000.0, since_s=600, step_s=60, service_s=1.0)


def test_a_prometheus_that_is_not_there_is_named() -> None:
    done = simulate("--prometheus", "http://127.0.0.1:9", "--query", "up", "--service-time", "1s")

    assert done.exit_code == 1
    assert "Prometheus at http://127.0.0.1:9 did not answer" in done.output


def test_a_counter_that_is_taken_for_a_rate_is_said(prometheus: str) -> None:
    notes = {
        query: query_prometheus(prometheus, query, end_at=1_767_600_000.0, since_s=600, step_s=60, service_s=1.0).notes
        for query in ("floor(vector(time() / 60)) - 29459980", "vector(time() / 7e8)", "vector(3)")
    }

    assert ["should it be rate(...[5m])?" in "".join(said) for said in notes.values()] == [True, False, False]


def test_a_load_that_nobody_has_is_refused_with_its_number_of_tasks(prometheus: str) -> None:
    done = simulate("--prometheus", prometheus, "--query", "time()", "--since", "10m", "--service-time", "1s")

    assert done.exit_code == 1
    assert " tasks; what can be simulated is up to 10,000,000" in done.output


class _Gate(BaseHTTPRequestHandler):
    """A Prometheus behind Basic auth or a bearer token, which knows of a queue whom it lets in."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] in ("Basic " + b64encode(b"me:p@ss/word").decode(), "Bearer ey.token")
        body = (
            b'{"data": {"result": [{"metric": {}, "values": [[1767599700, "3"]]}]}}'
            if known
            else b"<h1>Who\n are you?</h1>"
        )
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


def test_a_token_is_read_from_a_file_and_refusals_are_shown(gate: int, tmp_path: Path) -> None:
    token = tmp_path / "token"
    asked = ("--prometheus", f"http://127.0.0.1:{gate}", "--query", "up", "--service-time", "1s", "--token-file", token)

    done = {}
    for text in ("ey.token\n", "ey.other", "", "two\nlines"):
        token.write_text(text)
        done[text] = simulate(*asked, "--keda", 5)

    assert done["ey.other"].exit_code == 1
    assert "refused the query 'up': HTTP 401, <h1>Who are you?</h1>" in done["ey.other"].output
    assert "ey.other" not in done["ey.other"].output
    assert f"{token} holds no token" in done[""].output
    assert f"{token} holds no token" in done["two\nlines"].output
    # Let in: the one value is older than what was asked for.
    assert "no task arrives within 1 d" in done["ey.token\n"].output


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
        (("--scenario", "A", "--seeds", "1-1001"), "more than 1000 seeds"),
        (("--scenario", "A", "--seeds", "1-99999999999999999999"), "more than 1000 seeds"),
        (("--scenario", "A", "--since", "soon"), "not a duration"),
        (("--scenario", "A", "--min", "60"), "minReplicas is 60, above maxReplicas 50"),
        (("--prometheus", "http://localhost"), "need each other"),
        (("--scenario", "A", "--keda", "0"), "is no target value"),
        (("--scenario", "A", "--keda", "-5"), "is no target value"),
        (("--scenario", "A", "--keda", "nan"), "is no target value"),
        (("--prometheus", "http://localhost", "--query", "up", "--step", "0s"), "a step of 0 s"),
        (("--prometheus", "http://localhost", "--query", "up", "--since", "1m", "--step", "2m"), "a step of 120 s"),
        (("--prometheus", "http://localhost", "--query", "up", "--since", "2d", "--step", "5s"), "gives 11,000: give --step 16s"),
        (("--prometheus", "http://localhost", "--query", "up", "--since", "40d"), "longer than 31 days"),
        (("--scenario", "A", "--plot", "/nonexistent/x.png"), "cannot write /nonexistent/x.png"),
        (("--scenario", "A", "--plot", "x.svg"), "x.svg must end in .png"),
        (("--scenario", "A", "--pool-name", "x"), "--pool-name needs --pool"),
        (("--scenario", "A", "--max", "10000", "--slots", "100"), "are 1,000,000 slots; what can be simulated is up to 100,000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = simulate(*arguments)

    assert done.exit_code in (1, 2)
    assert said in done.output


def test_a_pool_that_does_not_consume_the_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)

    done = simulate("--scenario", "A", "--pool", tmp_path / "pool.yaml")

    assert "the pool consumes other, mails, but the load is on tasks" in done.output
