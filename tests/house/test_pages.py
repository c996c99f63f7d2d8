"""What README and docs/getting-started.md tell a reader to type, typed."""

import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
import yaml
from processes import Child, wait_until
from servers import ValkeyServer

from celeriac import Celeriac
from celeriac_operator.local.manifest import read_manifest
from celeriac_operator.resources.spec import WorkerPoolSpec

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
STARTED = (ROOT / "docs" / "getting-started.md").read_text()
CELERIAC = Path(sys.executable).with_name("celeriac")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the two files of getting started."""
    (tmp_path / "shop.py").write_text(blocks(STARTED, "python")[0])
    (tmp_path / "pool.yaml").write_text(blocks(STARTED, "yaml")[0])
    return tmp_path


def urls(server: ValkeyServer) -> dict[str, str | None]:
    return {"CELERIAC_BROKER_URL": server.url, "CELERIAC_RESULT_BACKEND": server.url}


def run(command: list[str], folder: Path, env: dict[str, str | None]) -> str:
    child = Child(command, log=folder / f"{command[1]}.log", cwd=folder, env=env)
    assert child.wait() == 0, child.text()
    return child.text().strip()


def test_the_code_of_the_readme_defines_the_tasks_it_speaks_of() -> None:
    class Gateway:
        def charge(self, order_id: int) -> str:
            return f"charged {order_id}"

    names = {"gateway": Gateway(), "GatewayBusy": ConnectionError, "__name__": "shop"}

    exec(blocks(README, "python")[0], names)

    app = names["app"]
    assert isinstance(app, Celeriac)
    assert {"shop.charge", "shop.send_receipt"} <= set(app.tasks)
    assert names["charge"](42) == "charged 42"


def test_the_pool_of_the_readme_is_what_it_says() -> None:
    pool = yaml.safe_load(blocks(README, "yaml")[0])

    spec = WorkerPoolSpec.parse(pool["spec"])

    assert len(blocks(README, "yaml")[0].splitlines()) <= 10
    assert (spec.max_replicas, spec.objective.seconds) == (20, 30)


def test_the_commands_of_getting_started_do_what_is_written_beside_them(
    shop: Path, valkey_server: ValkeyServer
) -> None:
    env = urls(valkey_server)
    typed = [shlex.split(line, comments=True) for line in blocks(STARTED, "sh")[1].splitlines() if "worker" in line]
    calls = [shlex.split(line, comments=True) for line in blocks(STARTED, "sh")[2].splitlines()]
    worker = Child([CELERIAC, *typed[0][1:]], log=shop / "worker.log", cwd=shop, env=env)
    worker.wait_for("ready")

    task_id = run([str(CELERIAC), *calls[0][1:]], shop, env)
    wait_until(lambda: "succeeded" in worker.text())
    result = run([str(CELERIAC), *calls[1][1:-1], task_id], shop, env)
    pong = run([str(CELERIAC), *calls[2][1:]], shop, env)

    assert result.endswith("order 42 is packed")
    assert "pong" in pong
    assert worker.terminate() == 0


@pytest.mark.slow
def test_the_pool_of_getting_started_starts_workers_when_there_is_work(shop: Path, valkey_server: ValkeyServer) -> None:
    env = urls(valkey_server)
    up = Child([CELERIAC, "up", "-f", "pool.yaml", "--logs", "logs"], log=shop / "up.log", cwd=shop, env=env)
    up.wait_for("0 of 0 replicas")

    submit = "from shop import pack\nprint([r.get(timeout=60) for r in [pack.delay(n) for n in range(40)]][-1])"
    said = run([sys.executable, "-c", submit], shop, env)

    assert said == "order 39 is packed"
    assert "0 -> " in up.text()
    up.send(signal.SIGINT)
    assert up.wait(timeout_s=60) == 0, up.text()


def test_the_indexers_pool_can_be_read_as_it_stands() -> None:
    manifest = read_manifest(ROOT / "examples" / "indexer" / "pool.yaml")

    assert [pool.name for pool in manifest.pools] == ["indexer"]
