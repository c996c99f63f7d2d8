"""celeriac check-tasks: what clients and workers know, against a real worker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celeriac.cli.check import compared


@pytest.mark.parametrize(
    ("here", "known", "only_here", "only_there", "some"),
    [
        pytest.param({"a"}, {"w1": {"a"}}, [], {}, {}, id="the same"),
        pytest.param({"a", "b"}, {"w1": {"a"}}, ["b"], {}, {}, id="new here"),
        pytest.param({"a"}, {"w1": {"a", "b"}, "w2": {"a", "b"}}, [], {"b": ["w1", "w2"]}, {}, id="gone here"),
        pytest.param({"a"}, {"w1": {"a"}, "w2": set()}, [], {}, {"a": ["w2"]}, id="an older worker is among them"),
    ],
)
def test_the_difference_is_told_by_name_and_worker(
    here: set[str], known: dict[str, set[str]], only_here: list[str], only_there: Any, some: Any
) -> None:
    assert compared(here, known) == {"only_here": only_here, "only_there": only_there, "unknown_to_some": some}


def _check(folder: Path, broker: str, app: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "celeriac", "-A", app, "-b", broker, "check-tasks", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_a_deployment_can_ask_before_it_sends(site: Any, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from celeriac import Celeriac\napp = Celeriac('shop')\n"
        "for name in ('jobs.add', 'shop.new'):\n    app.task(lambda x, y: x + y, name=name)\n"
    )
    assert _check(tmp_path, site.broker, "shop").returncode == 69

    site.worker("-P", "solo")
    found = _check(tmp_path, site.broker, "shop", "--json")

    assert found.returncode == 1
    said = json.loads(found.stdout)
    assert said["only_here"] == ["shop.new"]
    assert "jobs.add" not in said["only_there"]
    assert "shop.new: no worker knows it" in _check(tmp_path, site.broker, "shop").stdout
